"""Compress the programs of a bundle to fp16 or int8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_rt.model.archive import Archive, write_archive
from perception_rt.model.bundle import ProgramSource, program_entry
from perception_rt.model.export import fp16_program, int8_program
from perception_rt.model.manifest import Manifest, Program, bundle_sha256
from perception_rt.model.runtime import open_archive
from perception_rt.types.errors import BundleError

ENGINE = "onnxruntime"
SAME_IOU = 0.5
COMPRESSIONS = ("int8", "fp16")


def onnx_runtime(archive: Archive, precision: str = "fp32") -> Any:
    """Return a runtime of the bundle's ONNX program in a precision, with one CPU thread.

    Raises:
        BundleError: there is none.
    """
    for program in archive.manifest.programs:
        if (program.kind, program.precision) == ("onnx", precision) and archive.manifest.decoder is not None:
            return open_archive(archive, torch.device("cpu"), False, 1, program, ENGINE)
    raise BundleError(
        f"{archive.path}: holds no ONNX program in {precision}, which compression needs: export the network "
        "with `perception-rt bundle export onnx`"
    )


def network_inputs(
    runtime: Any, frames: Iterable[np.ndarray], on_frame: Callable[[], None] = lambda: None
) -> list[Mapping[str, np.ndarray]]:
    """Return the preprocessed inputs of the network for each frame, by name."""
    recorder = _RecordingEngine(runtime._detect._engine)
    runtime._detect._engine = recorder
    try:
        for frame in frames:
            runtime(frame)
            on_frame()
    finally:
        runtime._detect._engine = recorder.engine
    return recorder.inputs


class _RecordingEngine:
    """An engine that records its inputs."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.inputs: list[Mapping[str, np.ndarray]] = []

    def run(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run the engine and record the inputs."""
        self.inputs.append({name: tensor.cpu().numpy().copy() for name, tensor in inputs.items()})
        return self.engine.run(inputs)


def compressed(archive: Archive, precision: str, feeds: list[Mapping[str, np.ndarray]]) -> Archive:
    """Return the bundle with its reference and one compressed program, after checking the golden output.

    Args:
        archive: a bundle with an ONNX program in fp32.
        precision: one of `COMPRESSIONS`, or fp32, which leaves the network as it is.
        feeds: inputs of the network by name, whose ranges decide those of int8; others need none.

    Raises:
        BundleError: the network cannot be compressed, or no longer gives the golden output.
    """
    plain = onnx_runtime(archive).choice.program
    source = ProgramSource("onnx", archive.members[plain.file], plain.inputs, plain.outputs)
    made = source
    if precision != "fp32":
        made = int8_program(source, feeds) if precision == "int8" else fp16_program(source)
    made = replace(made, any_batch=plain.any_batch)
    reference = archive.manifest.programs[0]
    entry: Program = program_entry(1, made)
    if entry.file == reference.file:
        entry = program_entry(2, made)
    manifest = replace(archive.manifest, programs=(reference, entry))
    members = {**archive.members, entry.file: made.data}
    new = Archive(archive.path, manifest, {name: members[name] for name in manifest.files})
    onnx_runtime(new, precision).check_golden(f"{archive.path} in {precision}")
    return new


def write_compressed(path: Path, archive: Archive, record: Mapping[str, Any]) -> Manifest:
    """Write the result of `compressed`, with its record under ``provenance.compression``."""
    provenance = {**archive.manifest.provenance, "compression": dict(record)}
    manifest = replace(archive.manifest, provenance=provenance)
    manifest = replace(manifest, sha256=bundle_sha256(manifest, archive.members))
    write_archive(path, manifest, archive.members)
    return manifest


def program_size(archive: Archive, precision: str) -> float:
    """Return the size of the bundle's ONNX program in a precision, MB."""
    return len(archive.members[onnx_runtime(archive, precision).choice.program.file]) / 1e6


def matched_scores(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> np.ndarray:
    """Pair the boxes of two outputs by class and IoU of at least 0.5, the highest IoU first.

    Args:
        first, second: boxes (K, 4) xyxy or (K, 7) xyzlwh_yaw, scores, labels.

    Returns:
        (M, 2) scores of the pairs.
    """
    from scipy.optimize import linear_sum_assignment

    alike = _iou(first[0], second[0])
    alike[(first[2][:, None] != second[2][None]) | (alike < SAME_IOU)] = 0.0
    rows, columns = linear_sum_assignment(alike, maximize=True)
    kept = alike[rows, columns] > 0
    return np.stack([first[1][rows[kept]], second[1][columns[kept]]], 1)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (K, L) IoU in the image, or of footprints."""
    if first.shape[1] == 7:
        from perception_rt.model.boxes3d import iou_bev

        return iou_bev(torch.from_numpy(first), torch.from_numpy(second)).numpy().astype(np.float64)
    from torchvision.ops import box_iou

    return box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy().astype(np.float64)
