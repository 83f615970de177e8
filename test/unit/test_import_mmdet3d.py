"""Checkpoints of mmdetection3d: tiny networks with the answers of the original's own modules."""

import re
import sys
import types

import numpy as np
import pytest
import torch

from perception_rt.cli.main import main
from perception_rt.model.archive import read_manifest
from perception_rt.model.importers.mmdet3d import import_mmdet3d
from perception_rt.model.runtime import Runtime
from perception_rt.types import BundleError
from test.lidar_networks import NAMES, cloud, difference, read, weights

CASES = {name: read(name) for name in NAMES if name.startswith("mmdet3d_")}
PILLARS, CENTERPOINT = CASES["mmdet3d_pointpillars"], CASES["mmdet3d_centerpoint"]


def write(case, folder, **more):
    """A checkpoint as mmdetection3d writes it, and its configuration."""
    checkpoint, config = folder / "epoch_80.pth", folder / "tiny.py"
    config.write_text(case["config"])
    meta = {**case["meta"], "epoch": 80, "dataset_meta": {"classes": ("Pedestrian", "Car")}}
    torch.save({"meta": meta, "state_dict": weights(case["layers"]), **more}, checkpoint)
    return checkpoint, config


@pytest.mark.parametrize("name", CASES)
def test_heads_and_boxes_are_those_of_the_original(tmp_path, name):
    found = difference(CASES[name], import_mmdet3d(*write(CASES[name], tmp_path)))
    assert found.raw < 5e-5
    assert found.boxes < 1e-4
    assert found.scores < 1e-5
    assert found.labels == 0


def test_the_command_writes_a_bundle(tmp_path, capsys):
    checkpoint, config = write(CENTERPOINT, tmp_path)
    out = tmp_path / "mine.pt"
    command = ["bundle", "export", "mmdet3d", str(checkpoint), "--config", str(config), "--out", str(out)]
    cloud().tofile(tmp_path / "cloud.bin")
    assert main([*command, "--check", str(tmp_path / "cloud.bin")]) == 0
    printed = capsys.readouterr().out
    assert "mmdetection3d 1.1 or newer" in printed
    assert "velocities" in printed
    manifest = read_manifest(out)
    assert manifest.classes == ("car", "pedestrian", "traffic_cone")
    assert (manifest.input.sweeps, manifest.input.ages) == (10, True)
    wanted = import_mmdet3d(checkpoint, config).module(torch.from_numpy(cloud(5)))
    for got, want in zip(Runtime.open(out, "cpu")(cloud(5)), wanted, strict=True):
        np.testing.assert_allclose(got, want.detach(), atol=1e-4)
    out.unlink()
    config.write_text("import os\n")
    assert main([*command, "--check", str(tmp_path / "cloud.bin")]) == 2
    error = capsys.readouterr().err
    assert "line 1: import os: is code" in error
    assert error.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cloud.bin", "epoch_80.pth", "tiny.py"]


def test_thresholds_and_names_of_the_user(tmp_path):
    imported = import_mmdet3d(*write(PILLARS, tmp_path), ["a", "b"], "byte", None, 0.7, 0.3)
    assert (imported.classes, imported.input_spec.intensity) == (("a", "b"), "byte")
    assert (imported.score_threshold, imported.module.nms_threshold) == (0.7, 0.3)
    with pytest.raises(BundleError, match="3 names, but the network has 2"):
        import_mmdet3d(*write(PILLARS, tmp_path), ["a", "b", "c"])
    bare = {**PILLARS, "config": PILLARS["config"].replace("class_names", "names")}
    checkpoint, config = write(bare, tmp_path)
    assert import_mmdet3d(checkpoint, config).classes == ("Pedestrian", "Car")  # of the checkpoint
    torch.save({"meta": PILLARS["meta"], "state_dict": weights(PILLARS["layers"])}, checkpoint)
    with pytest.raises(BundleError, match="the network has 2, and no file names so many"):
        import_mmdet3d(checkpoint, config)


def test_the_configuration_of_the_checkpoint(tmp_path):
    checkpoint, _ = write(PILLARS, tmp_path)
    whole = torch.load(checkpoint)
    whole["meta"]["cfg"] = PILLARS["config"]
    torch.save(whole, checkpoint)
    assert difference(PILLARS, import_mmdet3d(checkpoint)).raw < 1e-5
    del whole["meta"]["cfg"]
    torch.save(whole, checkpoint)
    with pytest.raises(BundleError, match="give --config FILE"):
        import_mmdet3d(checkpoint)


