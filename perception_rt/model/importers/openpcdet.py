"""OpenPCDet's PointPillar checkpoints, without spconv: the YAML says what to build, the weights fill it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from perception_rt.model.importers.common import Imported, first_line, sha256_of
from perception_rt.model.importers.torchvision import fill, read_state
from perception_rt.model.pointpillars import (
    AnchorBox,
    AnchorHead,
    BevBackbone,
    PillarFeatures,
    PillarGrid,
    PointPillars,
)
from perception_rt.model.specs import CloudSpec
from perception_rt.model.task import DETECT3D
from perception_rt.types.bounded_yaml import load_yaml
from perception_rt.types.errors import BundleError

MAX_CONFIG = 1 << 20  # bytes of a YAML file
MAX_BASES = 5  # _BASE_CONFIG_ of a _BASE_CONFIG_ of ...
MAX_CELLS = 1 << 22  # pillars of the map; KITTI's has 214 272
MAX_CHANNELS = 1024
COLUMNS = ["x", "y", "z", "intensity"]
PROCESSORS = ("mask_points_and_boxes_outside_range", "shuffle_points", "transform_points_to_voxels")


def import_openpcdet(
    checkpoint: Path,
    config: Path,
    classes: Sequence[str] | None = None,
    intensity: str = "unit",
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Imported:
    """Build a PointPillar network of OpenPCDet.

    Its parts are PillarVFE, PointPillarScatter, BaseBEVBackbone and AnchorHeadSingle.

    Args:
        checkpoint: the ``.pth`` that its training wrote, or a state dict; nothing in it is executed.
        config: the YAML that it was trained with. Its ``_BASE_CONFIG_`` is read where it lies below a folder
            that holds the YAML, as in OpenPCDet's ``tools``; without it the YAML must say all by itself.
        classes: names instead of those in the YAML.
        intensity: of the clouds that it was trained on, one of `perception_rt.model.specs.INTENSITIES`.
        score_threshold: lowest score kept; None for the YAML's.
        nms_threshold: IoU of NMS; None for the YAML's.

    Raises:
        BundleError: a file cannot be read, the YAML asks for another network, or the weights do not fit.
    """
    notes: list[str] = []
    top = _Setting(_read_config(config, notes), str(config))
    _check_kind(top)
    names = tuple(str(name) for name in top.get("CLASS_NAMES").sequence())
    if not names:
        raise BundleError(f"{config}: CLASS_NAMES=[]: must name the classes")
    if classes is not None and len(classes) != len(names):
        raise BundleError(f"classes: {len(classes)} names, but the network has {len(names)}")
    grid = _grid(top.get("DATA_CONFIG"), notes)
    model = top.get("MODEL")
    after = model.get("POST_PROCESSING")
    score = after.get("SCORE_THRESH").number(0, 1) if score_threshold is None else score_threshold
    suppression = after.get("NMS_CONFIG")
    nms = suppression.get("NMS_THRESH").number(0, 1) if nms_threshold is None else nms_threshold
    vfe = _features(model.get("VFE"), grid)
    model.get("MAP_TO_BEV", "NUM_BEV_FEATURES").one_of(vfe.channels)
    backbone, cells = _backbone(model.get("BACKBONE_2D"), vfe.channels, (grid.rows, grid.columns))
    head = _head(model.get("DENSE_HEAD"), backbone.channels, names, grid, cells, suppression)
    module = PointPillars(grid, vfe, backbone, head, score, nms)
    state = {key: value for key, value in read_state(checkpoint).items() if key != "global_step"}
    fill(module, state, checkpoint)
    provenance = {
        "what": "PointPillar of OpenPCDet",
        "checkpoint": f"{checkpoint.name} sha256 {sha256_of(checkpoint)}",
        "config": f"{config.name} sha256 {sha256_of(config)}",
    }
    spec = CloudSpec(range=(*grid.low, *grid.high), intensity=intensity)
    return Imported(
        tuple(classes or names),
        spec,
        provenance,
        score,
        nms,
        module=module.eval(),
        notes=notes,
        task=DETECT3D.name,
    )


class _Setting:
    """A value of the configuration that knows where it stands, so that an error can name it."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def _refuse(self, must: str) -> BundleError:
        return BundleError(f"{self.where}={str(self.value)[:80]}: must be {must}")

    def _at(self, key: str) -> str:
        return f"{self.where}: {key}" if self.where.endswith((".yaml", ".yml")) else f"{self.where}.{key}"

    def has(self, key: str) -> bool:
        """Whether it is an object with `key`."""
        return isinstance(self.value, Mapping) and self.value.get(key) is not None

    def get(self, *keys: str) -> _Setting:
        """What stands under `keys`, one in the other."""
        node = self
        for key in keys:
            if not node.has(key):
                raise BundleError(f"{node._at(key)}: is missing")
            node = _Setting(node.value[key], node._at(key))
        return node

    def maybe(self, key: str, default: Any) -> _Setting:
        """What stands under `key`, else `default`."""
        return self.get(key) if self.has(key) else _Setting(default, self._at(key))

    def one_of(self, *values: Any) -> None:
        """Refuse anything else."""
        if self.value not in values:
            raise self._refuse(" or ".join(str(value) for value in values))

    def number(self, least: float, most: float) -> float:
        """A finite number in bounds."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self._refuse(f"a number from {least:g} to {most:g}")
        return float(value)

    def integer(self, least: int, most: int) -> int:
        """A whole number in bounds."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not least <= self.value <= most:
            raise self._refuse(f"a whole number from {least} to {most}")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self._refuse("true or false")
        return self.value

    def sequence(self, count: int | None = None) -> list[Any]:
        """A list of at most 100 values, or of `count`."""
        if not isinstance(self.value, list) or len(self.value) > 100 or count not in (None, len(self.value)):
            raise self._refuse("a list" if count is None else f"a list of {count}")
        return self.value

    def items(self, count: int | None = None) -> list[_Setting]:
        """Of a list."""
        return [_Setting(value, f"{self.where}[{i}]") for i, value in enumerate(self.sequence(count))]

    def numbers(self, least: float, most: float, count: int | None = None) -> list[float]:
        """A list of numbers in bounds."""
        return [item.number(least, most) for item in self.items(count)]

    def integers(self, least: int, most: int, count: int | None = None) -> list[int]:
        """A list of whole numbers in bounds."""
        return [item.integer(least, most) for item in self.items(count)]


