"""Task segment: masks by their formula, networks of pixels, importers, messages, pictures."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models
from torchvision.transforms._presets import SemanticSegmentation

import perception_rt
from perception_rt.cli.main import main
from perception_rt.codec.segmentation import (
    decode_segmentation,
    encode_label_info,
    encode_segmentation,
)
from perception_rt.model.archive import read_archive, read_manifest
from perception_rt.model.bundle import ProgramSource, save_network, verify
from perception_rt.model.decoders import Semantic
from perception_rt.model.device_image import DevicePreparer
from perception_rt.model.golden import cells_of, golden_difference
from perception_rt.model.host_image import ImagePreparer, Placement, labels_to_native, place
from perception_rt.model.importers import import_onnx, import_torchscript, import_torchvision, save_checked
from perception_rt.model.importers.common import sha256_of
from perception_rt.model.importers.reference import prepare
from perception_rt.model.manifest import DecoderSpec, parse_manifest
from perception_rt.model.runtime import Runtime
from perception_rt.model.specs import ImageSpec, parse_image
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.model.zoo import find_entry, get_bundle
from perception_rt.replay.message_types import typestore
from perception_rt.stage.draw import draw_segmentation
from perception_rt.stage.segment import segment
from perception_rt.types import BundleError, CameraFrame, CodecError, ConfigError, ModelError
from perception_rt.types.segmentation import UNLABELLED, Segmentation
from test.segmenters import (
    CLASSES,
    SIZE,
    ULTRALYTICS,
    ColourMap,
    bands,
    formula_labels,
    save_colour_map,
    save_masks_onnx,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def frame(image: np.ndarray, bgr: bool = False) -> CameraFrame:
    return CameraFrame(image, bgr, 0, "camera")


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Large smooth spots of colour."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 3, 5, 7))).float()
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (smooth * 255).byte().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def colour_map(tmp_path_factory) -> Runtime:
    path = tmp_path_factory.mktemp("segment") / "colour_map.pt"
    save_colour_map(path)
    return Runtime.open(path, "cpu")


# Masks of objects.


@pytest.mark.parametrize("layout", ["grid", "rows", "yolov5"])
@pytest.mark.parametrize("size", [(64, 96), (128, 192), (100, 192), (192, 120), (67, 45), (480, 640)])
def test_masks_are_those_of_the_authors_formula(tmp_path, layout, size):
    save_masks_onnx(tmp_path / "net.onnx", layout, None if layout == "yolov5" else ULTRALYTICS)
    names = ["sign", "lawn"]
    imported = import_onnx(tmp_path / "net.onnx", classes=names)
    image = blobs(*size)
    save_checked(tmp_path / "net.pt", imported, image, name="net")
    manifest = read_manifest(tmp_path / "net.pt")
    decoder = "yolov5seg" if layout == "yolov5" else "yolov8seg"
    assert (manifest.task, manifest.decoder.name, list(manifest.classes)) == ("segment", decoder, names)
    assert manifest.golden.origin == "picture"
    assert len(manifest.golden.cells) == min(64, size[0])

    runtime = perception_rt.open_bundle(tmp_path / "net.pt", device="cpu")
    found = perception_rt.segment(runtime, image)
    boxes, expected, whole = formula_labels(image, manifest.input)
    np.testing.assert_allclose(found.detections.xyxy, boxes, atol=1e-3)
    assert found.detections.labels.tolist() == [0, 1, 0]
    assert len(np.unique(expected)) == 3
    # The authors round the letterbox to whole cells; here its exact place is taken.
    same = float((found.labels == expected).mean())
    print(f"{layout} {size}: {same:.4f} of the pixels as by the formula, whole cells: {whole}")
    assert same == 1.0 if whole else same >= 0.97


def test_a_file_with_masks_may_still_become_a_detector(tmp_path):
    path = save_masks_onnx(tmp_path / "net.onnx", "grid", ULTRALYTICS)
    assert import_onnx(path, "yolov8").task == "detect2d"
    assert import_onnx(path).task == "segment"
    plain = save_masks_onnx(tmp_path / "plain.onnx", "grid")
    assert import_onnx(plain, classes=["a", "b"]).decoder.name == "yolov8seg"


def test_masks_of_a_class_that_is_not_wanted_are_not_painted(tmp_path):
    imported = import_onnx(save_masks_onnx(tmp_path / "net.onnx", "grid", ULTRALYTICS))
    save_checked(tmp_path / "net.pt", imported, bands(*SIZE), name="net", classes_keep=["lawn"])
    found = perception_rt.segment(perception_rt.open_bundle(tmp_path / "net.pt", device="cpu"), bands(*SIZE))
    assert found.detections.labels.tolist() == [1]
    assert set(np.unique(found.labels)) == {1, UNLABELLED}


# Networks of pixels.


def test_each_pixel_has_the_best_class_at_the_size_of_the_image(colour_map):
    image = bands(120, 180)
    first, second, third = segment(
        colour_map, [frame(image), frame(image[:, :, ::-1].copy(), bgr=True), frame(bands(64, 300))]
    )
    for found, size in ((first, (120, 180)), (second, (120, 180)), (third, (64, 300))):
        assert found.labels.shape == size
        assert found.detections is None
        expected = np.broadcast_to(np.arange(3).repeat(size[1] // 3), size)
        edge = np.abs(np.arange(size[1])[None] % (size[1] // 3) - (size[1] // 6)) < size[1] // 6 - 6
        inside = np.broadcast_to(edge, size)
        assert (found.labels == expected)[inside].all()
    np.testing.assert_array_equal(first.labels, second.labels)
    assert list(first.shares()) == [0, 1, 2] or sum(first.shares().values()) == pytest.approx(1)


def test_pixels_below_a_threshold_and_of_unwanted_classes_have_no_label(colour_map):
    image = bands()
    image[:60] //= 8  # of nearly one colour: softmax of 8/8 against 0
    sure = np.exp(8) / (np.exp(8) + 2)
    unsure = np.exp(8 * 31 / 255) / (np.exp(8 * 31 / 255) + 2)
    for threshold, dark, bright in (
        (unsure - 0.05, True, True),
        (sure - 0.05, False, True),
        (1, False, False),
    ):
        labels = perception_rt.segment(colour_map, image, score_threshold=threshold).labels
        assert [(labels[y, 30] == 0) for y in (20, 100)] == [dark, bright], threshold
    colour_map.class_thresholds = colour_map.thresholds_of({}, ["green", "blue"])
    try:
        labels = perception_rt.segment(colour_map, image).labels
        assert [labels[100, x] for x in (30, 90, 150)] == [UNLABELLED, 1, 2]
    finally:
        colour_map.class_thresholds = colour_map.thresholds_of({}, ())


@pytest.mark.parametrize(
    "resize", ["stretch", "letterbox", "letterbox_top_left", "fit", "crop_100", "shorter_40"]
)
def test_labels_lie_where_the_image_lies(tmp_path, resize):
    save_colour_map(tmp_path / "net.pt", "letterbox")
    runtime = Runtime.open(tmp_path / "net.pt", "cpu")
    size = None if resize.startswith("shorter") else (64, 96)
    spec = ImageSpec(size, resize, "bilinear", "rgb")
    runtime._detect._prepare = ImagePreparer(spec, ("images",), torch.device("cpu"))
    image = np.zeros((150, 210, 3), np.uint8)
    image[..., 1] = 200
    image[60:90, 75:135] = (250, 0, 0)
    labels = perception_rt.segment(runtime, image).labels
    expected = np.ones((150, 210), np.uint8)
    expected[60:90, 75:135] = 0
    seen = np.ones((150, 210), bool)
    where = place(spec, (150, 210))
    if resize == "crop_100":
        rows = (np.arange(150) + 0.5) * where.height / 150 + where.top
        columns = (np.arange(210) + 0.5) * where.width / 210 + where.left
        seen = np.ix_((rows >= 0) & (rows < 64), (columns >= 0) & (columns < 96))
        outside = np.ones((150, 210), bool)
        outside[seen] = False
        assert (labels[outside] == UNLABELLED).all()
    edges = np.zeros((150, 210), bool)
    edges[52:98, 67:143] = True
    edges[68:82, 83:127] = False
    wrong = (labels != expected) & ~edges
    assert not wrong[seen].any()


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["stretch", "letterbox", "letterbox_top_left"]),
)
def test_every_pixel_gets_the_label_of_the_input_s_pixel_that_it_lies_on(native, size, resize):
    where = place(ImageSpec(size, resize, "bilinear", "rgb"), native)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, size).astype(np.uint8))
    found = labels_to_native(labels, where)
    assert found.shape == native
    for y in {0, native[0] // 2, native[0] - 1}:
        for x in {0, native[1] // 2, native[1] - 1}:
            row = min(int((y + 0.5) * where.height / native[0] + 1e-9) + where.top, size[0] - 1)
            column = min(int((x + 0.5) * where.width / native[1] + 1e-9) + where.left, size[1] - 1)
            assert found[y, x] == labels[row, column]


def test_one_channel_is_one_class_or_none():
    values = torch.tensor([[[[-2.0, 2.0], [0.1, -0.1]]]])
    where = Placement((2, 2), (2, 2), 0, 0, 2, 2)
    none = torch.zeros(0)
    found = Semantic(None)([values], (2, 2), 0.0)
    assert len(found.scores) == 0
    decode = Semantic(None)
    assert decode.label_map([values], None, where, np.zeros(1, np.float32)).tolist() == [[255, 0], [0, 255]]
    strict = decode.label_map([values], None, where, np.float32([0.8]))
    assert strict.tolist() == [[255, 0], [255, 255]]
    scores = Semantic(None, form="scores").label_map([values.sigmoid()], None, where, np.zeros(1, np.float32))
    assert scores.tolist() == [[255, 0], [0, 255]]
    assert none.numel() == 0


def test_one_channel_at_a_time_gives_what_all_at_once_give():
    values = torch.randn(1, 7, 16, 24, generator=torch.Generator().manual_seed(0))
    where = Placement((64, 96), (64, 96), 0, 0, 64, 96)
    labels = Semantic(None).label_map([values], None, where, np.zeros(7, np.float32))
    whole = F.interpolate(values, (64, 96), mode="bilinear", align_corners=False)[0]
    assert torch.equal(labels, whole.argmax(0).to(torch.uint8))
    with_scores = Semantic(None).label_map([values], None, where, np.full(7, 1e-6, np.float32))
    assert torch.equal(labels, with_scores)


def test_labels_of_the_network_are_taken_as_they_are():
    where = Placement((2, 3), (4, 6), 0, 0, 2, 3)
    given_ = torch.tensor([[[0, 1, 255], [2, -1, 1]]])
    decode = Semantic(None, form="labels")
    labels = decode.label_map([given_], None, where, np.zeros(3, np.float32))
    assert labels[::2, ::2].tolist() == [[0, 1, 255], [2, 255, 1]]
    assert labels[1::2, 1::2].tolist() == [[0, 1, 255], [2, 255, 1]]
    unwanted = decode.label_map([given_[:, None]], None, where, np.float32([0, np.inf, 0]))
    assert unwanted[::2, ::2].tolist() == [[0, 255, 255], [2, 255, 255]]
    with pytest.raises(ValueError, match="the labels hold 2, but there are 2 classes"):
        decode.label_map([given_], None, where, np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ([torch.zeros(1, 3, 4)], "scores of pixels|channels"),
        ([torch.full((1, 3, 16, 24), np.nan)], "NaN"),
        ([torch.zeros(1, 4, 16, 24)], "4 channels, but 3 classes"),
        ([torch.zeros(2, 3, 16, 24)], "scores of pixels are"),
        ([torch.zeros(1, 3, 16, 24)] * 2, "takes one output"),
    ],
)
def test_what_is_no_image_of_classes_is_a_model_error(colour_map, monkeypatch, outputs, text):
    monkeypatch.setattr(colour_map._detect._engine, "run", lambda inputs: outputs)
    with pytest.raises(ModelError, match=text):
        perception_rt.segment(colour_map, bands())


# Importers.


class Road(nn.Module):
    """What a file may answer of the pixels: brighter ones are of class 1."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = F.avg_pool2d(images.mean(1, keepdim=True), 4) * 6 - 3
        logits = torch.cat((-level, level), 1)
        if self.form == "logits":
            return logits
        if self.form == "scores":
            return logits.softmax(1)
        if self.form == "last":
            return logits.permute(0, 2, 3, 1)
        if self.form == "sigmoid":
            return (2 * level).sigmoid()
        labels = logits.argmax(1)
        return labels if self.form == "labels" else labels[:, None].float()


