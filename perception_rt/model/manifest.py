"""The manifest of a bundle: what the model is, what it takes, and what it must answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from perception_rt.types.errors import BundleError

SCHEMA_VERSION = 1
TASKS = ("detect2d", "detect3d")  # a later task joins here; its golden input joins in golden.py
BOX_COLUMNS = {"detect2d": 4, "detect3d": 7}  # xyxy in px; xyzlwh_yaw in m and rad
INTENSITIES = ("unused", "unit", "byte")
RESIZES = ("stretch", "letterbox", "model")
ORDERS = ("rgb", "bgr")
# A manifest must not make its reader fill the memory: how long each side may be, and how many there are.
_GOLDEN_SIDES = {"detect2d": (4096, 4), "detect3d": (1 << 20, 2)}


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How the bundle brings a sensor image to its network (information: the script does the work).

    Attributes:
        size: (height, width) of the network's input in px, or None where the network takes any size.
        resize: ``stretch``, ``letterbox``, or ``model`` where the network resizes by itself.
        filter: ``area``, ``bilinear``, or ``model``.
        order: channel order that the network was trained on, ``rgb`` or ``bgr``.
    """

    size: tuple[int, int] | None
    resize: str
    filter: str
    order: str


@dataclass(frozen=True, slots=True)
class CloudSpec:
    """What clouds the bundle is made for (information: the script does the work).

    Attributes:
        range: least x y z, greatest x y z in the sensor's frame, m, outside of which nothing is found.
        intensity: ``unused``, or how the fourth column is scaled: ``unit`` (0 to 1) or ``byte`` (0 to 255).
        sensor_height: height of the sensor above the ground that the bundle is made for, m; None for any.
    """

    range: tuple[float, float, float, float, float, float]
    intensity: str
    sensor_height: float | None = None


@dataclass(frozen=True, slots=True)
class Golden:
    """An input that anyone can make again, and what the model answers to it.

    Attributes:
        seed: seed of the input (`perception_rt.model.golden.golden_input`).
        shape: (N, H, W, 3) of the uint8 images, or (N, 4) of the float32 cloud.
        boxes: the answer's boxes, K rows of xyxy in px or xyzlwh_yaw in m and rad, best score first.
        scores: K scores.
        labels: K class indices.
        box_tolerance: largest difference of a box coordinate, px, or m and rad.
        score_tolerance: largest difference of a score.
    """

    seed: int
    shape: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...]
    labels: tuple[int, ...]
    box_tolerance: float
    score_tolerance: float = 0.01


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a bundle that is not code or weights.

    Attributes:
        name: what the bundle is called, e.g. ``sim_camera``.
        version: its version, free text.
        task: one of `TASKS`.
        input: how images reach the network, or what clouds it takes.
        classes: class names; label i is ``classes[i]``.
        score_threshold: default lowest score kept.
        nms_threshold: default IoU above which the weaker of two boxes of one class is dropped.
        sha256: of the weights (`perception_rt.model.golden.weights_sha256`), 64 hex digits.
        golden: the self-test.
        provenance: where the weights come from (recipe, seed, scores, ...), JSON values.
        licence: licence of the weights, SPDX where there is one.
        schema_version: of this layout.
    """

    name: str
    version: str
    task: str
    input: ImageSpec | CloudSpec
    classes: tuple[str, ...]
    score_threshold: float
    nms_threshold: float
    sha256: str
    golden: Golden
    provenance: Mapping[str, Any]
    licence: str
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The manifest as JSON text, keys in declaration order."""
        return json.dumps(asdict(self), indent=1)


def parse_manifest(text: str) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: naming the field and its value, or saying that the schema is newer than this package.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"manifest is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"manifest must be a JSON object, got {type(data).__name__}")
    schema = _field(data, "schema_version", _integer(1))
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"manifest schema_version={schema} is newer than the {SCHEMA_VERSION} that this perception_rt "
            "reads: upgrade perception_rt"
        )
    _no_others(data, Manifest, "")
    classes = _field(data, "classes", _list_of(_text))
    if not classes:
        raise BundleError("manifest classes=(): must be at least one")
    task = _field(data, "task", _one_of(TASKS))
    return Manifest(
        name=_field(data, "name", _text),
        version=_field(data, "version", _text),
        task=task,
        input=_SPECS[task](_field(data, "input", _object)),
        classes=classes,
        score_threshold=_field(data, "score_threshold", _number(0.0, 1.0)),
        nms_threshold=_field(data, "nms_threshold", _number(0.0, 1.0)),
        sha256=_field(data, "sha256", _sha256),
        golden=_parse_golden(_field(data, "golden", _object), task, len(classes)),
        provenance=_field(data, "provenance", _object),
        licence=_field(data, "licence", _text),
        schema_version=schema,
    )