@pytest.mark.parametrize(
    ("meta", "option", "old"),
    [
        ({"mmdet3d_version": "0.18.1"}, None, True),
        ({"mmdet3d_version": "1.0.0rc0"}, None, False),
        ({"mmdet3d_version": "0.18.1"}, "1.0.0rc6", False),
        ({}, "0.15", True),
    ],
)
def test_the_version_says_what_a_box_is(tmp_path, meta, option, old):
    case = CASES["mmdet3d_pointpillars_below_1"]
    imported = import_mmdet3d(*write({**case, "meta": meta}, tmp_path), version=option)
    assert imported.module.dense_head.turned is old
    assert any("width before length" in note for note in imported.notes) is old


def test_no_version_and_a_wrong_one(tmp_path):
    case = CASES["mmdet3d_pointpillars_below_1"]
    files = write({**case, "meta": {}}, tmp_path)
    with pytest.raises(BundleError, match="--mmdet3d-version"):
        import_mmdet3d(*files)
    with pytest.raises(BundleError, match="mmdet3d_version='newest'"):
        import_mmdet3d(*files, version="newest")


def test_voxel_centres_of_the_weights_count(tmp_path):
    """The place along z became a feature in 1.0: the first layer tells, whatever the version."""
    case = CASES["mmdet3d_pointpillars_below_1"]
    assert import_mmdet3d(*write(case, tmp_path)).module.vfe.axes == 2
    layers = dict(case["layers"])
    layers["voxel_encoder.pfn_layers.0.linear.weight"] = [4, 11]
    imported = import_mmdet3d(*write({**case, "layers": layers}, tmp_path))
    assert imported.module.vfe.axes == 3


# --- what is refused, in one line ---------------------------------------------------------------------------


def test_a_checkpoint_of_other_layers_names_them_as_the_file_does(tmp_path):
    layers = dict(PILLARS["layers"])
    del layers["backbone.blocks.1.3.weight"]
    layers["bbox_head.conv_reg.bias"] = [18]
    layers["img_backbone.conv1.weight"] = [1]
    with pytest.raises(BundleError) as caught:
        import_mmdet3d(*write({**PILLARS, "layers": layers}, tmp_path))
    text = str(caught.value)
    assert "1 missing (backbone.blocks.1.3.weight)" in text
    assert "1 unexpected (img_backbone.conv1.weight)" in text
    assert "1 of another shape (bbox_head.conv_reg.bias (18,) for (28,))" in text
    assert "\n" not in text


class Code:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, zipped):
    checkpoint, config = write(PILLARS, tmp_path)
    whole = {**torch.load(checkpoint), "hook": Code(tmp_path / "ran")}
    torch.save(whole, checkpoint, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BundleError, match="was not loaded"):
        import_mmdet3d(checkpoint, config)
    assert not (tmp_path / "ran").exists()


class Log:
    """As mmengine's: arrays, NumPy numbers and bound functions."""

    def __init__(self):
        self.values, self.best, self.least = np.arange(5.0), np.float64(2), getattr

    def __setstate__(self, state):
        raise AssertionError("was run")


class Call:
    """Unpickling it would call a function of mmengine."""

    def __reduce__(self):
        return sys.modules["mmengine.logging"].run, ("now",)


def run(when):
    raise AssertionError(f"was run {when}")


@pytest.mark.parametrize("zipped", [True, False])
def test_the_log_beside_the_weights_becomes_nothing(tmp_path, monkeypatch, zipped):
    module = types.ModuleType("mmengine.logging")
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, found in (("Log", Log), ("run", run)):
        monkeypatch.setattr(found, "__module__", module.__name__)
        setattr(module, name, found)
    checkpoint, config = write(PILLARS, tmp_path)
    whole = {**torch.load(checkpoint), "message_hub": {"loss": Log(), "call": Call(), "again": [Log()]}}
    torch.save(whole, checkpoint, _use_new_zipfile_serialization=zipped)
    assert difference(PILLARS, import_mmdet3d(checkpoint, config)).raw < 1e-5


