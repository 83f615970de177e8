"""The manifest of a bundle: what the model is, what it takes, and what it must answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from perception_rt.model.fields import (
    field,
    hex_sha256,
    integer,
    json_object,
    list_of,
    no_others,
    nonempty_text,
    number,
    one_of,
    shortened,
)
from perception_rt.types.errors import BundleError

SCHEMA_VERSION = 1
TASKS = ("detect2d", "detect3d")  # a later task joins here; its golden input joins in golden.py
BOX_COLUMNS = {"detect2d": 4, "detect3d": 7}  # xyxy in px; xyzlwh_yaw in m and rad
GOLDEN_FORMS = {"detect2d": "(N, H, W, 3)", "detect3d": "(N, 4)"}
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


InputSpec = ImageSpec | CloudSpec


@dataclass(frozen=True, slots=True)
class Golden:
    """An input that anyone can make again, and what the model answers to it.

    Attributes:
        seed: seed of the input (`perception_rt.model.golden.golden_input`).
        shape: (N, H, W, 3) of the uint8 images, (N, 4) of the float32 cloud.
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
    input: InputSpec
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
    schema = field(data, "schema_version", integer(1))
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"manifest schema_version={schema} is newer than the {SCHEMA_VERSION} that this perception_rt "
            "reads: upgrade perception_rt"
        )
    no_others(data, Manifest, "")
    task = field(data, "task", one_of(TASKS))
    classes = field(data, "classes", list_of(nonempty_text))
    if not classes:
        raise BundleError("manifest classes=(): must be at least one")
    threshold = number(0.0, 1.0)
    return Manifest(
        name=field(data, "name", nonempty_text),
        version=field(data, "version", nonempty_text),
        task=task,
        input=_SPECS[task](field(data, "input", json_object)),
        classes=classes,
        score_threshold=field(data, "score_threshold", threshold),
        nms_threshold=field(data, "nms_threshold", threshold),
        sha256=field(data, "sha256", hex_sha256),
        golden=_parse_golden(field(data, "golden", json_object), task, len(classes)),
        provenance=field(data, "provenance", json_object),
        licence=field(data, "licence", nonempty_text),
        schema_version=schema,
    )


def _parse_image(data: dict[str, Any]) -> ImageSpec:
    no_others(data, ImageSpec, "input.")
    size = data.get("size")
    return ImageSpec(
        size=None if size is None else field(data, "size", list_of(integer(1), 2), "input."),
        resize=field(data, "resize", one_of(RESIZES), "input."),
        filter=field(data, "filter", one_of(("area", "bilinear", "model")), "input."),
        order=field(data, "order", one_of(ORDERS), "input."),
    )


def _parse_cloud(data: dict[str, Any]) -> CloudSpec:
    no_others(data, CloudSpec, "input.")
    height = data.get("sensor_height")
    return CloudSpec(
        range=field(data, "range", list_of(number(), 6), "input."),
        intensity=field(data, "intensity", one_of(INTENSITIES), "input."),
        sensor_height=None if height is None else field(data, "sensor_height", number(), "input."),
    )


_SPECS: dict[str, Callable[[dict[str, Any]], InputSpec]] = {
    "detect2d": _parse_image,
    "detect3d": _parse_cloud,
}


def _parse_golden(data: dict[str, Any], task: str, n_classes: int) -> Golden:
    no_others(data, Golden, "golden.")
    longest, sides = _GOLDEN_SIDES[task]
    golden = Golden(
        seed=field(data, "seed", integer(0), "golden."),
        shape=field(data, "shape", list_of(integer(1, longest), sides), "golden."),
        boxes=field(data, "boxes", list_of(list_of(number(), BOX_COLUMNS[task])), "golden."),
        scores=field(data, "scores", list_of(number(0.0, 1.0)), "golden."),
        labels=field(data, "labels", list_of(integer(0, n_classes - 1)), "golden."),
        box_tolerance=field(data, "box_tolerance", number(0.0), "golden."),
        score_tolerance=field(data, "score_tolerance", number(0.0), "golden."),
    )
    counts = {len(golden.boxes), len(golden.scores), len(golden.labels)}
    if len(counts) != 1 or counts == {0}:
        raise BundleError(
            f"manifest golden: boxes, scores, labels have {sorted(counts)} rows, not one number > 0"
        )
    if golden.shape[-1] != {"detect2d": 3, "detect3d": 4}[task]:
        raise BundleError(f"manifest golden.shape={shortened(golden.shape)}: must be {GOLDEN_FORMS[task]}")
    return golden
