"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from perception_rt.model import bundle
from perception_rt.model.manifest import ImageSpec

from .detectors import BrightBox

# A test run gives the same result every time; `make fuzz` looks for new examples.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("fuzz", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A background job of a shell ignores SIGINT, and its children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """Tests share two cores with each other's processes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings; absent on a user's machine."""
    if not DATA.is_dir():
        pytest.skip("the recordings are not here (../shared/data)")
    return DATA


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory):
    """Make a bundle of `BrightBox`; the same arguments give the same file."""
    made: dict[tuple, Path] = {}
    folder = tmp_path_factory.mktemp("bundles")

    def make(name: str = "bright", **arguments) -> Path:
        key = (name, *sorted(arguments.items()))
        if key not in made:
            made[key] = folder / f"{name}{len(made)}.pt"
            bundle.save(
                made[key],
                BrightBox(**arguments),
                name=name,
                classes=["bright"],
                input_spec=ImageSpec(size=None, resize="model", filter="model", order="rgb"),
                licence="Apache-2.0",
            )
        return made[key]

    return make
