"""mmdetection3d's PointPillars and CenterPoint checkpoints with pillars, without mmcv.

The configuration defines the network, the checkpoint has its weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perception_rt.model.centerpoint import BranchShape, CenterDecoding, CenterHead, ClassGroup
from perception_rt.model.importers.common import Imported, sha256_of
from perception_rt.model.importers.lidar import (
    MAX_ANCHORS,
    MAX_CHANNELS,
    Setting,
    bev_backbone,
    check_size,
    intensity_of,
    pillar_grid,
)
from perception_rt.model.importers.mmdet3d_config import parse_config, read_config
from perception_rt.model.importers.torchvision import fill, load_checkpoint, state_of
from perception_rt.model.pointpillars import AnchorBox, AnchorHead, PillarFeatures, PillarGrid, PointPillars
from perception_rt.model.specs import AGE, MAX_SWEEPS, CloudSpec
from perception_rt.model.task import DETECT3D
from perception_rt.types.errors import BundleError

# By the type of the model, the prefix of its parts.
MODELS = {"VoxelNet": "", "MVXFasterRCNN": "pts_", "CenterPoint": "pts_"}
NORMS = ("BN", "BN1d", "BN2d", "SyncBN", "naiveSyncBN1d", "naiveSyncBN2d")
# Of a CenterHead, by the package's name of a branch: mmdetection3d's, and its channels.
PARTS = {"center": ("reg", 2), "center_z": ("height", 1), "dim": ("dim", 3), "rot": ("rot", 2)}
HEAT_MAP = "heatmap"
RIGHT_ANGLE = 1.5707963
KINDS = {
    "voxel_encoder": ("PillarFeatureNet", "HardVFE"),
    "middle_encoder": ("PointPillarsScatter",),
    "backbone": ("SECOND",),
    "neck": ("SECONDFPN",),
    "bbox_head": ("Anchor3DHead", "CenterHead"),
}


def import_mmdet3d(
    checkpoint: Path,
    config: Path | None = None,
    classes: Sequence[str] | None = None,
    intensity: str | None = None,
    version: str | None = None,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Imported:
    """Build a pillar network of mmdetection3d.

    Its parts are PillarFeatureNet or HardVFE, PointPillarsScatter, SECOND, SECONDFPN, and Anchor3DHead or
    CenterHead.

    Args:
        checkpoint: the ``.pth`` that its training wrote; nothing in it is executed.
        config: the file that it was trained with, ``.py`` (read as data, never executed), ``.json`` or
            ``.yaml``; None for the configuration in the checkpoint.
        classes: names instead of those in the files.
        intensity: of the clouds that it was trained on, one of `perception_rt.model.specs.INTENSITIES`; None
            for that of the configuration's data set.
        version: of mmdetection3d, if the files do not give it; 1.0 changed the meaning of box parameters.
        score_threshold: lowest score kept; None for the configuration's.
        nms_threshold: IoU of NMS; None for the configuration's.

    Raises:
        BundleError: a file cannot be read, the configuration describes another network or contains code, or
            the weights do not fit.
    """
    loaded = load_checkpoint(checkpoint)
    meta = loaded.get("meta") if isinstance(loaded, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    top, source = _configuration(config, meta, checkpoint)
    notes: list[str] = []
    model = top.get("model")
    model.get("type").one_of(*MODELS)
    parts = _Parts(model, state_of(loaded, checkpoint))
    _check_kinds(parts)
    turned = _turned(version, meta, model, notes)
    grid = _grid(parts, model)
    columns, sweeps = _points(top, parts.get("voxel_encoder").maybe("in_channels", 4), notes)
    vfe = _features(parts, grid, len(columns), turned)
    backbone, cells = _backbone(parts, vfe.channels, grid)
    tests = _tests(top, model)
    node = parts.get("bbox_head")
    head: nn.Module
    state = parts.state
    if node.value["type"] == "CenterHead":
        head, own, thresholds, unused = _center_head(
            node, tests, backbone.channels, grid, cells, turned, notes
        )
        state = {key: value for key, value in state.items() if not _is_of(key, unused)}
    else:
        head, thresholds = _anchor_head(node, tests, backbone.channels, cells, turned, notes)
        own = _names(top, meta, head.classes)
    count = len(own) if isinstance(head, CenterHead) else head.classes
    if classes is not None and len(classes) != count:
        raise BundleError(f"classes: {len(classes)} names, but the network has {count}")
    names = tuple(classes or own)
    if not names:
        raise BundleError(f"classes: the network has {count}, and no file names so many: give --classes FILE")
    score = thresholds[0] if score_threshold is None else score_threshold
    nms = thresholds[1] if nms_threshold is None else nms_threshold
    module = PointPillars(grid, columns, vfe, backbone, head, score, nms)
    fill(module, state, checkpoint, parts.name_of)
    provenance = {
        "what": f"{model.value['type']} of mmdetection3d",
        "checkpoint": f"{checkpoint.name} sha256 {sha256_of(checkpoint)}",
        "config": source,
        "notes": [*notes],
    }
    spec = CloudSpec(
        (*grid.low, *grid.high),
        intensity or intensity_of(top.maybe("dataset_type", "")),
        sweeps=sweeps,
        ages=AGE in columns,
    )
    return Imported(
        names,
        spec,
        provenance,
        score,
        nms,
        module=module.eval(),
        notes=notes,
        task=DETECT3D.name,
    )


def _configuration(config: Path | None, meta: Mapping[str, Any], checkpoint: Path) -> tuple[Setting, str]:
    """Return the configuration and its source."""
    if config is not None:
        source = f"{config.name} sha256 {sha256_of(config)}" if config.is_file() else config.name
        return Setting(read_config(config), str(config), inner=False), source
    text = meta.get("cfg", meta.get("config"))
    if not isinstance(text, str):
        raise BundleError(f"{checkpoint}: holds no configuration: give --config FILE")
    what = f"{checkpoint}: its configuration"
    return Setting(parse_config(text, what), what, inner=False), "of the checkpoint"


class _Parts:
    """The parts of a model, and the names of its weights."""

    def __init__(self, model: Setting, state: dict[str, Tensor]) -> None:
        self.model, self.state = model, state
        self.prefix = MODELS[model.value["type"]]
        self.layers = "pfn_layers"

    def get(self, name: str, *keys: str) -> Setting:
        """The configuration of a part, or what stands in it under `keys`."""
        return self.model.get(self.prefix + name, *keys)

    def name_of(self, own: str) -> str:
        """Return the name in the checkpoint of a parameter of `PointPillars`."""
        part, _, rest = own.partition(".")
        keys = rest.split(".")
        if part == "vfe":
            return f"{self.prefix}voxel_encoder.{self.layers}.{'.'.join(keys[1:])}"
        if part == "backbone_2d" and keys[0] == "blocks":  # mmdetection3d pads in the convolution
            keys[2] = str(int(keys[2]) - 1)
            return f"{self.prefix}backbone.{'.'.join(keys)}"
        if part == "backbone_2d":
            return f"{self.prefix}neck.{rest}"
        if keys[0] == "conv_box":
            keys[0] = "conv_reg"
        elif keys[0] == "shared_conv":
            keys[1] = "conv" if keys[1] == "0" else "bn"
        elif keys[0] == "heads_list":
            keys[0] = "task_heads"
            keys[2] = PARTS[keys[2]][0] if keys[2] in PARTS else HEAT_MAP
            if len(keys) == 6:
                keys[4] = "conv" if keys[4] == "0" else "bn"
        return f"{self.prefix}bbox_head.{'.'.join(keys)}"


def _is_of(key: str, unused: Sequence[str]) -> bool:
    """Return whether a weight belongs to an unused branch."""
    found = re.search(r"bbox_head\.task_heads\.\d+\.(\w+)\.", key)
    return found is not None and found[1] in unused


def _check_kinds(parts: _Parts) -> None:
    """Refuse networks of other parts, before the settings of the parts."""
    for name, kinds in KINDS.items():
        parts.get(name, "type").one_of(*kinds)


def _turned(version: str | None, meta: Mapping[str, Any], model: Setting, notes: list[str]) -> bool:
    """Return whether boxes are those of mmdetection3d below 1.0, with a note."""
    own = meta.get("mmdet3d_version")
    if version is not None:
        said, number = "option", version
    elif isinstance(own, str):
        said, number = "the checkpoint's meta.mmdet3d_version", own
    elif isinstance(meta.get("mmengine_version"), str) or model.has("data_preprocessor"):
        said, number = "the files are of mmengine's form", "1.1 or newer"
    else:
        raise BundleError(
            f"{model.where}: neither it nor the checkpoint says which mmdetection3d it was trained with, and "
            "1.0 changed the order of a box's sides and its yaw: give --mmdet3d-version X.Y"
        )
    major = re.match(r"v?(\d{1,4})\.", f"{number}.")
    if major is None:
        raise BundleError(f"mmdet3d_version={number!r}: must be a version as 0.17.1 or 1.4.0")
    old = int(major[1]) < 1
    how = "width before length, yaw from -y clockwise" if old else "length before width, yaw from x"
    notes.append(f"boxes: as of mmdetection3d {number} ({said}): {how}")
    return old


def _grid(parts: _Parts, model: Setting) -> PillarGrid:
    if model.has("img_backbone"):
        raise BundleError(f"{model.at('img_backbone')}: must be absent: only points are taken")
    if model.has("data_preprocessor"):
        node = model.get("data_preprocessor")
        node.maybe("voxel_type", "hard").one_of("hard")
        node = node.get("voxel_layer")
    else:
        node = parts.get("voxel_layer")
    area = node.get("point_cloud_range").numbers(-1000, 1000, 6)
    most = node.get("max_voxels")
    if isinstance(most.value, list | tuple):
        most = most.items(2)[1]
    grid = pillar_grid(
        area,
        node.get("voxel_size"),
        node.get("max_num_points").integer(1, 10_000),
        most.integer(1, 1 << 22),
    )
    shape = parts.get("middle_encoder", "output_shape")
    if tuple(shape.integers(1, 1 << 22, 2)) != (grid.rows, grid.columns):
        raise shape.refusal(f"the pillars along y and x, {(grid.rows, grid.columns)}")
    return grid


def _pipeline(top: Setting) -> list[Setting]:
    """Return the steps that load a cloud for a test; empty if the configuration has none."""
    for keys in (
        ("test_pipeline",),
        ("test_dataloader", "dataset", "pipeline"),
        ("data", "test", "pipeline"),
    ):
        node = top
        for key in keys:
            node = node.maybe(key, None)
        if node.value is not None:
            return node.items()
    return []


def _points(top: Setting, inputs: Setting, notes: list[str]) -> tuple[list[int], int]:
    """Return the columns of a point, and the number of sweeps of a cloud."""
    loaders = {step.get("type").value: step for step in _pipeline(top) if step.has("type")}
    sweeps, single = loaders.get("LoadPointsFromMultiSweeps"), loaders.get("LoadPointsFromFile")
    width = inputs.integer(3, 64)
    if sweeps is not None:
        used = sweeps.maybe("use_dim", [0, 1, 2, 4])
    elif single is not None:
        used = single.maybe("use_dim", [0, 1, 2])
    else:
        used = Setting(min(width, 4), f"{inputs.where}, for want of a test pipeline")
    chosen = list(range(used.integer(3, 64))) if isinstance(used.value, int) else used.integers(0, 63)
    if len(chosen) != width or chosen[:3] != [0, 1, 2] or max(chosen) > AGE:
        raise used.refusal(f"x y z and others, {width} as in_channels of the voxel encoder says")
    if single is not None and single.maybe("norm_intensity", False).flag():
        notes.append("config: it was trained on the tangent hyperbolic of intensities (norm_intensity)")
    if sweeps is not None:
        return chosen, 1 + sweeps.maybe("sweeps_num", 10).integer(0, MAX_SWEEPS - 1)
    if AGE in chosen:
        if "Waymo" not in str(top.maybe("dataset_type", "").value):
            raise used.refusal("without the fifth column: clouds have no such")
        notes.append("config: it takes the elongation of each point: clouds have none, and it gets 0")
    return [column + 1 if column == AGE else column for column in chosen], 1


def _eps(node: Setting, eps: float = 1e-5) -> float:
    """Return epsilon of the batch normalisation under ``norm_cfg``, or the default."""
    if not node.has("norm_cfg"):
        return eps
    norm = node.get("norm_cfg")
    norm.get("type").one_of(*NORMS)
    return norm.maybe("eps", 1e-5).number(0, 1)


def _features(parts: _Parts, grid: PillarGrid, columns: int, turned: bool) -> PillarFeatures:
    node = parts.get("voxel_encoder")
    plain = node.value["type"] == "PillarFeatureNet"
    parts.layers = "pfn_layers" if plain else "vfe_layers"
    node.maybe("mode", "max").one_of("max")
    for key, own in (("voxel_size", grid.size), ("point_cloud_range", (*grid.low, *grid.high))):
        if node.has(key) and not all(
            math.isclose(a, b) for a, b in zip(node.get(key).numbers(-1000, 1000, len(own)), own, strict=True)
        ):
            raise node.get(key).refusal(f"as of the voxel layer, {own}")
    channels = node.get("feat_channels")
    filters = channels.integers(2, MAX_CHANNELS)
    if not filters:
        raise channels.refusal("channels of one layer or more")
    if plain:  # half of an inner layer is the maximum
        filters = [*(count // 2 for count in filters[:-1]), filters[-1]]
    distance = node.maybe("with_distance", False).flag()
    cluster = node.maybe("with_cluster_center", plain).flag()
    middle = 0
    if node.maybe("with_voxel_center", plain).flag():
        # PillarFeatureNet had the place along x and y alone until 1.0: the first layer tells.
        first = parts.state.get(f"{parts.prefix}voxel_encoder.{parts.layers}.0.linear.weight")
        width = first.shape[1] if first is not None and first.ndim == 2 else -1
        usual = 2 if plain and turned else 3
        left = width - columns - 3 * cluster - distance
        middle = left if plain and left in (2, 3) else usual
    return PillarFeatures(
        grid,
        columns,
        filters,
        distance=distance,
        cluster=cluster,
        middle=middle,
        relative=plain and middle > 0 and node.maybe("legacy", True).flag(),
        eps=_eps(node, 1e-3),
    )


def _backbone(parts: _Parts, inputs: int, grid: PillarGrid) -> tuple[Any, tuple[int, int]]:
    node, neck = parts.get("backbone"), parts.get("neck")
    for part, key, kind in (
        (node, "conv_cfg", "Conv2d"),
        (neck, "conv_cfg", "Conv2d"),
        (neck, "upsample_cfg", "deconv"),
    ):
        part.maybe(key, {}).maybe("type", kind).one_of(kind)
        part.maybe(key, {}).maybe("bias", False).one_of(False)
    layers = node.maybe("layer_nums", [3, 5, 5])
    up = neck.maybe("upsample_strides", [1, 2, 4])
    if len(up.sequence()) != len(layers.sequence()):
        raise up.refusal("one for each level of the backbone")
    return bev_backbone(
        inputs,
        (grid.rows, grid.columns),
        (layers, node.maybe("layer_strides", [2, 2, 2]), node.maybe("out_channels", [128, 128, 256])),
        (up, neck.maybe("out_channels", [256, 256, 256])),
        neck.maybe("use_conv_for_no_stride", False).flag(),
        (_eps(node, 1e-3), _eps(neck, 1e-3)),
    )


def _tests(top: Setting, model: Setting) -> Setting:
    """Return the test settings."""
    node = model.get("test_cfg") if model.has("test_cfg") else top.get("test_cfg")
    return node.get("pts") if node.has("pts") else node


def _names(top: Setting, meta: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the class names of an Anchor3DHead; empty if no file has the right number."""
    data = meta.get("dataset_meta")
    found: list[Any] = [meta.get("CLASSES"), data.get("classes") if isinstance(data, Mapping) else None]
    found += [top.maybe("class_names", None).value, top.maybe("metainfo", {}).maybe("classes", None).value]
    for names in found:
        if isinstance(names, list | tuple) and len(names) == count:
            return tuple(str(name) for name in names)
    return ()