def _read_config(path: Path, notes: list[str], depth: int = 0) -> dict[str, Any]:
    """The configuration with what it is based on."""
    what = f"config={str(path)!r}"
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise BundleError(f"{what}: over {MAX_CONFIG} bytes")
        data = load_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{what}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise BundleError(f"{what}: is no plain YAML: {first_line(error)}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{what}: holds no configuration, but a {type(data).__name__}")
    return _with_bases(data, path, notes, depth)


def _with_bases(data: dict[str, Any], path: Path, notes: list[str], depth: int) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    base = data.get("_BASE_CONFIG_")
    if base is not None:
        relative = PurePosixPath(str(base))
        if relative.is_absolute() or ".." in relative.parts or depth >= MAX_BASES:
            raise BundleError(
                f"{path}: _BASE_CONFIG_={str(base)!r}: must be below a folder that holds the YAML"
            )
        found = next(
            (file for folder in path.resolve().parents if (file := folder / relative).is_file()), None
        )
        if found is None:
            notes.append(f"config: {base} is not there: {path.name} is taken as it is")
        else:
            merged = _read_config(found, notes, depth + 1)
    for key, value in data.items():
        if isinstance(value, dict):
            value = _overlaid(merged.get(key), _with_bases(value, path, notes, depth))
        merged[key] = value
    return merged


