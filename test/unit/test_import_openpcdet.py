"""PointPillar checkpoints of OpenPCDet: a tiny network with the answers of the original's own modules."""

import copy

import numpy as np
import pytest
import torch
import yaml

from perception_rt.cli.main import main
from perception_rt.model.archive import read_manifest
from perception_rt.model.boxes3d import nms_bev
from perception_rt.model.importers.openpcdet import import_openpcdet
from perception_rt.model.pointpillars import PillarGrid, Voxeliser, suppress
from perception_rt.model.runtime import Runtime
from perception_rt.types import BundleError

BASE = """
FOV_POINTS_ONLY: true
POINT_CLOUD_RANGE: [0, -40, -3, 70, 40, 1]
POINT_FEATURE_ENCODING: {used_feature_list: [x, y, z, intensity]}
"""
CONFIG = """
CLASS_NAMES: [Car, Pedestrian]
DATA_CONFIG:
  _BASE_CONFIG_: cfgs/dataset_configs/base.yaml
  POINT_CLOUD_RANGE: [0, -8, -3, 24, 8, 1]
  DATA_PROCESSOR:
    - {NAME: mask_points_and_boxes_outside_range}
    - NAME: transform_points_to_voxels
      VOXEL_SIZE: [1.0, 1.0, 4]
      MAX_POINTS_PER_VOXEL: 4
      MAX_NUMBER_OF_VOXELS: {train: 100, test: 150}
MODEL:
  NAME: PointPillar
  VFE: {NAME: PillarVFE, WITH_DISTANCE: true, USE_ABSLOTE_XYZ: true, USE_NORM: true, NUM_FILTERS: [8, 6]}
  MAP_TO_BEV: {NAME: PointPillarScatter, NUM_BEV_FEATURES: 6}
  BACKBONE_2D:
    NAME: BaseBEVBackbone
    LAYER_NUMS: [1, 1]
    LAYER_STRIDES: [1, 2]
    NUM_FILTERS: [6, 8]
    UPSAMPLE_STRIDES: [0.5, 1]
    NUM_UPSAMPLE_FILTERS: [4, 4]
  DENSE_HEAD:
    NAME: AnchorHeadSingle
    CLASS_AGNOSTIC: false
    USE_DIRECTION_CLASSIFIER: true
    DIR_OFFSET: 0.78539
    DIR_LIMIT_OFFSET: 0.0
    NUM_DIR_BINS: 2
    ANCHOR_GENERATOR_CONFIG:
      - class_name: Car
        anchor_sizes: [[3.9, 1.6, 1.56]]
        anchor_rotations: [0, 1.57]
        anchor_bottom_heights: [-1.78]
        align_center: false
        feature_map_stride: 2
      - class_name: Pedestrian
        anchor_sizes: [[0.8, 0.6, 1.73]]
        anchor_rotations: [0, 1.57]
        anchor_bottom_heights: [-0.6]
        align_center: true
        feature_map_stride: 2
    TARGET_ASSIGNER_CONFIG: {BOX_CODER: ResidualCoder}
  POST_PROCESSING:
    SCORE_THRESH: 0.6
    NMS_CONFIG:
      MULTI_CLASSES_NMS: false
      NMS_TYPE: nms_gpu
      NMS_THRESH: 0.1
      NMS_PRE_MAXSIZE: 4096
      NMS_POST_MAXSIZE: 500
"""


def weights(shapes):
    """Weights from a seed, by parameter name and shape: OpenPCDet's modules got the same ones."""
    rng = np.random.default_rng(0)
    state = {}
    for name in sorted(shapes):
        value = rng.standard_normal(shapes[name])
        if name.endswith("running_var"):
            value = 0.5 + np.abs(value)
        elif value.ndim > 1:
            value = value * (1.5 / np.sqrt(np.prod(value.shape[1:])))
        if name.startswith("dense_head"):
            value = 0.1 * value
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def cloud():
    rng = np.random.default_rng(1)
    spread = rng.uniform((-1, -9, -3.5, 0), (25, 9, 1.5, 1), (700, 4)).astype(np.float32)
    dense = rng.uniform((4, -2, -2, 0), (7, 1, 0, 1), (120, 4)).astype(np.float32)
    return np.concatenate([spread, dense])


