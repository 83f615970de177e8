"""Importers convert the files of training tools to bundles; there is one file for each source.

Another package can add one under the entry point group ``perception_rt.importers``: a function
``(path: Path, options: dict[str, str]) -> Imported``, run by ``perception-rt bundle export NAME FILE``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_rt.model.importers.common import Imported

ENTRY_POINTS = "perception_rt.importers"

_HOMES = {
    "COCO80": "common",
    "Imported": "common",
    "read_class_names": "common",
    "import_bev_cluster": "bev_cluster",
    "import_mmdet3d": "mmdet3d",
    "import_onnx": "onnx",
    "import_openpcdet": "openpcdet",
    "import_torchscript": "torchscript",
    "import_torchvision": "torchvision",
    "TorchvisionDetector": "torchvision",
    "save_checked": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def other_importers() -> dict[str, Any]:
    """Return the entry points of other packages by name, without loading them."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def run_other(name: str, path: Path, options: dict[str, str]) -> Imported:
    """Import a file with the importer of another package."""
    function: Callable[[Path, dict[str, str]], Imported] = other_importers()[name].load()
    return function(path, options)
