"""Checkpoints of OpenPCDet: tiny networks with the answers of the original's own modules."""

import copy

import numpy as np
import pytest
import torch
import yaml

from perception_rt.cli.main import main
from perception_rt.model.archive import read_manifest
from perception_rt.model.boxes3d import nms_bev
from perception_rt.model.centerpoint import thin
from perception_rt.model.importers.openpcdet import import_openpcdet
from perception_rt.model.pointpillars import PillarGrid, Voxeliser, suppress
from perception_rt.model.runtime import Runtime
from perception_rt.types import BundleError, ModelError
from test.lidar_networks import cloud, difference, read, weights

BASE = """
FOV_POINTS_ONLY: true
POINT_CLOUD_RANGE: [0, -40, -3, 70, 40, 1]
POINT_FEATURE_ENCODING: {used_feature_list: [x, y, z, intensity]}
"""
POINTPILLAR, CENTERPOINT, DYNAMIC = (
    read(f"openpcdet_{name}") for name in ("pointpillar", "centerpoint", "centerpoint_dynamic")
)
CONFIG = POINTPILLAR["config"]


@pytest.fixture
def files(tmp_path):
    """A checkpoint as OpenPCDet writes it and its YAML, in folders as its repository has them."""
    folder = tmp_path / "tools" / "cfgs"
    (folder / "dataset_configs").mkdir(parents=True)
    (folder / "kitti_models").mkdir()
    (folder / "dataset_configs" / "base.yaml").write_text(BASE)
    config = folder / "kitti_models" / "tiny.yaml"
    return write(POINTPILLAR, tmp_path / "checkpoint_epoch_80.pth", config)


def write(case, checkpoint, config):
    config.write_text(case["config"])
    save(checkpoint, weights(case["layers"]))
    return checkpoint, config


def save(path, state):
    whole = {"global_step": torch.tensor([7]), **state}
    torch.save({"epoch": 80, "model_state": whole, "optimizer_state": {}, "version": "pcdet+0.6.0"}, path)


@pytest.mark.parametrize("case", [POINTPILLAR, CENTERPOINT, DYNAMIC])
def test_heads_and_boxes_are_those_of_the_original(tmp_path, case):
    imported = import_openpcdet(*write(case, tmp_path / "a.pth", tmp_path / "tiny.yaml"))
    found = difference(case, imported)
    assert found.raw < 1e-5
    assert found.boxes < 1e-4
    assert found.scores < 1e-5
    assert found.labels == 0


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


def test_a_bundle_of_several_sweeps(tmp_path, capsys):
    checkpoint, config = write(CENTERPOINT, tmp_path / "a.pth", tmp_path / "tiny.yaml")
    out = tmp_path / "mine.pt"
    cloud().tofile(tmp_path / "cloud.bin")
    command = ["bundle", "export", "openpcdet", str(checkpoint), "--config", str(config), "--out", str(out)]
    assert main([*command, "--check", str(tmp_path / "cloud.bin")]) == 0
    assert "velocities" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert (manifest.input.sweeps, manifest.input.ages) == (10, True)
    assert manifest.classes == ("car", "bus", "pedestrian")
    runtime = Runtime.open(out, "cpu")
    wanted = import_openpcdet(checkpoint, config).module(torch.from_numpy(cloud(5)))
    for got, want in zip(runtime(cloud(5)), wanted, strict=True):
        np.testing.assert_allclose(got, want.detach(), atol=1e-4)
    assert not np.array_equal(runtime(cloud())[1], runtime(cloud(5))[1])  # the ages matter
    np.testing.assert_array_equal(runtime(cloud())[1], runtime(np.pad(cloud(), ((0, 0), (0, 1))))[1])
    with pytest.raises(ModelError, match=r"\(N, 4\)"):
        runtime(np.zeros((5, 6), np.float32))


def test_branches_that_are_left_out_may_be_absent(tmp_path):
    checkpoint, config = write(CENTERPOINT, tmp_path / "a.pth", tmp_path / "tiny.yaml")
    state = weights(CENTERPOINT["layers"])
    save(checkpoint, {key: value for key, value in state.items() if ".vel." not in key})
    assert difference(CENTERPOINT, import_openpcdet(checkpoint, config)).raw < 1e-5


# --- what is refused, in one line ---------------------------------------------------------------------------