def norm(name, n):
    return {f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")}


SHAPES = {
    "vfe.pfn_layers.0.linear.weight": (4, 11),
    **norm("vfe.pfn_layers.0.norm", 4),
    "vfe.pfn_layers.1.linear.weight": (6, 8),
    **norm("vfe.pfn_layers.1.norm", 6),
    "backbone_2d.blocks.0.1.weight": (6, 6, 3, 3),
    **norm("backbone_2d.blocks.0.2", 6),
    "backbone_2d.blocks.0.4.weight": (6, 6, 3, 3),
    **norm("backbone_2d.blocks.0.5", 6),
    "backbone_2d.blocks.1.1.weight": (8, 6, 3, 3),
    **norm("backbone_2d.blocks.1.2", 8),
    "backbone_2d.blocks.1.4.weight": (8, 8, 3, 3),
    **norm("backbone_2d.blocks.1.5", 8),
    "backbone_2d.deblocks.0.0.weight": (4, 6, 2, 2),
    **norm("backbone_2d.deblocks.0.1", 4),
    "backbone_2d.deblocks.1.0.weight": (8, 4, 1, 1),
    **norm("backbone_2d.deblocks.1.1", 4),
    "dense_head.conv_cls.weight": (8, 8, 1, 1),
    "dense_head.conv_cls.bias": (8,),
    "dense_head.conv_box.weight": (28, 8, 1, 1),
    "dense_head.conv_box.bias": (28,),
    "dense_head.conv_dir_cls.weight": (8, 8, 1, 1),
    "dense_head.conv_dir_cls.bias": (8,),
}


@pytest.fixture
def files(tmp_path):
    """A checkpoint as OpenPCDet writes it and its YAML, in folders as its repository has them."""
    folder = tmp_path / "tools" / "cfgs"
    (folder / "dataset_configs").mkdir(parents=True)
    (folder / "kitti_models").mkdir()
    (folder / "dataset_configs" / "base.yaml").write_text(BASE)
    config = folder / "kitti_models" / "tiny.yaml"
    config.write_text(CONFIG)
    checkpoint = tmp_path / "checkpoint_epoch_80.pth"
    save(checkpoint, weights(SHAPES))
    return checkpoint, config


def save(path, state):
    whole = {"global_step": torch.tensor([7]), **state}
    torch.save({"epoch": 80, "model_state": whole, "optimizer_state": {}, "version": "pcdet+0.6.0"}, path)


def test_heads_and_boxes_are_those_of_the_original(files):
    imported = import_openpcdet(*files)
    with torch.no_grad():
        cls, box, direction = imported.module.raw(torch.from_numpy(cloud()))
        boxes, scores, labels = imported.module(torch.from_numpy(cloud()))
    # Of OpenPCDet 0.6's modules on the CPU; voxels by a loop over the points, NMS by OpenCV's polygons.
    for raw, total, row in (
        (cls, 176.849067, [0.300237, 0.330214, 0.625873, -0.387202, -0.204868, 0.140472, 0.460918]),
        (box, 611.075426, [-0.123661, 0.327391, -0.136883, 0.400819, 0.382503, -0.322788, 0.191664]),
        (direction, 140.087877, [-0.115416, 0.169001, -0.2446, -0.098087, -0.061051, -0.139253, -0.276387]),
    ):
        assert float(raw.double().abs().sum()) == pytest.approx(total, abs=1e-3)
        np.testing.assert_allclose(raw[0, 3, 5, :7], row, atol=1e-5)
    expected = [
        [21.94658, 7.29971, -1.91214, 0.34184, 0.31475, 2.48172, -2.72428],
        [16.38653, 4.46473, -1.36432, 0.31489, 0.42411, 0.66926, -2.72986],
        [17.97753, 7.2962, -1.66299, 0.5249, 0.40685, 2.0384, 2.82457],
        [16.03431, 7.25627, -1.64281, 0.48425, 0.44216, 2.3362, 3.01535],
        [16.94184, 10.33543, -0.59062, 8.1267, 2.3976, 3.3609, -2.01187],
    ]
    np.testing.assert_allclose(boxes[:5], expected, atol=1e-4)
    np.testing.assert_allclose(scores[:5], [0.842048, 0.788669, 0.768604, 0.766758, 0.738986], atol=1e-5)
    assert labels[:5].tolist() == [1, 1, 1, 1, 0]
    assert len(boxes) == 41


def test_the_command_writes_a_bundle(files, tmp_path, capsys):
    checkpoint, config = files
    out, bin_file = tmp_path / "mine.pt", tmp_path / "cloud.bin"
    cloud().tofile(bin_file)
    command = ["bundle", "export", "openpcdet", str(checkpoint), "--config", str(config), "--out", str(out)]
    assert main([*command, "--check", str(bin_file)]) == 0
    assert "FOV_POINTS_ONLY" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert (manifest.task, manifest.classes) == ("detect3d", ("Car", "Pedestrian"))
    assert manifest.input.range == (0, -8, -3, 24, 8, 1)  # the YAML's own, not the base's
    assert (manifest.score_threshold, manifest.nms_threshold) == (0.6, 0.1)
    assert manifest.golden.origin == "cloud"
    runtime = Runtime.open(out, "cpu")
    found = runtime(cloud())
    with torch.no_grad():
        wanted = import_openpcdet(checkpoint, config).module(torch.from_numpy(cloud()))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert runtime(np.zeros((0, 4), np.float32))[0].shape[1] == 7
    out.unlink()
    assert main([*command, "--check", str(config)]) == 2  # not whole points
    assert "check=" in capsys.readouterr().err
    assert not out.exists()


# --- what is refused, in one line ---------------------------------------------------------------------------


def refusal(checkpoint, config):
    with pytest.raises(BundleError) as caught:
        import_openpcdet(checkpoint, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_of_other_layers(files):
    checkpoint, config = files
    state = weights(SHAPES)
    del state["backbone_2d.blocks.1.4.weight"]
    state["dense_head.conv_cls.bias"] = torch.zeros(18)
    state["roi_head.weight"] = torch.zeros(1)
    save(checkpoint, state)
    text = refusal(checkpoint, config)
    assert "1 missing (backbone_2d.blocks.1.4.weight)" in text
    assert "1 unexpected (roi_head.weight)" in text
    assert "1 of another shape (dense_head.conv_cls.bias (18,) for (8,))" in text


class Code:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_the_files_is_executed(files, tmp_path):
    checkpoint, config = files
    torch.save({"model_state": {}, "hook": Code(tmp_path / "ran")}, checkpoint)
    assert "was not loaded" in refusal(checkpoint, config)
    config.write_text(f"CLASS_NAMES: !!python/object/apply:open ['{tmp_path / 'ran'}', w]\n")
    assert "no plain YAML" in refusal(checkpoint, config)
    assert not (tmp_path / "ran").exists()


ANCHORS = "MODEL DENSE_HEAD ANCHOR_GENERATOR_CONFIG"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("CLASS_NAMES", []),
        ("DATA_CONFIG _BASE_CONFIG_", "/etc/base.yaml"),
        ("DATA_CONFIG POINT_CLOUD_RANGE", [0, -8, -3, 24, 8]),
        ("DATA_CONFIG POINT_CLOUD_RANGE", [0, -8, -3, float("nan"), 8, 1]),
        ("DATA_CONFIG POINT_FEATURE_ENCODING", {"used_feature_list": ["x", "y", "z", "intensity", "time"]}),
        ("DATA_CONFIG DATA_PROCESSOR 1 NAME", "sample_points"),
        ("DATA_CONFIG DATA_PROCESSOR 1 VOXEL_SIZE", [0.01, 0.001, 4]),
        ("DATA_CONFIG DATA_PROCESSOR 1 VOXEL_SIZE", [1.0, 1.0, 1.0]),
        ("DATA_CONFIG DATA_PROCESSOR 1 MAX_NUMBER_OF_VOXELS", {"train": 9}),
        ("MODEL NAME", "SECONDNet"),
        ("MODEL VFE NAME", "DynPillarVFE"),
        ("MODEL VFE NUM_FILTERS", [6, 10**9]),
        ("MODEL VFE USE_NORM", "yes"),
        ("MODEL MAP_TO_BEV NUM_BEV_FEATURES", 7),
        ("MODEL BACKBONE_2D LAYER_STRIDES", [1]),
        ("MODEL BACKBONE_2D UPSAMPLE_STRIDES", [1, 1]),
        ("MODEL BACKBONE_2D UPSAMPLE_STRIDES", [0.3, 1]),
        ("MODEL DENSE_HEAD NAME", "AnchorHeadMulti"),
        (f"{ANCHORS} 0 feature_map_stride", 4),
        (f"{ANCHORS} 0 anchor_sizes", [[3.9, -1.6, 1.56]]),
        (f"{ANCHORS} 0 anchor_bottom_heights", [-1.78, 0.0]),
        (ANCHORS, []),
        ("MODEL DENSE_HEAD TARGET_ASSIGNER_CONFIG BOX_CODER", "PreviousResidualDecoder"),
        ("MODEL ROI_HEAD", {"NAME": "PVRCNNHead"}),
        ("MODEL POST_PROCESSING SCORE_THRESH", 1.5),
        ("MODEL POST_PROCESSING NMS_CONFIG", {"NMS_TYPE": "nms_normal_gpu"}),
        ("MODEL POST_PROCESSING NMS_CONFIG MULTI_CLASSES_NMS", True),
    ],
)
def test_a_config_of_another_network_names_the_field(files, where, value):
    checkpoint, config = files
    data = yaml.safe_load(CONFIG)
    keys = [int(key) if key.isdecimal() else key for key in where.split()]
    node = data
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = copy.deepcopy(value)
    config.write_text(yaml.safe_dump(data))
    named = [key for key in keys if isinstance(key, str)][-1]
    assert named in refusal(checkpoint, config)


