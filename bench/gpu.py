"""Measure the shipped camera detector on a GPU: prints a table, writes out/bench/gpu.json.

Needs only torch, torchvision and NumPy. Without a GPU the same code runs on the CPU, the rows of the GPU are
"not measured", and nothing is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.staged import StagedNetwork
from perception_rt.model.archive import Archive, read_archive
from perception_rt.model.host_image import ImagePreparer
from perception_rt.model.manifest import Program
from perception_rt.model.runtime import SHIPPED
from perception_rt.model.torchscript import load_module, load_operators

OUT = Path("out/bench/gpu.json")
SIZES = {"720p": (720, 1280), "1080p": (1080, 1920)}
WARM, CALLS = 10, 100
CUDA_TESTS = ("test/unit/test_runtime.py", "test/unit/test_engine.py")
Row = dict[str, object]


def main(argv: list[str] | None = None) -> int:
    """Run the CUDA tests, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help=f"of each row ({CALLS})")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    args = parser.parse_args(argv)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if cuda else 'the CPU: no GPU here'}")
    failed = 0 if args.no_tests else cuda_tests(cuda)
    archive = read_archive(SHIPPED / "sim_camera.pt")
    rows = [row for size in SIZES for row in size_rows(archive, size, device, args.calls)]
    rows += engine_rows(archive, device, args.calls)
    for row in rows:
        shown = "not measured" if row["value"] is None else f"{row['value']:.3f} {row['unit']}"
        print(f"{row['name']:50} {shown:>14}")
    if cuda:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        OUT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
        print(f"written: {OUT}")
    return failed


def cuda_tests(cuda: bool) -> int:
    """Run the tests that use a GPU where there is one; the exit status of pytest."""
    missing = [name for name in ("pytest", "cv2", "hypothesis") if importlib.util.find_spec(name) is None]
    if not cuda or missing:
        print(f"tests on a GPU: not run ({'no GPU' if not cuda else 'missing ' + ', '.join(missing)})")
        return 0
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda or staged", *CUDA_TESTS]
    return subprocess.run(command, check=False).returncode


def size_rows(archive: Archive, size: str, device: torch.device, calls: int) -> list[Row]:
    """Image to raw outputs and to boxes, for one size of camera."""
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZES[size], 3), dtype=np.uint8)
    program = next(program for program in archive.manifest.programs if program.kind == "torchscript")
    load_operators()
    decode = load_module(archive.members["decoder.pt"], device, "decoder.pt")
    rows = []
    for name, half, graph in (
        ("fp32", False, False),
        ("fp32_graph", False, True),
        ("fp16", True, False),
        ("fp16_graph", True, True),
    ):
        on_cpu = device.type == "cpu" and not half and not graph
        stem = f"{'cpu' if on_cpu else 'gpu'}/sim_camera/{size}/{name}"
        if device.type == "cpu" and not on_cpu:
            rows += [row_of(f"{stem}/p50_ms", None), row_of(f"{stem}/p99_ms", None)]
            continue
        network = load_module(archive.members[program.file], device, program.file)
        network = network.to(memory_format=torch.channels_last)
        network = network.half() if half else network
        staged = StagedNetwork(archive.manifest.input, network, SIZES[size], device, half, graph)
        rows += timed(stem, lambda run=staged: boxes_of(run, decode, images), calls, device)
    return rows


@torch.inference_mode()
def boxes_of(staged: StagedNetwork, decode: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """Image to boxes after NMS, all on the device; one copy back."""
    boxes, scores, labels = decode(staged(images), *staged.where.size, 0.4)
    apart = boxes + labels[:, None].to(boxes) * 1e4
    return boxes[torch.ops.torchvision.nms(apart, scores, 0.55)].cpu()


def engine_rows(archive: Archive, device: torch.device, calls: int) -> list[Row]:
    """The network alone by each engine that runs ONNX on a GPU."""
    from perception_rt.model.engine import EngineOptions, find_engine

    program: Program = next(entry for entry in archive.manifest.programs if entry.kind == "onnx")
    options, rows = EngineOptions("cuda"), []
    for name in ("onnxruntime", "onnxruntime-tensorrt", "tensorrt"):
        stem, kind = f"gpu/sim_camera/network/{name}", find_engine(name)
        why = "no GPU" if device.type != "cuda" else kind.available(options)
        if why is not None:
            print(f"{stem}: not measured: {why}")
            rows += [row_of(f"{stem}/p50_ms", None), row_of(f"{stem}/p99_ms", None)]
            continue
        if hasattr(kind, "compile"):
            kind.compile(program, archive.members[program.file], options)
        engine = kind(program, archive.members[program.file], options)
        prepare = ImagePreparer(archive.manifest.input, program.inputs, device)
        inputs, _ = prepare(torch.randint(256, (1, 540, 960, 3), dtype=torch.uint8), False)
        rows += timed(stem, lambda run=engine, data=inputs: run.run(data), calls, device)
    return rows


def timed(stem: str, work: Callable[[], object], calls: int, device: torch.device) -> list[Row]:
    """p50 and p99 of `work`, each call to its end."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(min(WARM, calls)):
        work()
    times = []
    for _ in range(calls):
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append((time.perf_counter() - started) * 1e3)
    return [row_of(f"{stem}/{q}_ms", float(np.percentile(times, p))) for q, p in (("p50", 50), ("p99", 99))]


def row_of(name: str, value: float | None) -> Row:
    """A row of the result file; None is what was not measured."""
    shown = None if value is None else round(value, 4)
    return {"name": name, "value": shown, "unit": "ms", "target": "", "holds": None}


if __name__ == "__main__":
    sys.exit(main())
