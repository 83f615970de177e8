"""bundle explain: heat maps find what a network looks at, and the check tells when they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from perception_rt.cli.main import main
from perception_rt.model.bundle import ProgramSource, save, save_network
from perception_rt.model.export import onnx_program
from perception_rt.model.golden import read_golden
from perception_rt.model.manifest import DecoderSpec, ImageSpec
from perception_rt.model.runtime import Runtime
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.stage.explain.check import OcclusionCheck, strongest
from perception_rt.stage.explain.explain import explain
from perception_rt.stage.explain.images import occlusion_check
from perception_rt.stage.explain.points import cells_around, in_box_axes
from perception_rt.stage.explain.probe import Probe
from perception_rt.types import ConfigError
from test.classifiers import save_colours
from test.detectors import BrightBox
from test.segmenters import bands, save_colour_map

BOX = (10.0, 8.0, 50.0, 56.0)  # xyxy px of the input, which is the picture
SEEN = (slice(16, 40), slice(20, 36))  # rows and columns that the score depends on


class Patch(nn.Module):
    """One box, whose score depends on the red of a part of it through two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        for layer in (self.first, self.second):
            nn.init.constant_(layer.weight, 0.0)
            nn.init.constant_(layer.bias, 0.0)
        with torch.no_grad():
            self.first.weight[0, 0, 1, 1] = self.second.weight[0, 0, 1, 1] = 1.0
        x1, y1, x2, y2 = BOX
        box = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
        self.register_buffer("box", box.view(1, 4, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = self.second(self.first(images).relu())[:, :, 16:40, 20:36].mean((2, 3))
        score = (12 * level - 6).sigmoid()
        rows = torch.cat([self.box, score.unsqueeze(2), 0 * score.unsqueeze(2)], 1)
        return torch.cat([rows, 0 * rows + 1e-4], 2)


class Pixels(Patch):
    """The same for (N, H, W, 3) uint8."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.permute(0, 3, 1, 2).float() / 255)


@pytest.fixture(scope="module")
def patch(request, tmp_path_factory) -> Path:
    """The bundle of `Patch` or `Pixels`, as TorchScript and as ONNX."""
    path = tmp_path_factory.mktemp("explain") / "patch.pt"
    network, spec = Patch().eval(), ImageSpec((64, 96), "stretch", "bilinear", "rgb")
    example = torch.zeros(1, 3, 64, 96)
    if getattr(request, "param", "float32") == "uint8":
        network, spec = Pixels().eval(), replace(spec, dtype="uint8", layout="NHWC")
        example = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
    script = ProgramSource(
        "torchscript", module_bytes(trace_module(network, example)), ("images",), ("rows",)
    )
    save_network(
        path,
        [script, onnx_program(network, example, ["images"], ["rows"], {})],
        decoder=DecoderSpec("yolov8", {"classes": 2}),
        name="patch",
        classes=["thing", "other"],
        input_spec=spec,
        licence="Apache-2.0",
        score_threshold=0.25,
        nms_threshold=0.7,
        golden=picture()[None],
    )
    return path


def picture() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 120, (64, 96, 3)).astype(np.uint8)
    image[SEEN][..., 0] = 230
    return image


def seen() -> np.ndarray:
    mask = np.zeros((64, 96), bool)
    mask[SEEN] = True
    return mask


@pytest.mark.parametrize("patch", ["float32", "uint8"], indirect=True)
@pytest.mark.parametrize("method", ["rise", "gradients", "cam"])
def test_a_heat_map_finds_the_pixels_that_the_score_depends_on(patch, method):
    if method != "rise":
        pytest.importorskip("captum", reason="captum is not installed")
    probe = Probe(Runtime.open(patch, "cpu", engine="reference"), picture()[None])
    (target,) = probe.targets()
    np.testing.assert_allclose(target.box, BOX, atol=1e-3)
    found = explain(probe, target, method, calls=200)
    inside = strongest(found.heat, int(seen().sum()))[SEEN].mean()
    print(f"{method}: {inside:.2f} of the strongest pixels count; {found.check.text('picture')}")
    assert inside > 0.8
    assert found.check.holds
    assert found.check.marked > 3 * np.mean(found.check.random)
    assert found.calls >= 42
    assert found.picture.shape == (64, 96, 3)


def test_perturbation_runs_on_every_engine_alike(patch):
    heats = []
    for engine in ("torchscript", "onnxruntime", *(["openvino"] if find_spec("openvino") else [])):
        probe = Probe(Runtime.open(patch, "cpu", engine=engine), picture()[None])
        heats.append(explain(probe, probe.target(0), calls=40, seed=3).heat)
    for heat in heats[1:]:
        np.testing.assert_allclose(heat, heats[0], atol=1e-3)


def test_the_check_tells_a_map_that_marks_the_wrong_place(patch):
    probe = Probe(Runtime.open(patch, "cpu", engine="reference"), picture()[None])
    heat = np.zeros((64, 96), np.float32)
    heat[50:, 70:] = np.random.default_rng(0).random((14, 26))
    check = occlusion_check(probe, probe.target(0), heat)
    assert not check.holds
    assert check.marked == pytest.approx(0, abs=1e-3)
    assert "matters NO more than a random one" in check.text("picture")


def test_a_check_holds_where_nearly_all_random_parts_matter_less():
    common = {"size": 3, "share": 0.1, "marked": 0.5, "near": ()}
    assert OcclusionCheck(**common, random=(0.1,) * 19 + (0.6,)).holds
    assert not OcclusionCheck(**common, random=(0.1,) * 18 + (0.6, 0.5)).holds
    assert not OcclusionCheck(**common, random=()).holds


def test_modules_that_answer_boxes_themselves_are_explained_by_perturbation(tmp_path):
    path = tmp_path / "bright.pt"
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    save(path, BrightBox(), name="bright", classes=["bright"], input_spec=spec, licence="Apache-2.0")
    image = np.full((120, 160, 3), 30, np.uint8)
    image[40:80, 60:100, 0] = 255
    probe = Probe(Runtime.open(path, "cpu"), image[None])
    found = explain(probe, probe.target(0), calls=120)
    rows, columns = np.nonzero(strongest(found.heat, 400))
    assert 36 <= rows.mean() <= 84
    assert 56 <= columns.mean() <= 104
    pytest.importorskip("captum", reason="captum is not installed")
    with pytest.raises(ConfigError, match="its network has no gradients: use method rise"):
        explain(probe, probe.target(0), "gradients")


def test_a_class_of_an_image_and_of_its_pixels_are_explained(tmp_path):
    save_colours(tmp_path / "colours.pt")
    image = np.full((60, 60, 3), 90, np.uint8)
    image[20:40, 20:40] = (255, 0, 0)
    probe = Probe(Runtime.open(tmp_path / "colours.pt", "cpu"), image[None])
    found = explain(probe, probe.target(0), calls=150)
    assert probe.runtime.manifest.classes[found.target.label] == "red"
    assert strongest(found.heat, 200)[15:45, 15:45].mean() * 900 / 200 > 0.7
    save_colour_map(tmp_path / "map.pt")
    probe = Probe(Runtime.open(tmp_path / "map.pt", "cpu"), bands()[None])
    target = probe.target(1)
    assert target.region.mean() == pytest.approx(target.score)
    assert probe.left(target, bands()[None]) == 1.0
    assert probe.left(target, np.zeros((1, 120, 180, 3), np.uint8)) < 0.01 or target.label == 0
    with pytest.raises(ConfigError, match="classes of pixels are explained by rise"):
        explain(probe, target, "gradients")
    with pytest.raises(ConfigError, match=r"--detection=7: this frame has 3 classes"):
        probe.target(7)


# Clouds.


@pytest.fixture(scope="module")
def clusters() -> tuple[Runtime, np.ndarray]:
    """The geometric detector, and its golden cloud."""
    runtime = Runtime.open("bev_cluster", "cpu", threads=1)
    return runtime, read_golden(runtime.manifest.golden, runtime._archive.members)


def test_the_points_of_the_object_make_its_box(clusters):
    probe = Probe(*clusters)
    target = probe.target(0)
    found = explain(probe, target, calls=120)
    near = np.abs(in_box_axes(probe.data, target.box)) <= target.box[3:6] / 2 + 0.5
    top = np.argsort(-found.heat)[: found.check.size]
    print(f"{near.all(1)[top].mean():.2f} of the marked points at the box; {found.check.text('cloud')}")
    assert near.all(1)[top].mean() > 0.7
    assert found.check.holds
    assert found.picture.ndim == 3
    with pytest.raises(ConfigError, match="a cloud is explained by rise"):
        explain(probe, target, "cam")


def test_cells_lie_in_the_axes_of_the_box_and_are_few():
    box = np.float32([10, 5, 0, 4, 2, 1.5, np.pi / 4])
    along = np.array([[10 + 2 * np.cos(np.pi / 4), 5 + 2 * np.sin(np.pi / 4), 0.3, 0]], np.float32)
    np.testing.assert_allclose(in_box_axes(along, box), [[2, 0, 0.3]], atol=1e-5)
    points = np.random.default_rng(0).uniform((0, -5, -2, 0), (20, 15, 2, 1), (5000, 4)).astype(np.float32)
    for most in (10, 60, 500):
        cells = cells_around(points, box, most)
        assert cells.max() < most
        assert (cells[np.linalg.norm(points[:, :2] - box[:2], axis=1) > 9] == -1).all()
    assert (cells_around(points + 100, box, 10) == -1).all()


# The command.


def test_the_command_writes_pictures_and_their_checks(patch, tmp_path, capsys):
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture()[:, :, ::-1])
    out = tmp_path / "out"
    command = ["bundle", "explain", str(patch), "--images", str(tmp_path), "--calls", "50", "--out", str(out)]
    assert main([*command, "--frame", "1", "--frame", "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("of the score is lost") == 2
    records = json.loads((out / "explain.json").read_text())["records"]
    assert [(record["source"], record["frame"]) for record in records] == [("1.png", 1), ("0.png", 0)]
    for record in records:
        assert cv2.imread(str(out / record["picture"])).shape == (64, 96, 3)
        assert (record["class"], record["method"], len(record["check"]["random"])) == ("thing", "rise", 20)


def test_a_recording_s_clouds_are_explained(clusters, tmp_path):
    from perception_rt.codec.encode import encode_points
    from perception_rt.replay.bag_writer import BagWriter

    with BagWriter(tmp_path / "bag") as bag:
        for number in range(2):
            stamp = 10**9 * (number + 1)
            bag.write(
                "/points", "sensor_msgs/msg/PointCloud2", stamp, encode_points(clusters[1], stamp, "lidar")
            )
    command = ["bundle", "explain", "bev_cluster", "--bag", str(tmp_path / "bag"), "--calls", "30"]
    assert main([*command, "--frame", "1", "--out", str(tmp_path / "out")]) == 0
    (record,) = json.loads((tmp_path / "out" / "explain.json").read_text())["records"]
    assert (record["source"], record["stamp_ns"], record["frame"]) == ("/points", 2 * 10**9, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--images", "/nonexistent"], "--images=/nonexistent: no such file or folder"),
        (["--bag", "/nonexistent"], "--bag=/nonexistent: no such file or folder"),
        (["--images", "HERE", "--frame", "-1"], "--frame=-1: must be >= 0"),
        (["--images", "HERE", "--frame", "9"], "--frame=9: "),
        (["--images", "HERE", "--detection", "4"], "--detection=4: this frame has 1 detection"),
        (["--images", "HERE", "--calls", "3"], "--calls=3: must be from 10"),
        (["--images", "HERE", "--method", "magic"], "--method=magic: must be one of rise"),
        (["--images", "HERE", "--topic", "/x"], "--topic=/x: is for --bag"),
        (["--images", "HERE", "--seed", "-4"], "--seed=-4"),
        (["--images", "EMPTY"], "holds 0 pictures"),
        (["--images", "BROKEN"], "not a picture"),
    ],
)
def test_bad_options_are_one_line(patch, tmp_path, capsys, options, says):
    cv2.imwrite(str(tmp_path / "a.png"), picture()[:, :, ::-1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    places = {"HERE": tmp_path / "a.png", "EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken.png"}
    words = [str(places.get(word, word)) for word in options]
    assert main(["bundle", "explain", str(patch), *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not (tmp_path / "out" / "explain.json").exists()


def test_without_captum_one_line_says_what_to_install(patch, monkeypatch):
    monkeypatch.setattr("perception_rt.stage.explain.explain.util.find_spec", lambda name: None)
    probe = Probe(Runtime.open(patch, "cpu", engine="reference"), picture()[None])
    with pytest.raises(ConfigError, match=r"needs captum \(pip install 'perception_rt\[explain\]'\)"):
        explain(probe, probe.target(0), "gradients")