def export(path: Path, network: nn.Module, names: list[str], metadata: dict[str, str] | None = None) -> Path:
    torch.onnx.export(
        network.eval(),
        torch.rand(1, 3, 64, 96),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=names,
    )
    model = onnx.load(path)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("form", ["logits", "scores", "last", "labels", "float labels", "sigmoid"])
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_file_with_an_image_of_classes_becomes_a_bundle(tmp_path, form, kind):
    names = ["road"] if form == "sigmoid" else ["other", "road"]
    options = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    if kind == "onnx":
        imported = import_onnx(export(tmp_path / "net.onnx", Road(form), ["seg"]), "auto", names, **options)
    else:
        torch.jit.trace(Road(form), torch.rand(1, 3, 64, 96)).save(str(tmp_path / "net.ts"))
        imported = import_torchscript(tmp_path / "net.ts", "auto", names, (64, 96), **options)
    image = np.repeat(np.linspace(0, 255, 192).astype(np.uint8)[None], 128, 0)[:, :, None].repeat(3, 2)
    report = save_checked(tmp_path / "net.pt", imported, image, name="net")
    assert report.manifest.task == "segment"
    assert report.lines[-1] == "100.00% of the pixels have the same label"
    found = perception_rt.segment(perception_rt.open_bundle(tmp_path / "net.pt", device="cpu"), image)
    dark, bright = (UNLABELLED, 0) if form == "sigmoid" else (0, 1)
    assert (found.labels[:, :88] == dark).all()
    assert (found.labels[:, 104:] == bright).all()
    verify(tmp_path / "net.pt")


