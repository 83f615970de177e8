# Everything that is done with this checkout; `make help` lists it.
PYTHON ?= python3
VENV := .venv/bin
TORCH ?=
BAG ?=
BUNDLE ?=
MINUTES ?= 30

# A Python of another virtual environment with ROS wheels leaves this set, and ours would then skip its own set-up.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help setup extras demo demo-real test fuzz soak lint docs bench gpu accuracy train lock clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

setup: ## make .venv ready; TORCH=cpu for torch without CUDA, TORCH=auto to look for a GPU (done by the others)
	@command -v $(PYTHON) >/dev/null || { echo "setup: missing $(PYTHON); install with: sudo apt install python3"; exit 1; }
	@TORCH=$(TORCH) $(PYTHON) tools/setup.py

extras: setup ## install what `replay --ray` and `--live` need too (ray, foxglove-sdk, rerun-sdk)
	@$(VENV)/uv pip install --quiet --python $(VENV)/python --no-deps --require-hashes -r requirements/extras.txt

demo: setup ## ten seconds of simulated drive through real topics; leaves out/demo
	@$(VENV)/perception-rt demo --out out/demo

demo-real: setup ## replay a rosbag2 through the graph: make demo-real BAG=folder BUNDLE=file
	@$(if $(and $(BAG),$(BUNDLE)),,echo "usage: make demo-real BAG=<rosbag2> BUNDLE=<bundle>"; exit 2)
	@$(VENV)/perception-rt demo --bag "$(BAG)" --bundle "$(BUNDLE)" --out out/demo-real

# A worker that is replaced leaves the rest of its file to nobody, and xdist then waits for ever.
TESTS := $(VENV)/python -m pytest -n 2 --dist loadfile --max-worker-restart=0

test: setup ## every test, a file at a time on each of two cores
	@$(TESTS)

fuzz: setup ## a million mutated inputs for the readers, and the property tests with new examples; out/bench/fuzz.json
	@$(VENV)/python -m test.fuzz
	@HYPOTHESIS_PROFILE=fuzz $(TESTS) --timeout=3600 test/unit

soak: setup ## the demo's graph under faults for MINUTES (30): crashes, ledgers, memory; writes out/bench/soak.json
	@$(VENV)/python -m bench.soak --minutes $(MINUTES)

lint: setup ## ruff, mypy, and words that the field has better ones for
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/mypy
	@$(VENV)/python tools/words.py

docs: .venv-docs/installed ## write the node reference and the figures of docs/ from the code, build the site in out/docs
	@$(VENV)/python docs/generate.py
	@PYTHONPATH=.venv-docs $(VENV)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs out/docs

# Sphinx stands apart: it wants other versions of packages that .venv has. pyvenv.cfg is new when .venv is.
.venv-docs/installed: requirements/docs.txt .venv/pyvenv.cfg
	@rm -rf .venv-docs
	@$(VENV)/uv pip install --quiet --python $(VENV)/python --target .venv-docs --no-deps --require-hashes -r $<
	@touch $@

.venv/pyvenv.cfg: setup ;

bench: setup ## measure speed; prints a table, writes out/bench/*.json
	@$(VENV)/python -m bench.run
	@$(VENV)/python -m bench.phase
	@$(VENV)/python -m bench.peer
	@$(VENV)/python -m bench.peer --load

gpu: ## CUDA tests and speed on a GPU, by this machine's own python3 (torch, torchvision); writes out/bench/gpu.json
	@PYTHONPATH=. $(PYTHON) -m bench.gpu

accuracy: setup ## measure scores; prints a table, writes out/accuracy/*.json
	@$(VENV)/python -m bench.accuracy

train: setup ## train the shipped detectors on the simulator; leaves out/sim_camera.pt and out/pillars.pt
	@$(VENV)/perception-rt train camera
	@$(VENV)/perception-rt train pillars

LOCK := $(VENV)/uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads \
	--only-binary :all: --no-binary empy --generate-hashes --no-annotate --no-header

lock: setup ## bring the locked requirements up to date
	@cd requirements && for name in wheels distro; do ../$(LOCK) --upgrade $$name.in -o $$name.txt || exit 1; done && \
	../$(LOCK) --upgrade docs.in -o docs.txt && \
	../$(LOCK) --upgrade -c wheels.txt --no-emit-package numpy --no-emit-package opencv-python extras.in -o extras.txt

clean: ## remove what was built and measured, .venv and .venv-docs
	rm -rf .venv .venv-docs build install log out *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
