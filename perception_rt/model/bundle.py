"""Save, load and verify bundles: one TorchScript file that carries its manifest.

A bundle is a program: opening one runs the code inside it. Open only those whose source you trust. The
hash in the manifest guards against damage and mix-ups, not against an author with bad intent.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_rt.model.archive import (
    archive_copy,
    module_sha256,
    read_archive,
    script_module,
    write_archive,
)
from perception_rt.model.golden import GOLDEN_SHAPES, Outputs, golden_input, make_golden
from perception_rt.model.manifest import TASKS, InputSpec, Manifest, parse_manifest
from perception_rt.model.runtime import Runtime, resolve_bundle, resolve_device
from perception_rt.types.errors import BundleError


def save(
    path: str | Path,
    module: torch.nn.Module,
    *,
    name: str,
    classes: Sequence[str],
    input_spec: InputSpec,
    licence: str,
    version: str = "1",
    task: str = "detect2d",
    provenance: Mapping[str, Any] | None = None,
    golden_seed: int = 0,
) -> Manifest:
    """Script a module and write it with its manifest, whole or not at all.

    Args:
        path: the file to write; its folder must exist.
        module: takes ``(images, bgr, score_threshold, nms_threshold)`` as `Detector` does, or, for task
            ``detect3d``, ``(points, score_threshold, nms_threshold)``, and answers as `ImageRuntime` or
            `CloudRuntime` says. It has the float attributes ``score_threshold`` and ``nms_threshold``: the
            defaults of the bundle.
        name: what the bundle is called.
        classes: class names, by label.
        input_spec: how images reach the network, or what clouds it takes.
        licence: of the weights.
        version: of the bundle.
        task: ``detect2d`` or ``detect3d``.
        provenance: where the weights come from, JSON values.
        golden_seed: seed of the golden input.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: where the module cannot be scripted, answers nothing to the golden input, or a
            field is invalid.
    """
    if task not in TASKS:
        raise BundleError(f"task={task!r}: must be one of {', '.join(TASKS)}")
    path = Path(path)
    if not path.parent.is_dir():
        raise BundleError(f"{path}: no folder {path.parent}")
    shape = GOLDEN_SHAPES[task]
    scripted = script_module(copy.deepcopy(module).to("cpu"))
    defaults = _thresholds(scripted, task)
    # A copy answers, so that nothing it keeps from the run ends up in the file.
    answer = _golden_answer(archive_copy(scripted), task, golden_input(golden_seed, shape))
    if not len(answer[0]):
        raise BundleError("the module finds nothing in the golden input at score 0: that would prove nothing")
    manifest = Manifest(
        name=name,
        version=version,
        task=task,
        input=input_spec,
        classes=tuple(classes),
        sha256=module_sha256(scripted),
        golden=make_golden(answer, task, golden_seed, shape),
        provenance=dict(provenance or {}),
        licence=licence,
        **defaults,
    )
    parse_manifest(manifest.to_json())  # what cannot be read back is not written
    write_archive(scripted, manifest, path)
    return manifest


def _thresholds(scripted: torch.jit.ScriptModule, task: str) -> dict[str, float | None]:
    """The module's own, which become the bundle's defaults."""
    names = ("score_threshold", "nms_threshold")
    defaults = {key: getattr(scripted, key, None) for key in names}
    for key, value in defaults.items():
        if not isinstance(value, float):
            raise BundleError(f"module attribute {key}={value!r}: must be a float, the bundle's default")
    return defaults


@torch.inference_mode()
def _golden_answer(module: torch.jit.ScriptModule, task: str, data: np.ndarray) -> Outputs:
    """All that the module finds."""
    golden = torch.from_numpy(data)
    options = (False, 0.0, -1.0) if task == "detect2d" else (0.0, -1.0)
    return tuple(tensor.numpy() for tensor in module(golden, *options))


def load(path_or_name: str | Path, device: str = "cpu") -> tuple[torch.nn.Module, Manifest]:
    """Load a bundle's module as it was saved, weights held to their hash; to run one use `Runtime`.

    Raises:
        BundleError: one line that says why not.
    """
    return read_archive(resolve_bundle(path_or_name), resolve_device(device))


def verify(path_or_name: str | Path, device: str = "cpu") -> Manifest:
    """Hold a bundle to its manifest, its hash and its golden answer.

    Raises:
        BundleError: one line that says what is wrong.
    """
    return Runtime.open(path_or_name, device).manifest
