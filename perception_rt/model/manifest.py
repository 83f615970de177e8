"""The manifest of a bundle: the model, its inputs, and its golden output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from perception_rt.model import fields
from perception_rt.model.calibration import ScoreCalibration, parse_calibration
from perception_rt.model.fields import shortened
from perception_rt.model.specs import CloudSpec, ImageSpec, InputSpec
from perception_rt.model.task import TASKS, Task
from perception_rt.types.errors import BundleError
from perception_rt.types.segmentation import UNLABELLED

__all__ = ["CloudSpec", "DecoderSpec", "Golden", "ImageSpec", "InputSpec", "Manifest", "Program"]

SCHEMA_VERSION = 2
KINDS = ("torchscript", "onnx", "pt2")
PRECISIONS = ("fp32", "fp16", "int8")
MAX_GOLDEN_VALUES = 1 << 26  # of the golden input; the product of its sides is bounded, too
MAX_TOLERANCES = (4.0, 0.1)  # of a box coordinate and a score: larger tolerances would not detect errors
MAX_DETECTIONS = 10_000
MAX_CELLS = 64  # of the grid over a golden label map, along each axis


@dataclass(frozen=True, slots=True)
class Golden:
    """An input with objects, and the model's output for it.

    Attributes:
        seed: of the generated input (`perception_rt.model.golden.golden_input`), where `file` is None.
        shape: (N, H, W, 3) of the uint8 images, (N, 4) of the float32 cloud.
        boxes: the boxes of the output, K rows of xyxy in px or xyzlwh_yaw in m and rad, best score first.
        scores: K scores.
        labels: K class indices.
        box_tolerance: largest difference of a box coordinate, px, or m and rad.
        score_tolerance: largest difference of a score.
        file: the member of the archive that holds the input: PNG, or NPY of a cloud; None in format 1.
        origin: ``noise``, which does not reveal a wrong decoder, or a scene: the `golden_origin` of the task.
        score_threshold: the threshold at which the input is run.
        cells: of a label map, the rows of a grid over it, two hex digits a label
            (`perception_rt.model.golden.cells_of`); empty for other tasks.
    """

    seed: int
    shape: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...]
    labels: tuple[int, ...]
    box_tolerance: float
    score_tolerance: float = 0.01
    file: str | None = None
    origin: str = "noise"
    score_threshold: float = 0.0
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """The network in one form. All programs of a bundle have the same outputs.

    Attributes:
        kind: ``torchscript``, ``onnx`` or ``pt2`` (torch.export).
        file: the member of the archive.
        sha256: of the member; in format 1 of the weights.
        inputs: names of its inputs, the image first.
        outputs: names of its outputs, in the order in which the decoder takes them.
        precision: ``fp32``, ``fp16`` or ``int8``: of the weights.
        any_batch: whether it takes batches.
    """

    kind: str
    file: str
    sha256: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    precision: str = "fp32"
    any_batch: bool = False


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """How the network's outputs become boxes.

    Attributes:
        name: a key of `perception_rt.model.decoders.DECODERS`, or ``script``: the member ``parameters.file``
            of the archive, TorchScript.
        parameters: of its constructor, JSON values.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All data of a bundle except code and weights.

    Attributes:
        name: name of the bundle, e.g. ``sim_camera``.
        version: its version, free text.
        task: a key of `perception_rt.model.task.TASKS`.
        input: how images or clouds reach the network.
        classes: class names; label i is ``classes[i]``.
        score_threshold: default lowest score kept.
        nms_threshold: default IoU above which the weaker of two boxes of one class is dropped.
        sha256: over everything in the bundle, this manifest included (`bundle_sha256`); in format 1 of the
            weights alone.
        golden: the self-test.
        provenance: where the weights come from (recipe, seed, scores, ...), JSON values.
        licence: licence of the weights, SPDX where there is one.
        programs: the network, in one or several forms; the first is the reference.
        decoder: maps outputs to boxes; None if the programs map sensor data to boxes, scores and labels
            themselves.
        score_thresholds: by class name, lowest scores that differ from `score_threshold`.
        classes_keep: the classes to return; empty for all.
        max_detections: most boxes of an image.
        calibration: of the scores. Thresholds apply to calibrated scores; the golden output has the
            network's.
        schema_version: of this layout.
    """

    name: str
    version: str
    task: str
    input: InputSpec
    classes: tuple[str, ...]
    score_threshold: float
    nms_threshold: float
    sha256: str
    golden: Golden
    provenance: Mapping[str, Any]
    licence: str
    programs: tuple[Program, ...] = ()
    decoder: DecoderSpec | None = None
    score_thresholds: Mapping[str, float] = field(default_factory=dict)
    classes_keep: tuple[str, ...] = ()
    max_detections: int = 300
    calibration: ScoreCalibration | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON text, keys in declaration order."""
        return json.dumps(asdict(self), indent=1)

    @property
    def files(self) -> tuple[str, ...]:
        """Return every archive member that the manifest names."""
        names: list[str | None] = [program.file for program in self.programs]
        names += [getattr(self.input, "encoder", None), self.golden.file]
        if self.decoder is not None and self.decoder.name == "script":
            names.append(self.decoder.parameters.get("file"))
        return tuple(dict.fromkeys(name for name in names if name))


