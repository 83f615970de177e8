"""Task classify: preprocessing as torchvision's, importers, crops, messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

import perception_rt
from perception_rt.codec.classification import decode_classification, encode_classification, encode_classified
from perception_rt.codec.detections import DetectionEncoder, decode_detections, read_rows
from perception_rt.model.archive import read_manifest
from perception_rt.model.device_image import DevicePreparer
from perception_rt.model.host_image import MAX_ASPECT, ImagePreparer, place
from perception_rt.model.importers import import_onnx, import_torchscript, import_torchvision, save_checked
from perception_rt.model.importers.common import sha256_of
from perception_rt.model.importers.reference import prepare
from perception_rt.model.runtime import Runtime
from perception_rt.model.specs import ImageSpec, parse_image
from perception_rt.model.zoo import find_entry, get_bundle
from perception_rt.stage.classify import classify, crops
from perception_rt.types import BundleError, CameraFrame, CodecError, ConfigError, Detections2D
from perception_rt.types.classification import Classification
from test.classifiers import CLASSES, GAIN, save_colours

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = 1 / 255 / min(STD)  # one grey level of the network's input


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 7, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth.astype(int) + random.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def flat(colour: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Runtime:
    path = tmp_path_factory.mktemp("classify") / "colours.pt"
    save_colours(path)
    return Runtime.open(path, "cpu")


# Preprocessing.


@pytest.mark.parametrize(
    ("filter_", "mode"), [("antialias", InterpolationMode.BILINEAR), ("bicubic", InterpolationMode.BICUBIC)]
)
@pytest.mark.parametrize(
    ("height", "width"), [(480, 640), (375, 1242), (601, 333), (64, 64), (256, 256), (90, 711)]
)
def test_an_image_is_prepared_as_by_torchvision(filter_, mode, height, width):
    image = picture(height, width)
    tool = ImageClassification(crop_size=224, resize_size=256, interpolation=mode)
    planar = torch.from_numpy(image).permute(2, 0, 1)
    spec = ImageSpec((224, 224), "crop_256", filter_, "rgb", mean=MEAN, std=STD)
    inputs, _ = ImagePreparer(spec, ("images",), torch.device("cpu"))(torch.from_numpy(image)[None], False)
    mine = inputs["images"][0]
    differences = {
        "tensor": (mine - tool(planar)).abs(),
        "Pillow": (mine - tool(Image.fromarray(image))).abs(),
        "reference": (mine - torch.from_numpy(prepare(image, spec)[0][0])).abs(),
    }
    on_device = DevicePreparer(spec, torch.device("cpu"))
    there = on_device(torch.from_numpy(image)[None], False, place(spec, image.shape[:2]))[0]
    differences["device"] = (there - mine).abs()
    print({k: (float(v.max()) / GREY, float(v.mean()) / GREY) for k, v in differences.items()}, "levels")
    assert float(differences.pop("reference").max()) < 1e-5
    assert float(differences["Pillow"].max()) <= 1.01 * GREY
    assert float(differences.pop("Pillow").mean()) <= 0.02 * GREY
    # torch resizes float32, and uint8 without AVX2, in one step instead of two.
    levels = 1.01 if filter_ == "antialias" else 2.01
    assert max(float(value.max()) for value in differences.values()) <= levels * GREY


def test_the_middle_is_seen_and_a_strip_takes_no_memory(colours):
    sides = flat((255, 0, 0), 50, 200), flat((0, 255, 0), 50, 50), flat((0, 0, 255), 50, 200)
    found = classify(colours, [CameraFrame(np.concatenate(sides, 1), False, 0, "")])[0]
    assert CLASSES[found.labels[0]] == "green"
    strip = np.ascontiguousarray(np.broadcast_to(flat((0, 0, 255), 1, 1), (1, 300_000, 3)))
    inputs, where = colours._detect._prepare(torch.from_numpy(strip)[None], False)
    assert where.width <= 36 * (MAX_ASPECT + 2)
    assert inputs["images"][0].mean((1, 2)).tolist() == pytest.approx([0, 0, 1])


@pytest.mark.parametrize(
    ("resize", "text"),
    [("crop_223", "is larger"), ("crop_", "must be one of"), ("crop_0", "side"), ("crop_99999", "side")],
)
def test_a_crop_rule_that_cannot_be_is_refused(resize, text):
    data = {"size": [224, 224], "resize": resize, "filter": "antialias", "order": "rgb"}
    with pytest.raises(BundleError, match=text):
        parse_image(data)


# Answers.


def test_scores_are_the_softmax_best_first_and_top_k_limits_them(colours):
    image = flat((255, 51, 0))
    logits = np.array([1.0, 0.2, 0.0]) * GAIN
    expected = np.exp(logits) / np.exp(logits).sum()
    frame = CameraFrame(image, False, 0, "")
    other = CameraFrame(image[:40, :, ::-1], True, 0, "")  # the same colours in another order
    first, second = classify(colours, [frame, other])
    np.testing.assert_allclose(first.scores, expected, atol=1e-3)
    np.testing.assert_allclose(second.scores, expected, atol=1e-3)
    assert first.labels.tolist() == second.labels.tolist() == [0, 1, 2]
    assert len(classify(colours, [frame], top_k=1)[0]) == 1
    assert len(classify(colours, [frame], score_threshold=0.5)[0]) == 1
    assert classify(colours, []) == []


def test_images_of_several_sizes_are_one_batch(colours, monkeypatch):
    tones = np.eye(3, dtype=np.uint8) * 255
    frames = [CameraFrame(flat(tone, 30 + 9 * k, 50), False, 0, "") for k, tone in enumerate(tones)]
    alone = [classify(colours, [frame])[0] for frame in frames]
    batches = []
    engine = colours._detect._engine
    run = engine.run

    def counted(inputs: dict) -> list:
        batches.append(len(inputs["images"]))
        return run(inputs)

    monkeypatch.setattr(colours._detect, "together", True)
    monkeypatch.setattr(engine, "run", counted)
    together = classify(colours, frames)
    assert batches == [3]
    for one, other in zip(alone, together, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_the_package_classifies_an_array_and_refuses_other_tasks(colours):
    found = perception_rt.classify(colours, flat((0, 0, 255)), top_k=1)
    assert [CLASSES[label] for label in found.labels] == ["blue"]
    with pytest.raises(ConfigError, match="is of task classify, not detect2d"):
        perception_rt.detect2d(colours, flat((0, 0, 255)))


def test_crops_are_the_boxes_clipped_to_the_image():
    image = picture(60, 100)
    boxes = np.array(
        [
            [20, 30, 0, 10, 20],
            [0, 0, 0, 8, 8],
            [200, 30, 0, 10, 10],
            [np.nan, 30, 0, 10, 10],
            [50, 30, np.pi / 2, 20, 6],
            [50, 30, 0, 0, 0],
            [1e300, 0, np.inf, 1e300, 3],
        ]
    )
    parts = crops(CameraFrame(image, True, 7, "camera"), boxes)
    np.testing.assert_array_equal(parts[0].pixels, image[20:40, 15:25])
    np.testing.assert_array_equal(parts[1].pixels, image[:4, :4])
    assert parts[2] is parts[3] is parts[5] is parts[6] is None
    assert abs(parts[4].pixels.shape[0] - 20) <= 2
    assert abs(parts[4].pixels.shape[1] - 6) <= 2
    assert (parts[0].bgr, parts[0].stamp_ns, parts[0].frame_id) == (True, 7, "camera")
    wider = crops(CameraFrame(image, False, 7, "camera"), boxes[:1], margin=0.5)[0]
    np.testing.assert_array_equal(wider.pixels, image[10:50, 10:30])


# Messages.


def test_a_classification_is_read_back():
    found = Classification(np.float32([0.75, 0.25]), np.array([2, 0]))
    data = encode_classification(found, CLASSES, 5_000_000_007, "camera")
    stamp, frame, back = decode_classification(data, CLASSES)
    assert (stamp, frame) == (5_000_000_007, "camera")
    assert (back.labels.tolist(), back.scores.tolist()) == ([2, 0], [0.75, 0.25])
    with pytest.raises(CodecError, match="there are 1 classes"):
        encode_classification(found, CLASSES[:1], 0, "")
    with pytest.raises(CodecError, match="'blue'"):
        decode_classification(data, CLASSES[:1])
    for cut in range(4, len(data)):
        with pytest.raises(CodecError):
            decode_classification(data[:cut], CLASSES)


def test_classified_boxes_keep_their_order_ids_and_boxes():
    boxes = Detections2D(np.float32([[1, 2, 5, 9], [3, 4, 8, 8]]), np.float32([0.5, 0.4]), np.array([0, 0]))
    rows = read_rows(DetectionEncoder(("sign",)).encode(boxes, 9, "camera", ["seven", ""]))
    two = Classification(np.float32([0.2, 0.7]), np.array([0, 1]))
    one = Classification(np.float32([1.0]), np.array([2]))
    data = encode_classified(rows, [two, one], CLASSES)
    back = read_rows(data)
    assert (back.stamp_ns, back.frame_id, back.ids) == (9, "camera", ["seven", ""])
    stamp, frame, best = decode_detections(data, CLASSES)
    assert (stamp, frame, best.labels.tolist()) == (9, "camera", [1, 2])
    np.testing.assert_array_equal(best.xyxy, boxes.xyxy)
    assert read_rows(encode_classified(rows, [Classification.empty()] * 2, CLASSES)).ids == ["seven", ""]


# Importers.


class Small(nn.Module):
    """A convolution, a mean and a layer of five classes."""

    def __init__(self, softmax: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 5)
        self.softmax = softmax

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = 20 * self.head(self.features(images))
        return logits.softmax(1) if self.softmax else logits


NAMES = ["stop", "yield", "limit 30", "limit 50", "priority"]
ULTRALYTICS = {"task": "classify", "names": str(dict(enumerate(NAMES))), "imgsz": "[64, 64]", "stride": "1"}


def export(path: Path, softmax: bool, metadata: dict[str, str]) -> Small:
    network = Small(softmax).eval()
    names = {"input_names": ["images"], "output_names": ["output0"]}
    torch.onnx.export(network, torch.zeros(1, 3, 64, 64), str(path), dynamo=False, opset_version=17, **names)
    model = onnx.load(path)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return network


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("metadata", [{}, ULTRALYTICS], ids=["plain", "ultralytics"])
def test_an_onnx_classifier_becomes_a_bundle_that_answers_as_its_source(tmp_path, softmax, metadata):
    network = export(tmp_path / "net.onnx", softmax, metadata)
    imported = import_onnx(tmp_path / "net.onnx", classes=None if metadata else NAMES)
    image = picture(120, 200)
    save_checked(tmp_path / "net.pt", imported, image, name="net")
    manifest = read_manifest(tmp_path / "net.pt")
    assert (manifest.task, list(manifest.classes)) == ("classify", NAMES)
    assert manifest.input.resize == ("crop_64" if metadata else "crop_73")
    assert manifest.decoder.parameters == {"softmax": not softmax}
    mean, std = ((0.0,) * 3, (1.0,) * 3) if metadata else (MEAN, STD)
    tool = ImageClassification(crop_size=64, resize_size=64 if metadata else 73, mean=mean, std=std)
    with torch.no_grad():
        answer = network(tool(torch.from_numpy(image).permute(2, 0, 1))[None])[0]
    expected = answer if softmax else answer.softmax(0)
    found = perception_rt.classify(perception_rt.open_bundle(tmp_path / "net.pt", device="cpu"), image)
    assert found.labels.tolist() == expected.argsort(descending=True).tolist()
    np.testing.assert_allclose(found.scores, expected.sort(descending=True).values, atol=1e-4)


def test_a_classifier_without_names_must_be_given_them(tmp_path):
    export(tmp_path / "net.onnx", False, {})
    with pytest.raises(BundleError, match="has 5, the file names none: give --classes"):
        import_onnx(tmp_path / "net.onnx")
    with pytest.raises(BundleError, match="4 names, but the network has 5"):
        import_onnx(tmp_path / "net.onnx", classes=NAMES[:4])


def test_a_torchscript_classifier_becomes_a_bundle(tmp_path):
    traced = torch.jit.trace(Small(False).eval(), torch.zeros(1, 3, 64, 64))
    traced.save(str(tmp_path / "net.torchscript"))
    imported = import_torchscript(tmp_path / "net.torchscript", classes=NAMES, input_size=(64, 64))
    report = save_checked(tmp_path / "net.pt", imported, picture(120, 200), name="net")
    assert (report.manifest.task, report.manifest.decoder.name) == ("classify", "classifier")


def test_torchvision_s_own_weights_bring_their_crop(tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = tmp_path / "mine.pth"
    torch.save(models.squeezenet1_1(num_classes=7).state_dict(), path)
    with pytest.raises(BundleError, match="has 7, the file names none"):
        import_torchvision("squeezenet1_1", str(path))
    names = [f"class {k}" for k in range(7)]
    imported = import_torchvision("squeezenet1_1", str(path), names)
    report = save_checked(tmp_path / "mine.pt", imported, picture(300, 400), name="mine")
    assert (report.manifest.task, report.manifest.classes) == ("classify", tuple(names))
    assert report.manifest.input.resize == "crop_256"
    # A file with the hash of weights of torchvision gets the crop of those, not of the default ones.
    old = models.MobileNet_V3_Large_Weights.IMAGENET1K_V1
    torch.save(models.mobilenet_v3_large(num_classes=2).state_dict(), path)
    for sha256, rule in (
        (old.url.rpartition("-")[2].partition(".")[0] + "0" * 56, "crop_256"),
        ("f" * 64, "crop_232"),
    ):
        monkeypatch.setattr("perception_rt.model.importers.torchvision.sha256_of", lambda file, it=sha256: it)
        assert import_torchvision("mobilenet_v3_large", str(path), ["a", "b"]).input_spec.resize == rule
    with pytest.raises(BundleError, match="not a torchvision detection model, classifier or"):
        import_torchvision("raft_large")


def test_a_classifier_is_had_by_the_name_of_its_weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "squeezenet.pth"
    torch.save(models.squeezenet1_1().state_dict(), path)
    entry = find_entry("SqueezeNet1_1_Weights.IMAGENET1K_V1")
    with pytest.raises(BundleError, match="is another file"):
        get_bundle(entry, path, tmp_path / "net.pt")
    get_bundle(entry._replace(sha256=sha256_of(path)), path, tmp_path / "net.pt", picture(300, 400))
    manifest = read_manifest(tmp_path / "net.pt")
    assert (manifest.task, manifest.classes[0], len(manifest.classes)) == ("classify", "tench", 1000)
    with pytest.raises(BundleError, match="have no classes"):
        find_entry("raft_small")