def _anchor_head(
    node: Setting,
    tests: Setting,
    inputs: int,
    cells: tuple[int, int],
    turned: bool,
    notes: list[str],
) -> tuple[AnchorHead, tuple[float, float]]:
    """Return the head, and the thresholds of score and IoU."""
    node.get("feat_channels").one_of(inputs)
    node.maybe("use_direction_classifier", True).one_of(True)
    node.get("loss_cls", "use_sigmoid").one_of(True)
    coder = node.maybe("bbox_coder", {})
    coder.maybe("type", "DeltaXYZWLHRBBoxCoder").one_of("DeltaXYZWLHRBBoxCoder")
    code = coder.maybe("code_size", 7).integer(7, 9)
    if code == 9:
        notes.append("config: it predicts velocities: they are left out, as detections have none")
    tests.get("use_rotate_nms").one_of(True)
    classes = node.get("num_classes").integer(1, 1000)
    anchors = _anchors(node.get("anchor_generator"))
    check_size(inputs * len(anchors) * classes, node.get("num_classes"))
    head = AnchorHead(
        inputs,
        classes,
        anchors,
        cells,
        2,
        node.maybe("dir_offset", 0.0 if turned else -math.pi / 2).number(-math.tau, math.tau),
        node.maybe("dir_limit_offset", 1 if turned else 0).number(-10, 10),
        most_before=tests.get("nms_pre").integer(1, 1 << 16),
        most=tests.get("max_num").integer(1, 1 << 16),
        by_class=True,
        code=code,
        turned=turned,
    )
    return head, (tests.get("score_thr").number(0, 1), tests.get("nms_thr").number(0, 1))