def bundle_sha256(manifest: Manifest, members: Mapping[str, bytes]) -> str:
    """Return the hash of every manifest field except the hash itself, and of each member by name."""
    data = asdict(manifest)
    del data["sha256"]
    for name in ("classes_keep", "calibration"):
        if not data[name]:  # bundles written before this field have no other hash
            del data[name]
    for name, usual in (("sweeps", 1), ("ages", False)):
        if data["input"].get(name) == usual:
            del data["input"][name]
    if not data["golden"]["cells"]:
        del data["golden"]["cells"]
    digest = hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(members):
        digest.update(f"\n{name} {hashlib.sha256(members[name]).hexdigest()}".encode())
    return digest.hexdigest()


def parse_manifest(text: str) -> Manifest:
    """Read and check a manifest of format 1 or 2.

    Raises:
        BundleError: the message has the field and its value, or the schema is newer than this package.
    """
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise BundleError("manifest is not JSON: nested too deeply") from error
    except ValueError as error:
        raise BundleError(f"manifest is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"manifest must be a JSON object, got {type(data).__name__}")
    schema = fields.field(data, "schema_version", fields.integer(1))
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"manifest schema_version={schema} is newer than the {SCHEMA_VERSION} that this perception_rt "
            "reads: upgrade perception_rt"
        )
    fields.no_others(data, Manifest, "")
    task = TASKS[fields.field(data, "task", fields.one_of(tuple(TASKS)))]
    classes = fields.field(data, "classes", fields.list_of(fields.nonempty_text))
    if not classes:
        raise BundleError("manifest classes=(): must be at least one")
    threshold = fields.number(0.0, 1.0)
    return Manifest(
        name=fields.field(data, "name", fields.nonempty_text),
        version=fields.field(data, "version", fields.nonempty_text),
        task=task.name,
        input=task.parse_input(fields.field(data, "input", fields.json_object)),
        classes=classes,
        score_threshold=fields.field(data, "score_threshold", threshold),
        nms_threshold=fields.field(data, "nms_threshold", threshold),
        sha256=fields.field(data, "sha256", fields.hex_sha256),
        golden=_parse_golden(fields.field(data, "golden", fields.json_object), task, len(classes)),
        provenance=fields.field(data, "provenance", fields.json_object),
        licence=fields.field(data, "licence", fields.nonempty_text),
        schema_version=schema,
        **(_parse_format2(data, classes) if schema >= 2 else {}),
    )