def refusal(checkpoint, config):
    with pytest.raises(BundleError) as caught:
        import_openpcdet(checkpoint, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_of_other_layers(files):
    checkpoint, config = files
    state = weights(POINTPILLAR["layers"])
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


HUGE = {**yaml.safe_load(CONFIG)["MODEL"]["BACKBONE_2D"], "LAYER_NUMS": [99, 99], "NUM_FILTERS": [1024] * 2}
ANCHORS = "MODEL DENSE_HEAD ANCHOR_GENERATOR_CONFIG"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("CLASS_NAMES", []),
        ("DATA_CONFIG _BASE_CONFIG_", "/etc/base.yaml"),
        ("DATA_CONFIG POINT_CLOUD_RANGE", [0, -8, -3, 24, 8]),
        ("DATA_CONFIG POINT_CLOUD_RANGE", [0, -8, -3, float("nan"), 8, 1]),
        ("DATA_CONFIG POINT_FEATURE_ENCODING", {"used_feature_list": ["x", "y", "z", "ring"]}),
        ("DATA_CONFIG POINT_FEATURE_ENCODING used_feature_list", ["x", "z", "y"]),
        ("DATA_CONFIG SEQUENCE_CONFIG", {"ENABLED": True, "SAMPLE_OFFSET": [-3, 1]}),
        ("DATA_CONFIG MAX_SWEEPS", 0),
        ("DATA_CONFIG DATA_PROCESSOR 1 NAME", "sample_points"),
        ("DATA_CONFIG DATA_PROCESSOR 1 VOXEL_SIZE", [0.01, 0.001, 4]),
        ("DATA_CONFIG DATA_PROCESSOR 1 VOXEL_SIZE", [1.0, 1.0, 1.0]),
        ("DATA_CONFIG DATA_PROCESSOR 1 MAX_NUMBER_OF_VOXELS", {"train": 9}),
        ("MODEL NAME", "SECONDNet"),
        ("MODEL VFE NAME", "MeanVFE"),
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
        ("MODEL BACKBONE_2D", HUGE),
        ("MODEL DENSE_HEAD TARGET_ASSIGNER_CONFIG BOX_CODER", "PreviousResidualDecoder"),
        ("MODEL ROI_HEAD", {"NAME": "PVRCNNHead"}),
        ("MODEL POST_PROCESSING SCORE_THRESH", 1.5),
        ("MODEL POST_PROCESSING NMS_CONFIG", {"NMS_TYPE": "nms_normal_gpu"}),
        ("MODEL POST_PROCESSING NMS_CONFIG MULTI_CLASSES_NMS", True),
    ],
)
def test_a_config_of_another_network_names_the_field(files, where, value):
    checkpoint, config = files
    named = change(config, where, value)
    assert named in refusal(checkpoint, config)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("MODEL DENSE_HEAD NAME", "AnchorHeadSingle"),
        ("MODEL DENSE_HEAD CLASS_NAMES_EACH_HEAD", [["car"], ["bus"]]),
        ("MODEL DENSE_HEAD CLASS_NAMES_EACH_HEAD", [["car", "bus"], ["bus", "pedestrian"]]),
        ("MODEL DENSE_HEAD SHARED_CONV_CHANNEL", 10**6),
        ("MODEL DENSE_HEAD NUM_HM_CONV", 0),
        ("MODEL DENSE_HEAD SEPARATE_HEAD_CFG HEAD_DICT rot out_channels", 1),
        ("MODEL DENSE_HEAD SEPARATE_HEAD_CFG HEAD_DICT wheels", {"out_channels": 4, "num_conv": 2}),
        ("MODEL DENSE_HEAD TARGET_ASSIGNER_CONFIG FEATURE_MAP_STRIDE", 2),
        ("MODEL DENSE_HEAD POST_PROCESSING SCORE_THRESH", "low"),
        ("MODEL DENSE_HEAD POST_PROCESSING POST_CENTER_LIMIT_RANGE", [0, 1]),
        ("MODEL DENSE_HEAD POST_PROCESSING USE_IOU_TO_RECTIFY_SCORE", True),
        ("MODEL DENSE_HEAD POST_PROCESSING NMS_CONFIG NMS_TYPE", "circle_nms"),
        ("MODEL DENSE_HEAD POST_PROCESSING NMS_CONFIG NMS_THRESH", [0.1, 0.2]),
        ("MODEL BACKBONE_3D", {"NAME": "VoxelResBackBone8x"}),
    ],
)
def test_a_center_head_of_another_kind_names_the_field(tmp_path, where, value):
    checkpoint, config = write(CENTERPOINT, tmp_path / "a.pth", tmp_path / "tiny.yaml")
    named = change(config, where, value)
    assert named in refusal(checkpoint, config)