@pytest.mark.parametrize(
    "text", ["", "[1]", "MODEL: 3", "a: [", "_BASE_CONFIG_: cfgs/kitti_models/tiny.yaml"]
)
def test_a_config_that_is_none(files, text):
    checkpoint, config = files
    config.write_text(text)
    assert "tiny.yaml" in refusal(checkpoint, config)


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 60, 1000])
def test_pillars_take_points_in_their_order(most):
    grid = PillarGrid((0, -8, -3), (24, 8, 1), (1, 0.5, 4), 24, 32, 3, most)
    points = cloud()
    held = {}
    for point, (x, y, z) in zip(points, np.floor((points[:, :3] - (0, -8, -3)) / (1, 0.5, 4)), strict=True):
        if 0 <= x < 24 and 0 <= y < 32 and z == 0:
            cell = int(y * 24 + x)
            if cell in held or len(held) < most:
                held.setdefault(cell, []).append(point)
    kept, number, cell, count = Voxeliser(grid)(torch.from_numpy(points))
    assert cell.tolist() == sorted(held)
    assert count.tolist() == [min(3, len(held[key])) for key in sorted(held)]
    assert number.tolist() == [i for i, n in enumerate(count.tolist()) for _ in range(n)]
    np.testing.assert_array_equal(kept, [point for key in sorted(held) for point in held[key][:3]])


def test_suppression_in_blocks_is_suppression():
    rng = np.random.default_rng(3)
    boxes = rng.uniform((0, 0, 0, 1, 1, 1, -3), (40, 40, 1, 5, 3, 2, 3), (900, 7)).astype(np.float32)
    scores = torch.arange(900, 0, -1) / 900
    boxes = torch.from_numpy(boxes)
    whole = nms_bev(boxes, scores, torch.zeros(900, dtype=torch.int64), 0.1, True)
    assert suppress(boxes, scores, 0.1, 1000).tolist() == whole.tolist()
    assert suppress(boxes, scores, 0.1, 20).tolist() == whole[:20].tolist()