def test_metadata_of_ultralytics_semantic_networks_is_known(tmp_path):
    metadata = {"task": "semantic", "names": "{0: 'other', 1: 'road'}", "imgsz": "[64, 96]", "stride": "4"}
    imported = import_onnx(export(tmp_path / "net.onnx", Road("labels"), ["output0"], metadata))
    assert (imported.task, imported.classes) == ("segment", ("other", "road"))
    assert (imported.input_spec.resize, imported.input_spec.mean) == ("letterbox", (0.0, 0.0, 0.0))


class Several(nn.Module):
    """A network of several purposes: rows of a detector, and two images of classes."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = Road("logits")(images)
        return images.flatten(2)[:, :, :50].permute(0, 2, 1), logits, -logits


def test_one_output_of_several_is_taken_by_its_name(tmp_path):
    path = export(tmp_path / "net.onnx", Several(), ["det_out", "drive_area_seg", "lane_line_seg"])
    with pytest.raises(BundleError, match=r"none fits the outputs det_out .* or --output"):
        import_onnx(path, classes=["other", "road"])
    with pytest.raises(BundleError, match=r"output='nope': must be one of det_out, drive_area_seg, lane"):
        import_onnx(path, classes=["other", "road"], output="nope")
    given_ = import_onnx(path, classes=["other", "road"], output="lane_line_seg")
    assert given_.programs[0].outputs == ("lane_line_seg",)
    torch.jit.trace(Several(), torch.rand(1, 3, 64, 96)).save(str(tmp_path / "net.ts"))
    images = np.full((64, 96, 3), 10, np.uint8)
    images[:, 48:] = 240
    for output, left in (("output1", 0), ("output2", 1)):
        imported = import_torchscript(tmp_path / "net.ts", "semantic", ["a", "b"], (64, 96), output=output,
                                      mean=(0, 0, 0), std=(1, 1, 1))  # fmt: skip
        save_checked(tmp_path / "net.pt", imported, images, name="net")
        labels = perception_rt.segment(Runtime.open(tmp_path / "net.pt", "cpu"), images).labels
        assert [labels[30, 10], labels[30, 90]] == [left, 1 - left]


class Dictionary(nn.Module):
    """As torchvision's networks answer."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        level = F.avg_pool2d(images.mean(1, keepdim=True), 4) * 6 - 3
        return {"out": torch.cat((-level, level), 1), "aux": torch.cat((level, -level), 1)}