def _parse_format2(data: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields that format 2 adds."""
    programs = fields.field(data, "programs", fields.list_of(_parse_program))
    if not programs:
        raise BundleError("manifest programs=(): must be at least one")
    thresholds = fields.field(data, "score_thresholds", fields.mapping_of(fields.number(0.0, 1.0)))
    names = fields.list_of(fields.nonempty_text)
    kept = fields.field(data, "classes_keep", names) if "classes_keep" in data else ()
    for key, found in (("score_thresholds", thresholds), ("classes_keep", kept)):
        for name in found:
            if name not in classes:
                raise BundleError(f"manifest {key}={name!r}: not a class of this bundle")
    return {
        "programs": programs,
        "decoder": fields.field(data, "decoder", fields.optional(_parse_decoder)),
        "score_thresholds": thresholds,
        "classes_keep": kept,
        "max_detections": fields.field(data, "max_detections", fields.integer(1, MAX_DETECTIONS)),
        "calibration": fields.optional(parse_calibration)(data.get("calibration")),
    }


def _parse_program(value: Any) -> Program:
    data, prefix = fields.json_object(value), "programs."
    fields.no_others(data, Program, prefix)
    names = fields.list_of(fields.nonempty_text)
    return Program(
        kind=fields.field(data, "kind", fields.one_of(KINDS), prefix),
        file=fields.field(data, "file", fields.file_name, prefix),
        sha256=fields.field(data, "sha256", fields.hex_sha256, prefix),
        inputs=fields.field(data, "inputs", names, prefix),
        outputs=fields.field(data, "outputs", names, prefix),
        precision=fields.field(data, "precision", fields.one_of(PRECISIONS), prefix),
        any_batch=fields.field(data, "any_batch", fields.truth, prefix),
    )


def _parse_decoder(value: Any) -> DecoderSpec:
    data, prefix = fields.json_object(value), "decoder."
    fields.no_others(data, DecoderSpec, prefix)
    name = fields.field(data, "name", fields.nonempty_text, prefix)
    parameters = fields.field(data, "parameters", fields.json_object, prefix)
    if name == "script":
        fields.field(parameters, "file", fields.file_name, "decoder.parameters.")
    return DecoderSpec(name, parameters)


def _parse_golden(data: dict[str, Any], task: Task, n_classes: int) -> Golden:
    fields.no_others(data, Golden, "golden.")
    longest, sides = task.golden_sides
    boxes = fields.list_of(fields.list_of(fields.number(), task.box_columns))
    box_tolerance, score_tolerance = MAX_TOLERANCES
    checks = {
        "seed": fields.integer(0),
        "shape": fields.list_of(fields.integer(1, longest), sides),
        "boxes": boxes,
        "scores": fields.list_of(fields.number(0.0, 1.0)),
        "labels": fields.list_of(fields.integer(0, n_classes - 1)),
        "box_tolerance": fields.number(0.0, box_tolerance),
        "score_tolerance": fields.number(0.0, score_tolerance),
    }
    newer = {
        "file": fields.optional(fields.file_name),
        "origin": fields.one_of((task.golden_origin, "noise")),
        "score_threshold": fields.number(0.0, 1.0),
        "cells": lambda rows: label_cells(rows, n_classes),
    }
    checks |= {name: check for name, check in newer.items() if name in data}
    golden = Golden(**{name: fields.field(data, name, check, "golden.") for name, check in checks.items()})
    counts = {len(golden.boxes), len(golden.scores), len(golden.labels)}
    if len(counts) != 1 or (counts == {0} and not golden.cells):
        raise BundleError(
            f"manifest golden: boxes, scores, labels have {sorted(counts)} rows, not one number > 0"
        )
    if golden.shape[-1] != task.golden_channels:
        raise BundleError(f"manifest golden.shape={shortened(golden.shape)}: must be {task.golden_form}")
    values = 1
    for side in golden.shape:
        values *= side
    if values > MAX_GOLDEN_VALUES:
        raise BundleError(
            f"manifest golden.shape={shortened(golden.shape)}: must hold at most {MAX_GOLDEN_VALUES} values"
        )
    return golden


def label_cells(value: Any, n_classes: int) -> tuple[str, ...]:
    """Return rows of a grid of labels, two hex digits each; ValueError gives the requirement."""
    rows = fields.list_of(fields.nonempty_text)(value)
    if len(rows) > MAX_CELLS or len({len(row) for row in rows}) > 1:
        raise ValueError(f"must be at most {MAX_CELLS} rows of one length")
    try:
        labels = [bytes.fromhex(row) for row in rows]
    except ValueError as error:
        raise ValueError("must be hex digits, two for each label") from error
    if any(len(row) > MAX_CELLS for row in labels):
        raise ValueError(f"must be at most {MAX_CELLS} labels in a row")
    if any(label >= n_classes and label != UNLABELLED for row in labels for label in row):
        raise ValueError(f"must be labels of the {n_classes} classes, or {UNLABELLED}")
    return rows