def _parse_image(data: dict[str, Any]) -> ImageSpec:
    _no_others(data, ImageSpec, "input.")
    size = data.get("size")
    return ImageSpec(
        size=None if size is None else _field(data, "size", _list_of(_integer(1), 2), "input."),
        resize=_field(data, "resize", _one_of(RESIZES), "input."),
        filter=_field(data, "filter", _one_of(("area", "bilinear", "model")), "input."),
        order=_field(data, "order", _one_of(ORDERS), "input."),
    )


def _parse_cloud(data: dict[str, Any]) -> CloudSpec:
    _no_others(data, CloudSpec, "input.")
    height = data.get("sensor_height")
    return CloudSpec(
        range=_field(data, "range", _list_of(_number(), 6), "input."),
        intensity=_field(data, "intensity", _one_of(INTENSITIES), "input."),
        sensor_height=None if height is None else _field(data, "sensor_height", _number(), "input."),
    )


_SPECS: dict[str, Callable[[dict[str, Any]], ImageSpec | CloudSpec]] = {
    "detect2d": _parse_image,
    "detect3d": _parse_cloud,
}


def _parse_golden(data: dict[str, Any], task: str, n_classes: int) -> Golden:
    _no_others(data, Golden, "golden.")
    longest, sides = _GOLDEN_SIDES[task]
    golden = Golden(
        seed=_field(data, "seed", _integer(0), "golden."),
        shape=_field(data, "shape", _list_of(_integer(1, longest), sides), "golden."),
        boxes=_field(data, "boxes", _list_of(_list_of(_number(), BOX_COLUMNS[task])), "golden."),
        scores=_field(data, "scores", _list_of(_number(0.0, 1.0)), "golden."),
        labels=_field(data, "labels", _list_of(_integer(0, n_classes - 1)), "golden."),
        box_tolerance=_field(data, "box_tolerance", _number(0.0), "golden."),
        score_tolerance=_field(data, "score_tolerance", _number(0.0), "golden."),
    )
    counts = {len(golden.boxes), len(golden.scores), len(golden.labels)}
    if len(counts) != 1 or counts == {0}:
        raise BundleError(
            f"manifest golden: boxes, scores, labels have {sorted(counts)} rows, not one number > 0"
        )
    columns = 3 if task == "detect2d" else 4
    if golden.shape[-1] != columns:
        form = "(N, H, W, 3)" if task == "detect2d" else "(N, 4)"
        raise BundleError(f"manifest golden.shape={_short(golden.shape)}: must be {form}")
    return golden


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _field(data: dict[str, Any], name: str, check: Callable[[Any], Any], prefix: str = "") -> Any:
    if name not in data:
        raise BundleError(f"manifest {prefix}{name} is missing")
    try:
        return check(data[name])
    except ValueError as error:
        raise BundleError(f"manifest {prefix}{name}={_short(data[name])}: {error}") from error


def _no_others(data: dict[str, Any], kind: type, prefix: str) -> None:
    for name in data:
        if name not in kind.__dataclass_fields__:
            raise BundleError(f"manifest {prefix}{name}={_short(data[name])}: not a field of this schema")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a non-empty text")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("must be 64 lower-case hex digits")
    return value


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return check


def _integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be an integer")
        if value < low or (high is not None and value > high):
            raise ValueError(f"must be >= {low}" + ("" if high is None else f" and <= {high}"))
        return value

    return check


def _number(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError("must be a finite number")
        if not low <= value <= high:
            raise ValueError(f"must be in [{low:g}, {high:g}]")
        return float(value)

    return check


def _list_of(check: Callable[[Any], Any], length: int | None = None) -> Callable[[Any], tuple]:
    def check_list(value: Any) -> tuple:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise ValueError("must be a list" + ("" if length is None else f" of {length}"))
        return tuple(check(item) for item in value)

    return check_list