def test_a_torchscript_that_answers_a_dictionary_is_taken(tmp_path):
    torch.jit.script(Dictionary()).save(str(tmp_path / "net.ts"))
    imported = import_torchscript(tmp_path / "net.ts", "auto", ["other", "road"], (64, 96))
    image = bands()
    image[:] = np.linspace(0, 255, image.shape[1])[None, :, None]
    report = save_checked(tmp_path / "net.pt", imported, image, name="net")
    assert (report.manifest.task, report.manifest.programs[0].outputs) == ("segment", ("out",))


def test_bad_files_are_refused_in_one_line(tmp_path, capsys):
    path = export(tmp_path / "net.onnx", Road("logits"), ["seg"])
    with pytest.raises(BundleError, match="has 2, the file names none: give --classes"):
        import_onnx(path)
    with pytest.raises(BundleError, match="do not tell how many there are, the file names none"):
        import_onnx(export(tmp_path / "labels.onnx", Road("labels"), ["seg"]))
    with pytest.raises(BundleError, match="none fits the outputs"):  # 3 names, 2 channels
        import_onnx(path, classes=["a", "b", "c"])
    names = [f"class {i}" for i in range(300)]
    many = export(tmp_path / "many.onnx", Road("labels"), ["seg"])
    with pytest.raises(BundleError, match="300 names: an image of labels tells 255 at most"):
        import_onnx(many, classes=names)
    (tmp_path / "names.txt").write_text("other\nroad\n")
    out = tmp_path / "x.pt"
    command = ["bundle", "export", "onnx", str(path), "--classes", str(tmp_path / "names.txt")]
    assert main([*command, "--output", "nope", "--out", str(out)]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert not out.exists()


def test_labels_beyond_the_names_are_refused_at_the_export(tmp_path):
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (F.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0] * 9).long()

    path = export(tmp_path / "net.onnx", Odd(), ["seg"])
    imported = import_onnx(path, classes=["a", "b"], mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(
        (BundleError, ModelError, ValueError), match=r"labels hold \d, but there are 2 classes"
    ):
        save_checked(tmp_path / "net.pt", imported, bands(), name="net")


# torchvision.


def torchvision_network(classes: int) -> nn.Module:
    """A network with random weights that tells several classes apart in `bands`."""
    torch.manual_seed(1)
    network = models.get_model("lraspp_mobilenet_v3_large", weights_backbone=None, num_classes=classes)
    images = torch.from_numpy(np.stack([bands(130, 190), blobs(130, 190)])).permute(0, 3, 1, 2)
    images = SemanticSegmentation(resize_size=260)(images)
    with torch.no_grad():
        for _ in range(4):  # statistics of the layers, so that the features differ
            network.train()(images)
        network.eval()
        network.classifier.high_classifier.weight *= 50
        network.classifier.high_classifier.bias -= network(images)["out"].mean((0, 2, 3))
    return network


def test_torchvision_s_networks_take_weights_of_other_classes(tmp_path):
    network, path = torchvision_network(5), tmp_path / "mine.pth"
    state = network.state_dict()
    torch.save({**state, "aux_classifier.0.weight": torch.zeros(3)}, path)  # of training
    with pytest.raises(BundleError, match=r"mine.pth' has 5: give --classes"):
        import_torchvision("lraspp_mobilenet_v3_large", str(path))
    with pytest.raises(BundleError, match=r"4 names, but .* has 5 classes"):
        import_torchvision("lraspp_mobilenet_v3_large", str(path), ["a"] * 4)
    names = [f"class {i}" for i in range(5)]
    imported = import_torchvision("lraspp_mobilenet_v3_large", str(path), names)
    image = bands(130, 190)
    report = save_checked(tmp_path / "mine.pt", imported, image, name="mine")
    manifest = report.manifest
    assert (manifest.task, manifest.input.resize, manifest.input.size) == ("segment", "shorter_520", None)
    # By torchvision's own transforms, and the nearest pixel.
    tool = SemanticSegmentation(resize_size=520)
    runtime = Runtime.open(tmp_path / "mine.pt", "cpu")
    for size in ((130, 190), (190, 130)):
        image = bands(*size)
        with torch.no_grad():
            answer = network(tool(torch.from_numpy(image).permute(2, 0, 1))[None])["out"]
        labels = answer.argmax(1)[None].float()
        expected = F.interpolate(labels, size, mode="nearest-exact")[0, 0].byte().numpy()
        same = float((perception_rt.segment(runtime, image).labels == expected).mean())
        print(f"{size}: {same:.4f} of the pixels as by torchvision, {len(np.unique(expected))} classes")
        assert same > 0.99
    torch.save({key: value for key, value in state.items() if "high_classifier" not in key}, path)
    with pytest.raises(BundleError, match="do not fit: 2 missing"):
        import_torchvision("lraspp_mobilenet_v3_large", str(path), names)


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_every_family_of_torchvision_is_built_and_scripted(name):
    imported = import_torchvision(name, classes=["a", "b", "c"])
    assert (imported.task, imported.classes) == ("segment", ("a", "b", "c"))
    module = torch.jit.load(__import__("io").BytesIO(imported.programs[0].data))
    with torch.no_grad():
        (out,) = module(torch.rand(1, 3, 40, 56))
    assert out.shape == (1, 3, 40, 56)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (375, 1242), (601, 333), (50, 900), (90, 90)])
