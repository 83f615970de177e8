"""OpenPCDet's PointPillar and CenterPoint checkpoints, without spconv.

The YAML file defines the network, the checkpoint has its weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from torch import nn

from perception_rt.model.centerpoint import BranchShape, CenterDecoding, CenterHead, ClassGroup
from perception_rt.model.importers.common import Imported, sha256_of
from perception_rt.model.importers.lidar import (
    MAX_ANCHORS,
    MAX_CHANNELS,
    MAX_CONFIG,
    Setting,
    bev_backbone,
    check_size,
    check_stride,
    intensity_of,
    pillar_grid,
)
from perception_rt.model.importers.torchvision import fill, read_state
from perception_rt.model.pointpillars import (
    EPS,
    AnchorBox,
    AnchorHead,
    PillarFeatures,
    PillarGrid,
    PointPillars,
)
from perception_rt.model.specs import AGE, MAX_SWEEPS, CloudSpec
from perception_rt.model.task import DETECT3D
from perception_rt.types.bounded_yaml import load_yaml
from perception_rt.types.errors import BundleError, first_line

MAX_BASES = 5  # _BASE_CONFIG_ of a _BASE_CONFIG_ of ...
COLUMNS = {"x": 0, "y": 1, "z": 2, "intensity": 3, "timestamp": AGE, "time": AGE, "elongation": AGE + 1}
PROCESSORS = (
    "mask_points_and_boxes_outside_range",
    "shuffle_points",
    "transform_points_to_voxels",
    "transform_points_to_voxels_placeholder",
)
HEADS = {"PointPillar": "AnchorHeadSingle", "CenterPoint": "CenterHead"}
PARTS = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}
UNUSED = {"vel": 2, "iou": 1}  # branches of a CenterHead whose answers are left out


def import_openpcdet(
    checkpoint: Path,
    config: Path,
    classes: Sequence[str] | None = None,
    intensity: str | None = None,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Imported:
    """Build a pillar network of OpenPCDet.

    Its parts are PillarVFE or DynPillarVFE, PointPillarScatter, BaseBEVBackbone, and AnchorHeadSingle or
    CenterHead.

    Args:
        checkpoint: the ``.pth`` that its training wrote, or a state dict; nothing in it is executed.
        config: the YAML that it was trained with. Its ``_BASE_CONFIG_`` is read where it lies below a folder
            that holds the YAML, as in OpenPCDet's ``tools``; otherwise the YAML must be complete.
        classes: names instead of those in the YAML.
        intensity: of the clouds that it was trained on, one of `perception_rt.model.specs.INTENSITIES`; None
            for that of the YAML's data set.
        score_threshold: lowest score kept; None for the YAML's.
        nms_threshold: IoU of NMS; None for the YAML's.

    Raises:
        BundleError: a file cannot be read, the YAML describes another network, or the weights do not fit.
    """
    notes: list[str] = []
    top = Setting(_read_config(config, notes), str(config), inner=False)
    _check_kind(top)
    names = tuple(str(name) for name in top.get("CLASS_NAMES").sequence())
    if not names:
        raise BundleError(f"{config}: CLASS_NAMES=[]: must name the classes")
    if classes is not None and len(classes) != len(names):
        raise BundleError(f"classes: {len(classes)} names, but the network has {len(names)}")
    model, data = top.get("MODEL"), top.get("DATA_CONFIG")
    columns, sweeps = _points(data, notes)
    grid = _grid(data, model.get("VFE", "NAME").value == "DynPillarVFE", notes)
    vfe = _features(model.get("VFE"), grid, len(columns))
    model.get("MAP_TO_BEV", "NUM_BEV_FEATURES").one_of(vfe.channels)
    node = model.get("BACKBONE_2D")
    backbone, cells = bev_backbone(
        vfe.channels,
        (grid.rows, grid.columns),
        (node.get("LAYER_NUMS"), node.get("LAYER_STRIDES"), node.get("NUM_FILTERS")),
        (node.get("UPSAMPLE_STRIDES"), node.get("NUM_UPSAMPLE_FILTERS")),
        node.maybe("USE_CONV_FOR_NO_STRIDE", False).flag(),
        (EPS, EPS),
    )
    node, after = model.get("DENSE_HEAD"), model.get("POST_PROCESSING")
    head: nn.Module
    state = {key: value for key, value in read_state(checkpoint).items() if key != "global_step"}
    if node.get("NAME").value == "CenterHead":
        after = node.get("POST_PROCESSING")
        head, unused = _center_head(node, backbone.channels, names, grid, cells, notes)
        state = {key: value for key, value in state.items() if not _is_of(key, unused)}
    else:
        head = _anchor_head(node, backbone.channels, names, grid, cells, after.get("NMS_CONFIG"))
    score = after.get("SCORE_THRESH").number(0, 1) if score_threshold is None else score_threshold
    nms = after.get("NMS_CONFIG", "NMS_THRESH").number(0, 1) if nms_threshold is None else nms_threshold
    module = PointPillars(grid, columns, vfe, backbone, head, score, nms)
    fill(module, state, checkpoint)
    provenance = {
        "what": f"{model.get('NAME').value} of OpenPCDet",
        "checkpoint": f"{checkpoint.name} sha256 {sha256_of(checkpoint)}",
        "config": f"{config.name} sha256 {sha256_of(config)}",
        "notes": [*notes],
    }
    scale = intensity or intensity_of(data.maybe("DATASET", ""))
    spec = CloudSpec((*grid.low, *grid.high), scale, sweeps=sweeps, ages=AGE in columns)
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


def _is_of(key: str, unused: Sequence[str]) -> bool:
    """Return whether a weight belongs to an unused branch."""
    parts = key.split(".")
    return parts[:2] == ["dense_head", "heads_list"] and len(parts) > 3 and parts[3] in unused


def _read_config(path: Path, notes: list[str], depth: int = 0) -> dict[str, Any]:
    """Return the configuration, merged with its base files."""
    what = f"config={str(path)!r}"
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise BundleError(f"{what}: over {MAX_CONFIG} bytes")
        data = load_yaml(path.read_text(encoding="utf-8-sig"))
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
        files = (folder / relative for folder in path.resolve().parents)
        found = next(
            (file for file in files if os.path.isfile(file)), None
        )  # False for impossible names, too
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


def _check_kind(top: Setting) -> None:
    """Raise BundleError for networks with other parts."""
    model = top.get("MODEL")
    model.get("NAME").one_of(*HEADS)
    model.get("VFE", "NAME").one_of("PillarVFE", "DynPillarVFE")
    model.get("MAP_TO_BEV", "NAME").one_of("PointPillarScatter")
    model.get("BACKBONE_2D", "NAME").one_of("BaseBEVBackbone")
    head = model.get("DENSE_HEAD")
    head.get("NAME").one_of(HEADS[model.get("NAME").value])
    for key in ("BACKBONE_3D", "PFE", "POINT_HEAD", "ROI_HEAD"):
        if model.has(key):
            raise BundleError(f"{model.at(key)}: must be absent: {model.value['NAME']} has none")
    after = head if head.value["NAME"] == "CenterHead" else model
    suppression = after.get("POST_PROCESSING", "NMS_CONFIG")
    suppression.maybe("MULTI_CLASSES_NMS", False).one_of(False)
    suppression.get("NMS_TYPE").one_of("nms_gpu")
    head.maybe("CLASS_AGNOSTIC", False).one_of(False)
    head.maybe("USE_MULTIHEAD", False).one_of(False)
    if after is model:
        head.get("TARGET_ASSIGNER_CONFIG", "BOX_CODER").one_of("ResidualCoder")
        coder = head.get("TARGET_ASSIGNER_CONFIG").maybe("BOX_CODER_CONFIG", {})
        coder.maybe("encode_angle_by_sincos", False).one_of(False)
        coder.maybe("code_size", 7).one_of(7)


def _points(data: Setting, notes: list[str]) -> tuple[list[int], int]:
    """Return the columns of a point, and the number of sweeps of a cloud."""
    used = data.maybe("POINT_FEATURE_ENCODING", {}).maybe("used_feature_list", list(COLUMNS)[:4])
    names = used.sequence()
    for item in used.items():
        item.one_of(*COLUMNS)
    if names[:3] != ["x", "y", "z"] or len(set(names)) != len(names) or {"time", "timestamp"} <= set(names):
        raise used.refusal("x y z and others, each once")
    if "elongation" in names:
        notes.append("config: it takes the elongation of each point: clouds have none, and it gets 0")
    sequence = data.maybe("SEQUENCE_CONFIG", {})
    if sequence.maybe("ENABLED", False).flag():
        first, last = sequence.get("SAMPLE_OFFSET").integers(1 - MAX_SWEEPS, 0, 2)
        if last != 0 or first > last:
            raise sequence.get("SAMPLE_OFFSET").refusal("from a negative number to 0")
        return [COLUMNS[name] for name in names], 1 - first
    return [COLUMNS[name] for name in names], data.maybe("MAX_SWEEPS", 1).integer(1, MAX_SWEEPS)


def _grid(data: Setting, dynamic: bool, notes: list[str]) -> PillarGrid:
    if data.maybe("FOV_POINTS_ONLY", False).value:
        notes.append(
            "config: it was trained on the part of each cloud that its camera sees (FOV_POINTS_ONLY)"
        )
    area = data.get("POINT_CLOUD_RANGE").numbers(-1000, 1000, 6)
    processors = {}
    for node in data.get("DATA_PROCESSOR").items():
        node.get("NAME").one_of(*PROCESSORS)
        processors[node.value["NAME"]] = node
    wanted = PROCESSORS[3 if dynamic else 2]
    if wanted not in processors:
        raise BundleError(f"{data.at('DATA_PROCESSOR')}: has no {wanted}")
    voxels = processors[wanted]
    voxels.maybe("DOUBLE_FLIP", False).one_of(False)
    if dynamic:
        return pillar_grid(area, voxels.get("VOXEL_SIZE"), 1, 1, dynamic=True)
    return pillar_grid(
        area,
        voxels.get("VOXEL_SIZE"),
        voxels.get("MAX_POINTS_PER_VOXEL").integer(1, 10_000),
        voxels.get("MAX_NUMBER_OF_VOXELS", "test").integer(1, 1 << 22),
    )


def _features(node: Setting, grid: PillarGrid, columns: int) -> PillarFeatures:
    filters = node.get("NUM_FILTERS").integers(2, MAX_CHANNELS)
    if not filters:
        raise BundleError(f"{node.at('NUM_FILTERS')}=[]: must name the channels")
    return PillarFeatures(
        grid,
        columns,
        [*(count // 2 for count in filters[:-1]), filters[-1]],  # half of an inner layer is the maximum
        norm=node.get("USE_NORM").flag(),
        absolute=node.get("USE_ABSLOTE_XYZ").flag(),  # OpenPCDet's spelling
        distance=node.get("WITH_DISTANCE").flag(),
    )


def _anchor_head(
    node: Setting,
    inputs: int,
    names: tuple[str, ...],
    grid: PillarGrid,
    cells: tuple[int, int],
    suppression: Setting,
) -> AnchorHead:
    area = (*grid.low[:2], *grid.high[:2])
    anchors = []
    for item in node.get("ANCHOR_GENERATOR_CONFIG").items():
        check_stride(item.get("feature_map_stride"), grid, cells)
        bottom = item.get("anchor_bottom_heights").numbers(-100, 100, 1)[0]
        centred = item.maybe("align_center", False).flag()
        yaws = item.get("anchor_rotations").numbers(-10, 10)
        for size in item.get("anchor_sizes").items():
            length, width, height = size.numbers(0.01, 100, 3)
            anchors += [AnchorBox((length, width, height), yaw, bottom, area, centred) for yaw in yaws]
            if len(anchors) > MAX_ANCHORS:
                break
    if not 1 <= len(anchors) <= MAX_ANCHORS:
        raise node.get("ANCHOR_GENERATOR_CONFIG").refusal(f"1 to {MAX_ANCHORS} anchors of a cell")
    check_size(inputs * len(anchors) * len(names), node.get("ANCHOR_GENERATOR_CONFIG"))
    # OpenPCDet asks whether the key is there, not whether it is true.
    bins = node.get("NUM_DIR_BINS").integer(1, 64) if node.has("USE_DIRECTION_CLASSIFIER") else 0
    return AnchorHead(
        inputs,
        len(names),
        anchors,
        cells,
        bins,
        node.get("DIR_OFFSET").number(-math.tau, math.tau) if bins else 0.0,
        node.get("DIR_LIMIT_OFFSET").number(-10, 10) if bins else 0.0,
        most_before=suppression.get("NMS_PRE_MAXSIZE").integer(1, 1 << 16),
        most=suppression.get("NMS_POST_MAXSIZE").integer(1, 1 << 16),
    )


def _center_head(
    node: Setting,
    inputs: int,
    names: tuple[str, ...],
    grid: PillarGrid,
    cells: tuple[int, int],
    notes: list[str],
) -> tuple[CenterHead, list[str]]:
    """Return the head, and the unused branches."""
    stride = check_stride(node.get("TARGET_ASSIGNER_CONFIG", "FEATURE_MAP_STRIDE"), grid, cells)
    every = node.get("CLASS_NAMES_EACH_HEAD")
    groups = [[str(name) for name in item.sequence() if name in names] for item in every.items()]
    if sorted(name for group in groups for name in group) != sorted(names) or not all(groups):
        raise every.refusal(f"groups of the classes {', '.join(names)}, each once")
    branches = node.get("SEPARATE_HEAD_CFG", "HEAD_DICT")
    layers = {"hm": node.get("NUM_HM_CONV").integer(1, 10)}
    for name in PARTS:
        branches.get(name, "out_channels").one_of(PARTS[name])
        layers[name] = branches.get(name, "num_conv").integer(1, 10)
    unused = [name for name in branches.value if name not in PARTS]
    for name in unused:
        branches.get(name, "out_channels").one_of(*([UNUSED[name]] if name in UNUSED else []))
    if "vel" in unused:
        notes.append("config: it predicts velocities: they are left out, as detections have none")
    after = node.get("POST_PROCESSING")
    after.maybe("USE_IOU_TO_RECTIFY_SCORE", False).one_of(False)
    shared = node.get("SHARED_CONV_CHANNEL").integer(1, MAX_CHANNELS)
    bias = node.maybe("USE_BIAS_BEFORE_NORM", False).flag()
    check_size(9 * len(groups) * sum(layers.values()) * shared**2, node.get("SHARED_CONV_CHANNEL"))
    eps = node.maybe("BN_EPS", 1e-5).number(0, 1)
    suppression = after.get("NMS_CONFIG")
    decoding = CenterDecoding(
        low=grid.low[:2],
        cell=(stride * grid.size[0], stride * grid.size[1]),
        limits=tuple(after.get("POST_CENTER_LIMIT_RANGE").numbers(-10_000, 10_000, 6)),
        most_peaks=after.get("MAX_OBJ_PER_SAMPLE").integer(1, 1 << 16),
        most_before=suppression.get("NMS_PRE_MAXSIZE").integer(1, 1 << 16),
        most=suppression.get("NMS_POST_MAXSIZE").integer(1, 1 << 16),
    )
    own = [ClassGroup(tuple(names.index(name) for name in group)) for group in groups]
    shape = BranchShape(shared, shared, 3, layers, bias, eps)
    return CenterHead(inputs, own, shape, decoding), unused