VOXELS = {"MODEL VFE": {"NAME": "MeanVFE"}, "MODEL BACKBONE_3D": {"NAME": "VoxelBackBone8x"}}
COMMON = {  # OpenPCDet's own configurations by what tells them apart; "" for a bundle
    "kitti_models/pointpillar": (POINTPILLAR, {}, ""),
    "kitti_models/pointpillar_newaugs": (POINTPILLAR, {"DATA_CONFIG DATA_AUGMENTOR": {"AUG_LIST": [1]}}, ""),
    "waymo_models/pointpillar_1x": (POINTPILLAR, {"DATA_CONFIG DATASET": "WaymoDataset"}, ""),
    "waymo_models/centerpoint_pillar_1x": (CENTERPOINT, {}, ""),
    "nuscenes_models/cbgs_dyn_pp_centerpoint": (DYNAMIC, {}, ""),
    "nuscenes_models/cbgs_pp_multihead": (
        POINTPILLAR,
        {"MODEL DENSE_HEAD NAME": "AnchorHeadMulti"},
        "MODEL.DENSE_HEAD.NAME=AnchorHeadMulti",
    ),
    "nuscenes_models/cbgs_voxel01_res3d_centerpoint": (CENTERPOINT, VOXELS, "MODEL.VFE.NAME=MeanVFE"),
    "waymo_models/dsvt_pillar": (CENTERPOINT, {"MODEL VFE NAME": "DynamicVoxelVFE"}, "DynamicVoxelVFE"),
    **{
        name: (POINTPILLAR, {"MODEL NAME": kind, **VOXELS}, f"MODEL.NAME={kind}: must be PointPillar")
        for name, kind in {
            "kitti_models/second": "SECONDNet",
            "kitti_models/second_iou": "SECONDNetIoU",
            "kitti_models/pv_rcnn": "PVRCNN",
            "kitti_models/PartA2": "PartA2Net",
            "kitti_models/pointrcnn": "PointRCNN",
            "kitti_models/voxel_rcnn_car": "VoxelRCNN",
            "kitti_models/CaDDN": "CaDDN",
            "waymo_models/pv_rcnn_plusplus": "PVRCNNPlusPlus",
            "nuscenes_models/cbgs_pillar0075_res2d_centerpoint": "PillarNet",
            "nuscenes_models/cbgs_voxel0075_voxelnext": "VoxelNeXt",
            "nuscenes_models/transfusion_lidar": "TransFusion",
        }.items()
    },
}


@pytest.mark.parametrize("name", COMMON)
def test_a_common_config_gives_a_network_or_names_what_is_not_supported(tmp_path, name):
    case, changes, named = COMMON[name]
    checkpoint, config = write(case, tmp_path / "a.pth", tmp_path / "tiny.yaml")
    for where, value in changes.items():
        change(config, where, value)
    if named:
        assert named in refusal(checkpoint, config)
    else:
        assert difference(case, import_openpcdet(checkpoint, config)).raw < 1e-5


def change(config, where, value):
    """Set what stands at `where`; its last name."""
    data = yaml.safe_load(config.read_text())
    keys = [int(key) if key.isdecimal() else key for key in where.split()]
    node = data
    for key in keys[:-1]:
        node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
    node[keys[-1]] = copy.deepcopy(value)
    config.write_text(yaml.safe_dump(data))
    return [key for key in keys if isinstance(key, str)][-1]


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


def test_a_dynamic_grid_takes_all_points_of_all_heights():
    points = cloud()
    grid = PillarGrid((0, -8, -3), (24, 8, 1), (1, 0.5, 4), 24, 32, 1, 1, dynamic=True)
    kept, number, cell, count = Voxeliser(grid)(torch.from_numpy(points))
    inside = (points[:, 0] >= 0) & (points[:, 0] < 24) & (np.abs(points[:, 1]) < 8)
    assert len(kept) == inside.sum() == count.sum()
    column = np.floor(kept[:, 0]) + 24 * np.floor((kept[:, 1] + 8) / 0.5)
    np.testing.assert_array_equal(cell[number], column)


def test_circles_drop_the_lesser_of_two_near_boxes():
    boxes = torch.zeros((5, 7))
    boxes[:, 0] = torch.tensor([0, 1, 2, 3.5, 10])
    assert thin(boxes, 1.0).tolist() == [0, 2, 3, 4]  # the second is dropped, so it drops nothing
    assert thin(boxes, 0.99).tolist() == [0, 1, 2, 3, 4]
    assert thin(boxes[:0], 1.0).tolist() == []


def test_suppression_in_blocks_is_suppression():
    rng = np.random.default_rng(3)
    boxes = rng.uniform((0, 0, 0, 1, 1, 1, -3), (40, 40, 1, 5, 3, 2, 3), (900, 7)).astype(np.float32)
    scores = torch.arange(900, 0, -1) / 900
    boxes = torch.from_numpy(boxes)
    whole = nms_bev(boxes, scores, torch.zeros(900, dtype=torch.int64), 0.1, True)
    assert suppress(boxes, scores, 0.1, 1000).tolist() == whole.tolist()
    assert suppress(boxes, scores, 0.1, 20).tolist() == whole[:20].tolist()