def test_the_shorter_side_is_resized_as_by_torchvision(height, width):
    image = blobs(height, width)
    spec = ImageSpec(None, "shorter_130", "antialias", "rgb", mean=MEAN, std=STD)
    batch = torch.from_numpy(image)[None]
    inputs, where = ImagePreparer(spec, ("images",), torch.device("cpu"))(batch, False)
    reference = torch.from_numpy(prepare(image, spec)[0])
    assert float((inputs["images"] - reference).abs().max()) < 1e-5
    there = DevicePreparer(spec, torch.device("cpu"))(torch.from_numpy(image)[None], False, where)
    grey = 1.01 / 255 / min(STD)
    assert float((there - inputs["images"]).abs().max()) <= grey
    if max(height, width) <= 8 * min(height, width):
        tool = SemanticSegmentation(resize_size=130)(torch.from_numpy(image).permute(2, 0, 1))
        assert tool.shape == inputs["images"][0].shape
        assert float((tool - inputs["images"][0]).abs().max()) <= 2 * grey
    else:  # a strip takes no memory without bounds
        assert max(where.size) == 8 * 130


@pytest.mark.parametrize(
    ("size", "resize", "text"),
    [
        (None, "shorter_0", "side of 1 to 2048"),
        (None, "shorter_9999", "side"),
        ((9, 9), "shorter_5", "makes the size"),
        (None, "letterbox", "needs a size"),
    ],
)
def test_a_rule_of_the_shorter_side_that_cannot_be_is_refused(size, resize, text):
    data = {"size": size, "resize": resize, "filter": "antialias", "order": "rgb"}
    with pytest.raises(BundleError, match=text):
        parse_image(data)