def _overlaid(base: Any, value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(base, dict):
        return value
    both = {**base, **value}
    for key in value.keys() & base.keys():
        if isinstance(value[key], dict):
            both[key] = _overlaid(base[key], value[key])
    return both


def _check_kind(top: _Setting) -> None:
    """Refuse networks of other parts."""
    model = top.get("MODEL")
    model.get("NAME").one_of("PointPillar")
    model.get("VFE", "NAME").one_of("PillarVFE")
    model.get("MAP_TO_BEV", "NAME").one_of("PointPillarScatter")
    model.get("BACKBONE_2D", "NAME").one_of("BaseBEVBackbone")
    model.get("DENSE_HEAD", "NAME").one_of("AnchorHeadSingle")
    for key in ("BACKBONE_3D", "PFE", "POINT_HEAD", "ROI_HEAD"):
        if model.has(key):
            raise BundleError(f"{model._at(key)}: must be absent: PointPillar has none")
    suppression = model.get("POST_PROCESSING", "NMS_CONFIG")
    suppression.maybe("MULTI_CLASSES_NMS", False).one_of(False)
    suppression.get("NMS_TYPE").one_of("nms_gpu")
    head = model.get("DENSE_HEAD")
    head.maybe("CLASS_AGNOSTIC", False).one_of(False)
    head.maybe("USE_MULTIHEAD", False).one_of(False)
    head.get("TARGET_ASSIGNER_CONFIG", "BOX_CODER").one_of("ResidualCoder")
    coder = head.get("TARGET_ASSIGNER_CONFIG").maybe("BOX_CODER_CONFIG", {})
    coder.maybe("encode_angle_by_sincos", False).one_of(False)
    coder.maybe("code_size", 7).one_of(7)


def _grid(data: _Setting, notes: list[str]) -> PillarGrid:
    if data.has("POINT_FEATURE_ENCODING"):
        data.get("POINT_FEATURE_ENCODING").maybe("used_feature_list", COLUMNS).one_of(COLUMNS)
    if data.maybe("FOV_POINTS_ONLY", False).value:
        notes.append(
            "config: it was trained on the part of each cloud that its camera sees (FOV_POINTS_ONLY)"
        )
    area = data.get("POINT_CLOUD_RANGE").numbers(-1000, 1000, 6)
    processors = {}
    for node in data.get("DATA_PROCESSOR").items():
        node.get("NAME").one_of(*PROCESSORS)
        processors[node.value["NAME"]] = node
    if PROCESSORS[2] not in processors:
        raise BundleError(f"{data._at('DATA_PROCESSOR')}: has no {PROCESSORS[2]}")
    voxels = processors[PROCESSORS[2]]
    voxels.maybe("DOUBLE_FLIP", False).one_of(False)
    size = voxels.get("VOXEL_SIZE").numbers(0.01, 1000, 3)
    counts = [round((area[3 + i] - area[i]) / size[i]) for i in range(3)]
    if min(counts) < 1 or counts[2] != 1 or counts[0] * counts[1] > MAX_CELLS:
        raise BundleError(
            f"{voxels._at('VOXEL_SIZE')}={size}: gives {counts} pillars along x y z: must be 1 along z, at "
            f"least 1 and at most {MAX_CELLS} in all"
        )
    return PillarGrid(
        low=(area[0], area[1], area[2]),
        high=(area[3], area[4], area[5]),
        size=(size[0], size[1], size[2]),
        columns=counts[0],
        rows=counts[1],
        max_points=voxels.get("MAX_POINTS_PER_VOXEL").integer(1, 10_000),
        max_pillars=voxels.get("MAX_NUMBER_OF_VOXELS", "test").integer(1, MAX_CELLS),
    )


def _features(node: _Setting, grid: PillarGrid) -> PillarFeatures:
    filters = node.get("NUM_FILTERS").integers(2, MAX_CHANNELS)
    if not filters:
        raise BundleError(f"{node._at('NUM_FILTERS')}=[]: must name the channels")
    return PillarFeatures(
        grid,
        filters,
        norm=node.get("USE_NORM").flag(),
        absolute=node.get("USE_ABSLOTE_XYZ").flag(),  # OpenPCDet's spelling
        distance=node.get("WITH_DISTANCE").flag(),
    )


def _backbone(node: _Setting, inputs: int, cells: tuple[int, int]) -> tuple[BevBackbone, tuple[int, int]]:
    """The backbone, and rows and columns of what it answers."""
    layers = node.get("LAYER_NUMS").integers(0, 100)
    levels = len(layers)
    strides = node.get("LAYER_STRIDES").integers(1, 16, levels)
    filters = node.get("NUM_FILTERS").integers(1, MAX_CHANNELS, levels)
    up_filters = node.get("NUM_UPSAMPLE_FILTERS").integers(1, MAX_CHANNELS, levels)
    up = node.get("UPSAMPLE_STRIDES")
    up_strides = up.numbers(1 / 16, 16)
    whole = all(value == (round(value) if value >= 1 else 1 / round(1 / value)) for value in up_strides)
    if not levels or len(up_strides) not in (levels, levels + 1) or not whole:
        raise up._refuse(f"{levels} or {levels + 1} whole numbers, or one divided by such")
    if len(up_strides) > levels and up_strides[-1] < 1:
        raise up._refuse("1 or more at its end")
    sizes, shape = set(), cells
    for stride, factor in zip(strides, up_strides, strict=False):
        shape = (-(-shape[0] // stride), -(-shape[1] // stride))
        sizes.add((int(shape[0] * factor), int(shape[1] * factor)))
    if len(sizes) > 1:
        raise up._refuse(f"such that all levels become one size, not {sorted(sizes)} for {cells} pillars")
    last = int(up_strides[-1]) if len(up_strides) > levels else 1
    height, width = sizes.pop()
    at_one = node.maybe("USE_CONV_FOR_NO_STRIDE", False).flag()
    backbone = BevBackbone(inputs, layers, strides, filters, up_strides, up_filters, at_one)
    return backbone, (height * last, width * last)


def _head(
    node: _Setting,
    inputs: int,
    names: tuple[str, ...],
    grid: PillarGrid,
    cells: tuple[int, int],
    suppression: _Setting,
) -> AnchorHead:
    anchors = []
    for item in node.get("ANCHOR_GENERATOR_CONFIG").items():
        stride = item.get("feature_map_stride").integer(1, 256)
        if (grid.rows // stride, grid.columns // stride) != cells:
            raise BundleError(
                f"{item._at('feature_map_stride')}={stride}: must fit the {cells} cells that the "
                f"backbone answers for {(grid.rows, grid.columns)} pillars"
            )
        bottom = item.get("anchor_bottom_heights").numbers(-100, 100, 1)[0]
        centred = item.maybe("align_center", False).flag()
        yaws = item.get("anchor_rotations").numbers(-10, 10)
        for size in item.get("anchor_sizes").items():
            length, width, height = size.numbers(0.01, 100, 3)
            anchors += [AnchorBox((length, width, height), yaw, bottom, centred) for yaw in yaws]
    if not anchors:
        raise BundleError(f"{node._at('ANCHOR_GENERATOR_CONFIG')}: has no anchor")
    # OpenPCDet asks whether the key is there, not whether it is true.
    bins = node.get("NUM_DIR_BINS").integer(1, 64) if node.has("USE_DIRECTION_CLASSIFIER") else 0
    return AnchorHead(
        inputs,
        len(names),
        anchors,
        (*grid.low[:2], *grid.high[:2]),
        cells,
        bins,
        node.get("DIR_OFFSET").number(-math.tau, math.tau) if bins else 0.0,
        node.get("DIR_LIMIT_OFFSET").number(-10, 10) if bins else 0.0,
        most_before=suppression.get("NMS_PRE_MAXSIZE").integer(1, 1 << 16),
        most=suppression.get("NMS_POST_MAXSIZE").integer(1, 1 << 16),
    )