def _anchors(node: Setting) -> list[AnchorBox]:
    node.get("type").one_of("AlignedAnchor3DRangeGenerator", "Anchor3DRangeGenerator")
    aligned = node.value["type"] == "AlignedAnchor3DRangeGenerator"
    node.maybe("align_corner", False).one_of(False)
    node.maybe("scales", [1]).one_of([1], (1,))
    ranges = [item.numbers(-1000, 1000, 6) for item in node.get("ranges").items()]
    sizes = [item.numbers(0.01, 100, 3) for item in node.get("sizes").items()]
    if len(ranges) not in (1, len(sizes)) or not sizes:
        raise node.get("ranges").refusal(f"one, or one for each of the {len(sizes)} sizes")
    yaws = node.maybe("rotations", [0, RIGHT_ANGLE]).numbers(-10, 10)
    anchors = []
    for area, size in zip(ranges if len(ranges) == len(sizes) else ranges * len(sizes), sizes, strict=True):
        bottom = (area[2] + area[5]) / 2 if aligned else area[2]
        place = (area[0], area[1], area[3], area[4])
        anchors += [AnchorBox((size[0], size[1], size[2]), yaw, bottom, place, aligned) for yaw in yaws]
    if not 1 <= len(anchors) <= MAX_ANCHORS:
        raise node.maybe("rotations", yaws).refusal(f"such that a cell has 1 to {MAX_ANCHORS} anchors")
    return anchors