# Bundles.


def test_the_golden_answer_holds_the_labels_of_pixels(tmp_path):
    manifest = save_colour_map(tmp_path / "net.pt")
    golden = manifest.golden
    assert not golden.boxes
    assert {len(row) for row in golden.cells} == {128}
    archive = read_archive(tmp_path / "net.pt")
    assert archive.manifest.golden == golden
    runtime = Runtime.open(tmp_path / "net.pt", "cpu")
    answer = runtime(perception_rt.model.golden.read_golden(golden, archive.members))
    assert golden_difference(golden, answer) is None
    for change, text in (
        (answer[4][:, ::-1], "of the pixels have the expected label, not 99%"),
        (np.roll(answer[4], 12, 2), "of the pixels have the expected label"),
        ((answer[4] + 1) % 3, "of the pixels have the expected label"),
        (answer[4][:, :30], "cells, expected are"),
    ):
        assert text in golden_difference(golden, (*answer[:4], change.astype(np.uint8)))
    assert golden_difference(golden, (*answer[:4], _speckled(answer[4], 0.005))) is None
    assert "label" in golden_difference(golden, (*answer[:4], _speckled(answer[4], 0.05)))
    assert golden_difference(golden, (*answer[:4], _speckled(answer[4], 0.05)), "int8") is None


