"""bundle compress: what it writes runs, is smaller and is measured; what loses too much is not written."""

import shutil

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from perception_rt.cli.bundle_compress import agreement_of, answers_of
from perception_rt.cli.main import main
from perception_rt.model import bundle
from perception_rt.model.archive import read_archive, read_manifest
from perception_rt.model.compress import compressed, matched_scores, onnx_runtime
from perception_rt.model.export import int8_program, onnx_program
from perception_rt.model.importers import import_onnx, save_checked
from perception_rt.sim.drive import Drive
from perception_rt.types.errors import BundleError
from test.drives import TRUTH, write_drive

from .test_classify import NAMES, export


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixteen pictures of a drive, without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    drive = Drive(3, (320, 180))
    for index in range(16):
        cv2.imwrite(str(folder / f"{index:02}.png"), drive.sample(2.0 * index).image[:, :, ::-1])
    return folder


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_compressed_bundle_holds_its_reference_and_its_record(pictures, tmp_path, precision, capsys):
    out = tmp_path / "small.pt"
    options = ["--precision", precision, "--data", str(pictures), "--max-loss", "30", "--out", str(out)]
    assert main(["bundle", "compress", "sim_camera", *options]) == 0, capsys.readouterr().err
    manifest = bundle.verify(out)
    kinds = [(program.kind, program.precision) for program in manifest.programs]
    assert kinds == [("torchscript", "fp32"), ("onnx", precision)]
    record = manifest.provenance["compression"]
    assert record["measure"] == "agreement"
    assert record["loss"] == pytest.approx(100 * (1 - record["after"]), abs=0.01)
    assert 0.7 < record["after"] <= 1.0
    assert record["size_mb"][1] < (0.4 if precision == "int8" else 0.6) * record["size_mb"][0]
    assert (record["calibration_frames"], record["evaluated_frames"]) == (8 * (precision == "int8"), 8)
    assert min(record["latency_ms"]) > 0
    assert f"--precision {precision}" in record["command"]
    assert str(pictures.parent) not in record["command"]
    assert precision in capsys.readouterr().out


def test_labels_of_a_recording_give_average_precision(tmp_path, capsys):
    bag, out = write_drive(tmp_path / "drive", seconds=1.0), tmp_path / "small.pt"
    options = ["--precision", "fp16", "--data", str(bag), "--labels", TRUTH, "--max-loss", "100"]
    assert main(["bundle", "compress", "sim_camera", *options, "--out", str(out)]) == 0, (
        capsys.readouterr().err
    )
    record = read_manifest(out).provenance["compression"]
    assert record["measure"] == "map50"
    assert record["before"] > 0
    assert record["evaluated_frames"] == 5  # half of them, as with int8
    assert f"--labels {TRUTH}" in record["command"]


def test_a_classifier_is_measured_by_its_best_class_whatever_labels_lie_there(pictures, tmp_path, capsys):
    """Labels of boxes cannot judge it: before and after were 0, and any loss passed."""
    export(tmp_path / "net.onnx", False, {})
    save_checked(tmp_path / "net.pt", import_onnx(tmp_path / "net.onnx", classes=NAMES), None, name="net")
    data, out = tmp_path / "data", tmp_path / "small.pt"
    shutil.copytree(pictures, data)
    for path in data.glob("*.png"):
        path.with_suffix(".txt").write_text("0 .5 .5 .2 .2\n")
    command = ["bundle", "compress", str(tmp_path / "net.pt"), "--data", str(data), "--out", str(out)]
    assert main([*command, "--precision", "fp16"]) == 0, capsys.readouterr().err
    record = read_manifest(out).provenance["compression"]
    assert (record["measure"], record["before"], record["boxes"]) == ("agreement", 1.0, [8, 8])