def _center_head(
    node: Setting,
    tests: Setting,
    inputs: int,
    grid: PillarGrid,
    cells: tuple[int, int],
    turned: bool,
    notes: list[str],
) -> tuple[CenterHead, tuple[str, ...], tuple[float, float], list[str]]:
    """Return the head, its class names, the thresholds of score and IoU, and the unused branches."""
    node.get("in_channels").one_of(inputs)
    groups = [
        [str(name) for name in task.get("class_names").sequence()] for task in node.get("tasks").items()
    ]
    names = tuple(name for group in groups for name in group)
    if not groups or not all(groups) or len(set(names)) != len(names):
        raise node.get("tasks").refusal("groups of classes, each class once")
    common, separate, coder = node.get("common_heads"), node.get("separate_head"), node.get("bbox_coder")
    separate.get("type").one_of("SeparateHead")
    coder.get("type").one_of("CenterPointBBoxCoder")
    layers = {"hm": node.maybe("num_heatmap_convs", 2).integer(1, 10)}
    for name, (theirs, channels) in PARTS.items():
        shape = common.get(theirs).items(2)
        shape[0].one_of(channels)
        layers[name] = shape[1].integer(1, 10)
    unused = [name for name in common.value if name not in {theirs for theirs, _ in PARTS.values()}]
    for name in unused:
        if name != "vel":
            raise BundleError(f"{common.at(name)}: is no branch of a CenterHead")
        notes.append("config: it predicts velocities: they are left out, as detections have none")
    for part in (node, separate):
        part.maybe("bias", "auto").one_of("auto", False)
    shared = node.maybe("share_conv_channel", 64).integer(1, MAX_CHANNELS)
    kernel = separate.maybe("final_kernel", 1)
    kernel.one_of(1, 3, 5)
    eps = _eps(node)
    if _eps(separate) != eps:
        raise separate.get("norm_cfg").refusal(f"as of the head, eps {eps}")
    between = separate.maybe("head_conv", 64).integer(1, MAX_CHANNELS)
    wide = max(shared, between)
    check_size(kernel.value**2 * len(groups) * sum(layers.values()) * wide**2, node.get("tasks"))
    limits = coder.get("post_center_range").numbers(-10_000, 10_000, 6)
    size = coder.get("voxel_size").numbers(0.01, 1000)
    stride = coder.get("out_size_factor").integer(1, 256)
    if (grid.rows // stride, grid.columns // stride) != cells:
        raise coder.get("out_size_factor").refusal(
            f"such that {(grid.rows, grid.columns)} pillars become the {cells} cells of the backbone"
        )
    low = coder.get("pc_range").numbers(-1000, 1000)
    if len(low) < 2 or len(size) < 2:
        raise coder.get("pc_range").refusal("x and y at least, as voxel_size")
    score = coder.maybe("score_threshold", 0.0).number(0, 1)
    kind = tests.maybe("nms_type", "rotate")
    kind.one_of("rotate", "circle")
    peaks = coder.maybe("max_num", 100).integer(1, 1 << 16)
    radii, nms, before = [0.0] * len(groups), 1.0, peaks
    if kind.value == "circle":
        radii = tests.get("min_radius").numbers(0, 1e6, len(groups))
    else:
        nms, score = tests.get("nms_thr").number(0, 1), max(score, tests.get("score_threshold").number(0, 1))
        before = tests.get("pre_max_size").integer(1, 1 << 16)
        if tests.get("post_center_limit_range").numbers(-10_000, 10_000, 6) != limits:
            raise tests.get("post_center_limit_range").refusal(f"post_center_range of bbox_coder, {limits}")
    decoding = CenterDecoding(
        low=(low[0], low[1]),
        cell=(stride * size[0], stride * size[1]),
        limits=tuple(limits),
        most_peaks=peaks,
        most_before=before,
        most=tests.get("post_max_size").integer(1, 1 << 16),
        logarithm=node.maybe("norm_bbox", True).flag(),
        sine_first=True,
        turned=turned,
    )
    own = [
        ClassGroup(tuple(names.index(name) for name in group), radius)
        for group, radius in zip(groups, radii, strict=True)
    ]
    form = BranchShape(shared, between, kernel.value, layers, bias=False, eps=eps)
    return CenterHead(inputs, own, form, decoding), names, (score, nms), unused