def _speckled(labels: np.ndarray, share: float) -> np.ndarray:
    hit = np.random.default_rng(0).random(labels.shape) < share
    return np.where(hit, (labels + 1) % 3, labels).astype(np.uint8)


def test_cells_are_bounded_and_in_the_middle_of_their_part():
    labels = np.arange(200, dtype=np.uint8).repeat(3)[None, :, None].repeat(5, 2)
    cells = cells_of(labels)
    assert (len(cells), len(cells[0])) == (64, 10)
    rows = [int(row[:2], 16) for row in cells]
    assert rows == [labels[0, (2 * i + 1) * 600 // 128, 0] for i in range(64)]
    assert cells_of(labels[:, :2, :1]) == ("00", "00")


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ([], r"have \[0\] rows"),
        (["zz"], "hex"),
        (["000"], "hex"),
        (["00", "0000"], "one length"),
        (["07"], "labels of the 3 classes"),
        (["00"] * 65, "at most 64"),
        (["00" * 65], "at most 64"),
        ("0001", "list"),
        ([3], "text"),
    ],
)
def test_a_manifest_with_other_cells_is_refused(tmp_path, cells, text):
    import json

    data = json.loads(save_colour_map(tmp_path / "net.pt").to_json())
    data["golden"]["cells"] = cells
    with pytest.raises(BundleError, match=text):
        parse_manifest(json.dumps(data))