def test_what_cannot_be_compressed_is_said_in_one_line(pictures, tmp_path, capsys):
    empty, one, out = tmp_path / "empty", tmp_path / "one", tmp_path / "small.pt"
    empty.mkdir()
    one.mkdir()
    cv2.imwrite(str(one / "a.png"), np.zeros((90, 160, 3), np.uint8))
    (tmp_path / "black").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "black" / f"{index}.png"), np.zeros((90, 160, 3), np.uint8))
    for name, data, more, text in (
        ("sim_camera", empty, [], "empty"),
        ("sim_camera", one, [], "needs two"),
        ("sim_camera", tmp_path / "black", ["--precision", "fp16"], "finds nothing"),
        ("sim_camera", tmp_path / "nowhere", [], "no such file or folder"),
        ("sim_camera", pictures, ["--max-loss", "nan"], "--max-loss=nan"),
        ("sim_camera", pictures, ["--max-loss", "101"], "--max-loss=101"),
        ("bev_cluster", pictures, [], "holds no ONNX program"),
    ):
        assert main(["bundle", "compress", name, "--data", str(data), *more, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1, error
    assert not list(tmp_path.glob("*small*"))


def test_a_loss_above_the_limit_is_refused_and_nothing_is_written(pictures, tmp_path, capsys, monkeypatch):
    """Ranges of black pictures clip what real ones hold."""
    archive = read_archive(bundle.resolve_bundle("sim_camera"))
    black = [{"images": np.zeros((1, 3, 540, 960), np.uint8)}] * 2
    with pytest.raises(BundleError, match="golden mismatch"):
        compressed(archive, "int8", black)
    out = tmp_path / "small.pt"
    frames = [cv2.imread(str(path))[None, :, :, ::-1].copy() for path in sorted(pictures.glob("*.png"))]
    plain = onnx_runtime(archive)
    answers = answers_of(plain, frames)
    whole = agreement_of(answers, plain, frames)
    assert (whole["after"], whole["loss"], whole["score_difference"]) == (1.0, 0.0, 0.0)

    def half(frame):
        return tuple(column[::2] for column in plain(frame))

    lost = agreement_of(answers, half, frames)
    assert 20 < lost["loss"] < 50
    monkeypatch.setattr("perception_rt.cli.bundle_compress.agreement_of", lambda *_: lost)
    options = ["--precision", "fp16", "--data", str(pictures), "--out", str(out)]
    assert main(["bundle", "compress", "sim_camera", *options]) == 2
    assert "points of agreement, more than --max-loss=1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_boxes_are_matched_once_and_within_their_class():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    first = boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 0, 1])
    second = boxes[[0, 2]], np.array([0.6, 0.5], np.float32), np.array([0, 0])
    assert matched_scores(first, second).tolist() == [[pytest.approx(0.9), pytest.approx(0.6)]]
    turned = np.array([[0, 0, 0, 4, 2, 1.5, 0.0], [9, 9, 0, 4, 2, 1.5, 1.0]], np.float32)
    pairs = matched_scores(
        (turned, first[1][:2], first[2][:2]), (turned[::-1].copy(), first[1][:2], first[2][:2])
    )
    assert pairs.tolist() == [
        [pytest.approx(0.9), pytest.approx(0.8)],
        [pytest.approx(0.8), pytest.approx(0.9)],
    ]


def test_a_network_of_an_old_opset_is_quantized_by_channel():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    source = onnx_program(network, torch.zeros(1, 3, 16, 16), ["x"], ["y"], {})
    old = onnx.load_from_string(source.data)
    old.opset_import[0].version = 12  # its operators are the same there
    source = type(source)("onnx", old.SerializeToString(), ("x",), ("y",))
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.uniform(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    import onnxruntime

    answers = [
        onnxruntime.InferenceSession(program.data).run(None, feeds[0])[0]
        for program in (source, int8_program(source, feeds))
    ]
    assert np.abs(answers[0] - answers[1]).max() < 0.1 * np.abs(answers[0]).max()


@pytest.mark.parametrize("direct", [False, True])
def test_uint8_inputs_are_not_converted_and_outputs_are_not_quantized(direct):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))

        def forward(self, x):
            y = self.layers(x.float() * (1 / 255))
            return y if direct else torch.cat([y, 2 * y], 2)

    torch.manual_seed(0)
    source = onnx_program(Scaled().eval(), torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["x"], ["y"], {})
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)} for _ in range(4)]
    small = int8_program(source, feeds)
    nodes = onnx.load_from_string(small.data).graph.node
    assert [node.op_type for node in nodes if "x" in node.input] == ["DequantizeLinear"]
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 1  # between the convolutions
    made = {name: node.op_type for node in nodes for name in node.output}
    weights = [made.get(node.input[1]) for node in nodes if node.op_type == "Conv"]
    assert weights == ["DequantizeLinear"] * 2
    import onnxruntime

    answers = [
        onnxruntime.InferenceSession(program.data).run(None, feeds[0])[0] for program in (source, small)
    ]
    assert np.abs(answers[0] - answers[1]).max() < 0.05 * np.abs(answers[0]).max()
