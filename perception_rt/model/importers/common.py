"""The result of every importer, and class names from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_rt.model.task import CLASSIFY, DETECT2D
from perception_rt.types.errors import BundleError, first_line

if TYPE_CHECKING:  # without torch a bad file is refused at once
    from torch import nn

    from perception_rt.model.bundle import ProgramSource
    from perception_rt.model.golden import Outputs
    from perception_rt.model.manifest import DecoderSpec
    from perception_rt.model.specs import InputSpec

MAX_NAMES_FILE = 4 << 20  # bytes
MAX_CLASSES = 65_536

# fmt: off
COCO80 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
_COCO_GAPS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of COCO's 91 ids, those that stand for nothing


@dataclass(slots=True)
class Imported:
    """An imported network with everything that its bundle needs.

    Attributes:
        classes: class names, by label.
        input_spec: how the sensor's data reach the network.
        provenance: where the weights come from, JSON values.
        score_threshold: default lowest score.
        nms_threshold: default IoU of NMS.
        programs: the network, in one or several forms; empty if `module` is given.
        decoder: maps the outputs of the programs to boxes.
        module: maps sensor data to boxes; see `perception_rt.model.bundle.save`.
        reference: the source's own runtime: maps (H, W, 3) uint8 RGB and lowest score to boxes, scores,
            labels, best score first.
        notes: messages for the user.
        task: a key of `perception_rt.model.task.TASKS`.
    """

    classes: tuple[str, ...]
    input_spec: InputSpec
    provenance: dict[str, Any]
    score_threshold: float
    nms_threshold: float
    programs: list[ProgramSource] = field(default_factory=list)
    decoder: DecoderSpec | None = None
    module: nn.Module | None = None
    reference: Callable[[np.ndarray, float], Outputs] | None = None
    notes: list[str] = field(default_factory=list)
    task: str = DETECT2D.name


def coco91() -> tuple[str, ...]:
    """Return COCO's names by their 91 ids; unused ids are ``N/A 12`` and so on."""
    names = iter(COCO80)
    return tuple(f"N/A {i}" if i in _COCO_GAPS else next(names) for i in range(91))


def imagenet1k() -> tuple[str, ...]:
    """Return the 1000 class names of ImageNet in the usual order."""
    from torchvision.models import ResNet18_Weights  # 1.7 s, and only export needs it

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Return the same float32 values in [0, 1) on every call."""
    return np.random.default_rng(0).random(shape, np.float32)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_class_names(path: Path) -> list[str]:
    """Read class names from a text file (one per line), YAML or JSON.

    YAML and JSON contain a list, an object of index to name, or either under ``names`` (as a data set of
    Ultralytics), ``classes`` or ``id2label`` (as a model of Hugging Face), or ``categories`` (as COCO).

    Raises:
        BundleError: there is no file, no names, or a missing index.
    """
    try:
        if path.stat().st_size > MAX_NAMES_FILE:
            raise BundleError(f"classes={str(path)!r}: over {MAX_NAMES_FILE} bytes: not a file of names")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"classes={str(path)!r}: cannot be read: {error}") from error
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = named_list(_parsed(text, path), f"classes={str(path)!r}")
    if not names:
        raise BundleError(f"classes={str(path)!r}: holds no names")
    return names


def _parsed(text: str, path: Path) -> Any:
    import yaml

    try:
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise BundleError(f"classes={str(path)!r}: cannot be parsed: {first_line(error)}") from error


def named_list(value: Any, what: str) -> list[str]:
    """Return class names in order of their index, from a list, an object, or an object with a list.

    Raises:
        BundleError: `what` has none, or an index is missing.
    """
    if isinstance(value, Mapping):
        for key in ("names", "classes", "id2label", "categories"):
            if key in value:
                return named_list(value[key], f"{what} {key}")
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {item.get("id"): item.get("name") for item in value}
    if isinstance(value, Mapping):
        value = _in_order(value, what)
    if not isinstance(value, list) or not value or len(value) > MAX_CLASSES:
        raise BundleError(f"{what}: must be a list of names, or an object of index to name")
    if not all(isinstance(name, str | int | float) and str(name) for name in value):
        raise BundleError(f"{what}: must be names")
    return [str(name) for name in value]


def _in_order(value: Mapping[Any, Any], what: str) -> list[Any]:
    try:
        by_index = {int(key): name for key, name in value.items()}
    except (TypeError, ValueError):
        by_index = {}
        if all(isinstance(index, int) for index in value.values()):  # name to index
            by_index = {index: name for name, index in value.items()}
    if not by_index:
        raise BundleError(f"{what}: must be a list of names, or an object of index to name")
    last = max(by_index)
    if min(by_index) < 0 or last >= MAX_CLASSES:
        raise BundleError(f"{what}: index {min(by_index) if min(by_index) < 0 else last} is out of range")
    missing = [index for index in range(last + 1) if index not in by_index]
    if missing and missing != [0] and len(missing) > last // 4 + 1:
        raise BundleError(f"{what}: has no name for {missing[0]}")
    return [by_index.get(index, f"N/A {index}") for index in range(last + 1)]


def class_names(
    given: Sequence[str] | None,
    own: Sequence[str] | None,
    count: int | None,
    notes: list[str],
    task: str = DETECT2D.name,
    coco: int = 80,
) -> tuple[str, ...]:
    """Return the class names of a network.

    Args:
        given: by the user.
        own: of the file.
        count: number of classes of the network; None if its outputs do not show it.
        notes: gets a line if the names of COCO, or of ImageNet for a classifier, are used.
        task: of the network.
        coco: as of `perception_rt.model.decoders.common.Match`.

    Raises:
        BundleError: their number differs from the network's, or there are none.
    """
    names = given if given is not None else own
    if names is not None:
        if count is not None and len(names) != count:
            whose = "" if given is not None else " in the file"
            raise BundleError(f"classes: {len(names)} names{whose}, but the network has {count}")
        return tuple(names)
    if task == CLASSIFY.name and count == len(imagenet := imagenet1k()):
        notes.append(
            f"classes: the file names none and the network has {count}: ImageNet's names are taken; give "
            "--classes FILE where they are others"
        )
        return imagenet
    # A network of pixels or of whole images whose outputs do not tell their number may have any.
    known = count or (coco if task == DETECT2D.name else 0)
    by_size = {80: COCO80, 91: coco91()} | ({} if count else {90: coco91()[1:]})
    assumed = by_size.get(known) if task != CLASSIFY.name else None
    if assumed is None:
        has = f"the network has {count}" if count else "the outputs do not tell how many there are"
        raise BundleError(f"classes: {has}, the file names none: give --classes FILE")
    has = f"the network has {count}" if count else "the outputs do not tell how many there are"
    notes.append(
        f"classes: the file names none and {has}: COCO's {len(assumed)} names are taken; give --classes "
        "FILE where they are others"
    )
    return assumed