class Same(nn.Module):
    """One class everywhere."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (F.avg_pool2d(images, 4) * 0 + torch.tensor([1.0, 0, 0])[None, :, None, None],)


def save_traced(path: Path, network: nn.Module, decoder: str) -> None:
    program = ProgramSource(
        "torchscript",
        module_bytes(trace_module(network, torch.zeros(1, 3, 64, 96))),
        ("images",),
        ("logits",),
    )
    save_network(
        path,
        [program],
        decoder=DecoderSpec(decoder),
        name="x",
        classes=CLASSES,
        input_spec=ImageSpec((64, 96), "letterbox", "bilinear", "rgb"),
        licence="Apache-2.0",
        score_threshold=0.0,
        nms_threshold=1.0,
        task="segment",
    )


def test_one_class_everywhere_is_an_answer_of_which_one_is_warned(tmp_path, capsys):
    save_traced(tmp_path / "x.pt", Same(), "semantic")
    assert main(["bundle", "verify", str(tmp_path / "x.pt")]) == 0
    assert "its golden label map has one class" in capsys.readouterr().out
    torch.jit.trace(Same(), torch.rand(1, 3, 64, 96)).save(str(tmp_path / "same.ts"))
    imported = import_torchscript(tmp_path / "same.ts", "semantic", CLASSES, (64, 96))
    report = save_checked(tmp_path / "same.pt", imported, bands(), name="same")
    assert any("every pixel of the check picture has one class" in text for text in report.warnings)
    assert report.manifest.golden.origin == "picture"


def test_a_decoder_that_labels_no_pixels_is_refused(tmp_path):
    with pytest.raises(BundleError, match="answers no label of pixels"):
        save_traced(tmp_path / "x.pt", ColourMap(), "fastestdet")
    assert not (tmp_path / "x.pt").exists()


def test_torchvision_s_weights_are_had_by_their_name(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "lraspp.pth"
    torch.save(models.get_model("lraspp_mobilenet_v3_large", weights_backbone=None).state_dict(), path)
    entry = find_entry("LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1")
    get_bundle(entry._replace(sha256=sha256_of(path)), path, tmp_path / "net.pt", bands(90, 120))
    manifest = read_manifest(tmp_path / "net.pt")
    assert (manifest.task, manifest.classes[7], len(manifest.classes)) == ("segment", "car", 21)
    assert manifest.input.resize == "shorter_520"


def test_engines_and_commands_know_the_task(tmp_path, capsys, monkeypatch):
    imported = import_onnx(save_masks_onnx(tmp_path / "net.onnx", "grid", ULTRALYTICS))
    save_checked(tmp_path / "net.pt", imported, blobs(96, 160), name="net")
    for engine in ("onnxruntime", *(["openvino"] if find_spec("openvino") else []), "torchscript"):
        runtime = Runtime.open(tmp_path / "net.pt", "cpu", engine=engine)
        assert runtime.choice.engine == engine
    capsys.readouterr()
    assert main(["bundle", "verify", str(tmp_path / "net.pt")]) == 0
    assert "ok (net 1" in capsys.readouterr().out
    assert main(["bundle", "show", str(tmp_path / "net.pt")]) == 0
    shown = capsys.readouterr().out
    assert "64 x 64 cells of labels" in shown
    assert "yolov8seg" in shown
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["bench", str(tmp_path / "net.pt"), "--calls", "3"]) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_other_tasks_functions_refuse_the_bundle(colour_map):
    with pytest.raises(ConfigError, match="is of task segment, not detect2d"):
        perception_rt.detect2d(colour_map, bands())


# Messages and pictures.


def test_labels_are_read_back():
    labels = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
    labels[0, 0] = UNLABELLED
    data = encode_segmentation(Segmentation(labels), 5_000_000_007, "camera")
    stamp, name, back = decode_segmentation(data, CLASSES)
    assert (stamp, name) == (5_000_000_007, "camera")
    np.testing.assert_array_equal(back.labels, labels)
    with pytest.raises(CodecError, match="there are 2 classes"):
        decode_segmentation(data, CLASSES[:2])
    with pytest.raises(CodecError, match="must not be empty"):
        encode_segmentation(Segmentation.empty(), 0, "")
    for cut in range(4, len(data), 3):
        with pytest.raises(CodecError):
            decode_segmentation(data[:cut], CLASSES)


def test_label_info_names_every_value():
    data = encode_label_info(CLASSES, 0.25, 7, "camera")
    info = typestore().deserialize_cdr(data, "vision_msgs/msg/LabelInfo")
    names = {one.class_id: one.class_name for one in info.class_map}
    assert (names, info.threshold) == ({0: "red", 1: "green", 2: "blue", 255: "unlabelled"}, 0.25)
    with pytest.raises(CodecError, match="tells 255"):
        encode_label_info(["x"] * 256, 0.0, 0, "")


LABELS = encode_segmentation(Segmentation(np.zeros((4, 5), np.uint8)), 7, "camera")


@given(at=st.integers(0, 120), value=st.binary(min_size=1, max_size=4))
def test_damaged_messages_raise_codec_errors_alone(at, value):
    damaged = bytearray(LABELS)
    damaged[at : at + len(value)] = value
    with contextlib.suppress(CodecError):
        decode_segmentation(bytes(damaged), CLASSES)


def test_the_overlay_tints_what_has_a_class_and_leaves_the_background():
    image = np.full((40, 60, 3), 100, np.uint8)
    labels = np.full((40, 60), UNLABELLED, np.uint8)
    labels[20:, :30], labels[20:, 30:] = 0, 1
    drawn = draw_segmentation(image, Segmentation(labels), ("background", "car"))
    assert (drawn[:15, 40:] == 100).all()
    assert (drawn[25:, :30] == 100).all()
    orange = drawn[30, 50].astype(int)
    assert orange[0] > orange[2] + 40
    np.testing.assert_array_equal(
        draw_segmentation(image, Segmentation(labels), ("background", "car"), bgr=True)[30, 50], orange[::-1]
    )
