"""Write an imported network as a bundle and compare it with the source's own runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_rt.model import bundle
from perception_rt.model.class_thresholds import check_classes
from perception_rt.model.golden import Outputs, finds_something, golden_difference, is_uniform, make_golden
from perception_rt.model.importers.common import Imported
from perception_rt.model.manifest import Manifest
from perception_rt.model.runtime import Runtime
from perception_rt.model.task import find_task
from perception_rt.types.errors import BundleError, ConfigError
from perception_rt.types.segmentation import Segmentation

SHOWN = 12  # rows of the two lists


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an export.

    Attributes:
        manifest: of the bundle that was written.
        lines: the two lists of detections, side by side.
        warnings: messages that the user should check.
    """

    manifest: Manifest
    lines: list[str]
    warnings: list[str]


def save_checked(
    path: str | Path,
    imported: Imported,
    picture: np.ndarray | None,
    *,
    name: str,
    cloud: np.ndarray | None = None,
    version: str = "1",
    licence: str = "unspecified",
    score_thresholds: Mapping[str, float] | None = None,
    classes_keep: Sequence[str] = (),
) -> Report:
    """Write a bundle if its output for a picture equals that of the source's own runtime.

    Args:
        path: the file to write.
        imported: by one of the importers.
        picture: (H, W, 3) uint8 RGB with objects in it; it becomes the golden input where any are found.
        name: of the bundle.
        cloud: (N, 4) float32 with objects in it: the golden input of a lidar bundle.
        version: of the bundle.
        licence: of the weights.
        score_thresholds: by class name, lowest scores that differ.
        classes_keep: class names that are kept; empty for all.

    Raises:
        BundleError: the outputs differ, a label has no name, or as `perception_rt.model.bundle.save`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise BundleError(f"{path}: no folder {path.parent}")
    try:
        check_classes((*(score_thresholds or {}), *classes_keep), imported.classes)
    except ConfigError as error:
        raise BundleError(str(error)) from error
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "licence": licence,
        "classes": imported.classes,
        "task": imported.task,
        "input_spec": imported.input_spec,
        "provenance": imported.provenance,
        "score_thresholds": score_thresholds,
        "classes_keep": classes_keep,
    }
    source = None
    if picture is not None and imported.reference is not None:
        source = imported.reference(picture, imported.score_threshold)
        _check_labels(source[2], imported.classes)
    golden = cloud if picture is None or source is None or not finds_something(source) else picture[None]
    scratch = path.with_name(f".{path.name}.unchecked")  # renamed only after all checks have passed
    try:
        if imported.module is not None:
            manifest = bundle.save(scratch, imported.module, golden=golden, **fields)
        else:
            assert imported.decoder is not None  # programs come with one
            manifest = bundle.save_network(
                scratch,
                imported.programs,
                decoder=imported.decoder,
                score_threshold=imported.score_threshold,
                nms_threshold=imported.nms_threshold,
                golden=golden,
                expected=source if golden is not None else None,
                **fields,
            )
        lines, warnings = _compare(scratch, imported, picture, source)
        bundle.verify(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return Report(manifest, lines, warnings)


def _check_labels(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Raise BundleError for a label without a name: every message with it would be refused."""
    if len(labels) and labels.max() >= len(classes):
        raise BundleError(
            f"classes: {len(classes)} names, but the check picture has label {labels.max()}: give --classes "
            "FILE with more"
        )


def _compare(
    path: Path, imported: Imported, picture: np.ndarray | None, source: Outputs | None
) -> tuple[list[str], list[str]]:
    """Return both lists and warnings; BundleError if they differ."""
    if picture is None or source is None:
        return [], []
    runtime = Runtime.open(path, "cpu", engine=_first_engine(imported))
    runtime.class_thresholds[:] = np.nan  # those of classes come on top, in the bundle alone
    mine = runtime(picture[None], score_threshold=imported.score_threshold)
    lines = side_by_side(source, mine, imported.classes)
    warnings = []
    if finds_something(source) and is_uniform(source):
        warnings.append(
            "every pixel of the check picture has one class: give --check with a picture of several; until "
            "then the bundle's golden answer cannot show where a class is in the wrong place"
        )
    elif not finds_something(source):
        warnings.append(
            "no detection in the check picture: give --check with a picture that holds such objects; until "
            "then the bundle's golden answer is to noise, which cannot show a wrong decoder"
        )
    outside = _outside(source[0], picture.shape[:2])
    if outside:
        warnings.append(
            f"{outside} of {len(source[0])} boxes lie outside of the picture: is the decoder right?"
        )
    difference = _difference(imported, picture, source, mine)
    if difference:
        raise BundleError("\n".join([f"the bundle differs from its source: {difference}", *lines]))
    return lines, warnings


def _first_engine(imported: Imported) -> str:
    kind = "torchscript" if imported.module is not None else imported.programs[0].kind
    return {"onnx": "onnxruntime", "torchscript": "torchscript", "pt2": "aoti"}[kind]


def _difference(imported: Imported, picture: np.ndarray, source: Outputs, mine: Outputs) -> str | None:
    """Return the difference in both directions; None if the outputs agree."""
    precision = imported.programs[0].precision if imported.programs else "fp32"
    task = find_task(imported.task)
    for one, other, whose in ((source, mine, "the source"), (mine, source, "the bundle")):
        if finds_something(one):
            expected = make_golden(
                one, task, picture[None], origin=task.golden_origin, file="x", score_threshold=0.0
            )
            text = golden_difference(expected, other, precision)
            if text:
                return f"of what {whose} finds, {text}"
    return None


def _outside(boxes: np.ndarray, size: tuple[int, int]) -> int:
    """Return the number of boxes that lie outside of the image."""
    height, width = size
    sides = np.minimum(boxes[:, 2:], [width, height]) - np.maximum(boxes[:, :2], 0)
    return int((sides <= 0).any(1).sum())


def side_by_side(source: Outputs, mine: Outputs, classes: Sequence[str]) -> list[str]:
    """Return lines of both lists, best score first; for label maps the classes, largest area first."""
    if len(source) > 4 and not len(source[1]) and not len(mine[1]):
        return _shares_side_by_side(source[4], mine[4], classes)
    rows = max(len(source[1]), len(mine[1]))
    width = 46
    lines = [f"{f'source: {len(source[1])} detections':{width}}bundle: {len(mine[1])} detections"]
    for row in range(min(rows, SHOWN)):
        left, right = (_row(found, row, classes) for found in (source, mine))
        lines.append(f"{left:{width}}{right}".rstrip())
    if rows > SHOWN:
        lines.append(f"... {rows - SHOWN} more")
    return lines


def _row(found: Outputs, row: int, classes: Sequence[str]) -> str:
    if row >= len(found[1]):
        return "-"
    label = int(found[2][row])
    name = classes[label] if 0 <= label < len(classes) else f"label {label}"
    box = " ".join(f"{value:.0f}" for value in found[0][row])
    return f"{name[:18]:18} {found[1][row]:.3f}  {box}"


def _shares_side_by_side(source: np.ndarray, mine: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the share of (1, H, W) labels that each class covers."""
    theirs, ours = (Segmentation(labels[0]).shares() for labels in (source, mine))
    lines = [f"{'class':18} source  bundle"]
    for label in [*theirs, *(label for label in ours if label not in theirs)][:SHOWN]:
        lines.append(f"{classes[label][:18]:18} {theirs.get(label, 0):6.1%}  {ours.get(label, 0):6.1%}")
    same = float((source == mine).mean())
    return [*lines, f"{same:.2%} of the pixels have the same label"]