@pytest.mark.parametrize(
    ("case", "old", "new", "named"),
    [
        (PILLARS, "type='VoxelNet'", "type='VoteNet'", "model.type=VoteNet"),
        (PILLARS, "type='PillarFeatureNet'", "type='DynamicPillarFeatureNet'", "voxel_encoder.type"),
        (PILLARS, "type='PillarFeatureNet'", "type='HardSimpleVFE'", "voxel_encoder.type=HardSimpleVFE"),
        (PILLARS, "type='PointPillarsScatter'", "type='SparseEncoder'", "middle_encoder.type=SparseEncoder"),
        (PILLARS, "type='VoxelNet'", "type='DynamicVoxelNet'", "model.type=DynamicVoxelNet"),
        (PILLARS, "type='VoxelNet'", "type='PartA2'", "model.type=PartA2"),
        (PILLARS, "type='SECOND'", "type='NoStemRegNet'", "backbone.type=NoStemRegNet"),
        (PILLARS, "type='Anchor3DHead'", "type='FreeAnchor3DHead'", "bbox_head.type=FreeAnchor3DHead"),
        (PILLARS, "type='Anchor3DHead'", "type='ShapeAwareHead'", "bbox_head.type=ShapeAwareHead"),
        (PILLARS, "feat_channels=[6]", "feat_channels=[]", "feat_channels"),
        (PILLARS, "feat_channels=[6]", "feat_channels=[6], mode='avg'", "mode=avg"),
        (PILLARS, "in_channels=4", "in_channels=5", "use_dim=4"),
        (PILLARS, "in_channels=4", "in_channels='four'", "in_channels=four"),
        (PILLARS, "output_shape=[16, 24]", "output_shape=[24, 16]", "output_shape"),
        (PILLARS, "type='SECOND'", "type='ResNet'", "backbone.type=ResNet"),
        (PILLARS, "layer_nums=[1, 1]", "layer_nums=[1, 10**7]", "layer_nums[1]"),
        (PILLARS, "type='SECONDFPN'", "type='mmdet.FPN'", "neck.type=mmdet.FPN"),
        (PILLARS, "upsample_strides=[1, 2]", "upsample_strides=[1, 4]", "upsample_strides"),
        (PILLARS, "feat_channels=8", "feat_channels=9", "bbox_head.feat_channels=9"),
        (PILLARS, "use_sigmoid=True", "use_sigmoid=False", "loss_cls.use_sigmoid"),
        (PILLARS, "sizes=[[0.8, 0.6, 1.73]", "sizes=[[0.8, 0.6]", "sizes[0]"),
        (PILLARS, "rotations=[0, 1.57]", "rotations=[], scales=[1]", "rotations"),
        (PILLARS, "rotations=[0, 1.57]", "rotations=[0.5] * 99 + [1, 2] * 30", "rotations"),
        (PILLARS, "num_classes=2", "num_classes=10**6", "num_classes"),
        (PILLARS, "rotations=[0, 1.57]", "rotations=[0, 1.57], scales=[1, 2]", "scales"),
        (PILLARS, "use_rotate_nms=True", "use_rotate_nms=False", "test_cfg.use_rotate_nms"),
        (PILLARS, "max_voxels=(100, 150)", "max_voxels=(100, -1)", "max_voxels"),
        (PILLARS, "voxel=True", "voxel=True, voxel_type='dynamic'", "voxel_type=dynamic"),
        (CENTERPOINT, "['pedestrian', 'traffic_cone']", "['pedestrian', 'car']", "tasks"),
        (CENTERPOINT, "rot=(2, 2)", "rot=(1, 2)", "common_heads.rot[0]"),
        (CENTERPOINT, "vel=(2, 2)", "wheels=(2, 2)", "common_heads.wheels"),
        (CENTERPOINT, "type='SeparateHead'", "type='DCNSeparateHead'", "separate_head.type"),
        (CENTERPOINT, "final_kernel=3", "final_kernel=2", "final_kernel=2"),
        (CENTERPOINT, "out_size_factor=2", "out_size_factor=8", "out_size_factor=8"),
        (CENTERPOINT, "nms_type='rotate'", "nms_type='soft'", "nms_type=soft"),
        (CENTERPOINT, "nms_type='rotate'", "nms_type='circle', min_radius=[1]", "min_radius"),
        (
            CENTERPOINT,
            "post_center_limit_range=[0,",
            "post_center_limit_range=[1,",
            "post_center_limit_range",
        ),
        (CENTERPOINT, "sum([4, 4])", "sum([4, 5])", "in_channels=9"),
        (CENTERPOINT, "sweeps_num=9", "sweeps_num=900", "sweeps_num=900"),
        (CENTERPOINT, "use_dim=[0, 1, 2, 3, 4]", "use_dim=[0, 1, 2, 3]", "use_dim"),
    ],
)
def test_a_config_of_another_network_names_the_field(tmp_path, case, old, new, named):
    assert old in case["config"]
    files = write({**case, "config": case["config"].replace(old, new)}, tmp_path)
    with pytest.raises(BundleError) as caught:
        import_mmdet3d(*files)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_voxel_network_is_named_by_its_encoder_not_by_its_grid(tmp_path):
    """mmdetection3d's SECOND is a VoxelNet too, with many voxels along z."""
    config = PILLARS["config"].replace("type='PillarFeatureNet'", "type='HardSimpleVFE'")
    config = re.sub(r"voxel_size=\[.*?\]", "voxel_size=[1.0, 1.0, 0.1]", config)
    files = write({**PILLARS, "config": config}, tmp_path)
    with pytest.raises(BundleError, match=r"voxel_encoder\.type=HardSimpleVFE: must be PillarFeature"):
        import_mmdet3d(*files)
