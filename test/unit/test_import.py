"""Imported detectors answer as the frameworks that they come from."""

import io
import re

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper

from perception_rt.cli.main import main
from perception_rt.model.importers.common import COCO80, sha256_of
from perception_rt.model.importers.export import save_checked
from perception_rt.model.importers.onnx import import_onnx
from perception_rt.model.importers.onnx_torch import slice_shuffles
from perception_rt.model.importers.torchvision import TorchvisionDetector, build_model, import_torchvision
from perception_rt.model.runtime import Runtime
from perception_rt.types import BundleError, ModelError

from .test_decoders import (
    corners,
    detr_reference,
    fastestdet_reference,
    nms_reference,
    photo,
    sigmoid,
    yolov5_reference,
    yolov8_reference,
)

SIZE = (64, 96)
CLASSES = ("car", "pedestrian", "cyclist")


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def saved(imported, path, picture=None):
    save_checked(path, imported, picture, name="test")
    return Runtime.open(path, "cpu")


# --- a tiny ONNX detector of each family -----------------------------------------------------------------


def tiny_onnx(path, kind, batch=1, size=SIZE, fixed=True, seed=0):
    """Cells of 8 px; one convolution, then what makes its output that of the family."""
    rng = np.random.default_rng(seed)
    channels = {"yolov5": 8, "yolov8": 7, "fastestdet": 8, "detr": 8}[kind]
    flat = [batch if fixed else 0, channels, -1]
    parts = {
        "w": rng.normal(0, 0.2, (channels, 3, 8, 8)).astype(np.float32),
        "b": rng.normal(0, 0.3, channels).astype(np.float32),
        "flat": np.array(flat, np.int64),
        "gain": np.array([90, 60, 40, 30, *[1] * (channels - 4)], np.float32).reshape(1, -1, 1),
        "split": np.array([4, 4], np.int64),
    }
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["conv"], strides=[8, 8])]
    if kind == "fastestdet":
        nodes += [helper.make_node("Sigmoid", ["conv"], ["out"])]
    elif kind == "detr":
        nodes += [
            helper.make_node("Reshape", ["conv", "flat"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["cells"], perm=[0, 2, 1]),
            helper.make_node("Split", ["cells", "split"], ["raw_logits", "raw_boxes"], axis=2),
            helper.make_node("Identity", ["raw_logits"], ["logits"]),
            helper.make_node("Sigmoid", ["raw_boxes"], ["boxes"]),
        ]
    else:
        nodes += [
            helper.make_node("Sigmoid", ["conv"], ["sigmoid"]),
            helper.make_node("Reshape", ["sigmoid", "flat"], ["rows"]),
            helper.make_node("Mul", ["rows", "gain"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["out"], perm=[0, 2, 1])
            if kind == "yolov5"
            else helper.make_node("Identity", ["scaled"], ["out"]),
        ]
    names = ["logits", "boxes"] if kind == "detr" else ["out"]
    dims = "nchw" if kind == "fastestdet" else "nab"
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n" if not fixed else batch, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name in names],
        [numpy_helper.from_array(value, name) for name, value in parts.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


REFERENCES = {
    "yolov5": lambda outputs: yolov5_reference(outputs[0][0]),
    "yolov8": lambda outputs: yolov8_reference(outputs[0][0]),
    "detr": lambda outputs: detr_reference(outputs[0][0], outputs[1][0]),
    "fastestdet": lambda outputs: fastestdet_reference(outputs[0][0]),
}


def prepared(kind, image):
    """The image as each family's own tools prepare it, for sizes that halve exactly."""
    if kind in ("yolov5", "yolov8"):
        half = cv2.resize(image, (80, 64), interpolation=cv2.INTER_LINEAR)
        x = np.full((*SIZE, 3), 114, np.uint8)
        x[:, 8:88] = half
        x = x / 255
    elif kind == "detr":
        x = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_LINEAR) / 255
        x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:
        x = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)[..., ::-1] / 255
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("fixed", [True, False], ids=["batch of one", "any batch"])
def test_an_onnx_detector_equals_onnxruntime_from_end_to_end(tmp_path, kind, fixed):
    path = tiny_onnx(tmp_path / "tiny.onnx", kind, fixed=fixed)
    imported = import_onnx(path, kind, CLASSES, score_threshold=0.1, nms_threshold=0.5)
    assert [program.kind for program in imported.programs] == ["onnx", "torchscript"]
    assert imported.programs[0].any_batch == (not fixed)
    runtime = saved(imported, tmp_path / "tiny.pt")
    native = (128, 160) if kind.startswith("yolo") else (128, 192)
    # Halving blocks of 2 px is exact in any filter, so the pixels are the same everywhere.
    images = np.stack([photo(64, native[1] // 2, seed) for seed in range(3)]).repeat(2, 1).repeat(2, 2)
    together = runtime(images)
    assert len(together[0]) > 3
    for i, image in enumerate(images):
        outputs = run_onnx(path, prepared(kind, image))
        boxes, scores, labels = REFERENCES[kind](outputs)
        usable = np.flatnonzero(scores >= 0.1)
        boxes, scores, labels = boxes[usable], scores[usable], labels[usable]
        every = np.argsort(-scores, kind="stable")
        kept = every if kind == "detr" else nms_reference(boxes, scores, labels, 0.5)
        shift, scale = ([8, 0] * 2, [2, 2] * 2) if kind.startswith("yolo") else ([0] * 4, [2] * 4)
        expected = np.clip((boxes[kept] - shift) * scale, 0, [*native[::-1]] * 2)
        mine = together[3] == i
        np.testing.assert_allclose(together[0][mine], expected, atol=1e-2)
        np.testing.assert_allclose(together[1][mine], scores[kept], atol=1e-4)
        np.testing.assert_array_equal(together[2][mine], labels[kept])
        for part, whole in zip(runtime(image[None])[:3], together[:3], strict=True):
            np.testing.assert_allclose(part, whole[mine], atol=1e-4)


def test_options_change_what_the_decoder_presets(tmp_path):
    path = tiny_onnx(tmp_path / "tiny.onnx", "yolov8")
    changes = {"resize": "stretch", "filter": "area", "order": "bgr", "scale": 1.0, "mean": [1, 2, 3]}
    spec = import_onnx(path, "yolov8", CLASSES, std=[2, 2, 2], **changes).input_spec
    assert (spec.size, spec.resize, spec.filter, spec.order) == (SIZE, "stretch", "area", "bgr")
    assert (spec.scale, spec.mean, spec.std) == (1.0, (1, 2, 3), (2, 2, 2))


def test_what_does_not_fit_is_named(tmp_path):
    path = tiny_onnx(tmp_path / "tiny.onnx", "yolov8")
    dynamic = tiny_onnx(tmp_path / "dynamic.onnx", "fastestdet", size=("h", "w"))
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:-200])
    for pattern, arguments in (
        ("no such file", (tmp_path / "none.onnx", "yolov8", CLASSES)),
        ("not ONNX", (text, "yolov8", CLASSES)),
        ("not ONNX: holds no graph", (empty, "yolov8", CLASSES)),
        ("not ONNX", (cut, "yolov8", CLASSES)),
        (
            "decoder='yolov99': must be auto or one of classifier, detr, fastestdet",
            (path, "yolov99", CLASSES),
        ),
        ("classes: 2 names, but the network has 3", (path, "yolov8", CLASSES[:2])),
        ("classes: the network has 3, the file names none: give --classes", (path, "yolov8", None)),
        ("decoder='detr': does not fit the outputs out .*; yolov8 would", (path, "detr", CLASSES)),
        ("leaves its size open: give --input-size", (dynamic, "fastestdet", CLASSES)),
        (r"input_size=\(32, 32\): .* is made for \(64, 96\)", (path, "yolov8", CLASSES, (32, 32))),
    ):
        with pytest.raises(BundleError, match=pattern) as caught:
            import_onnx(*arguments)
        assert "\n" not in str(caught.value)
    imported = import_onnx(dynamic, "fastestdet", CLASSES, (32, 48))
    assert imported.input_spec.size == (32, 48)


# --- FastestDet, a real network --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastestdet(shared_data, tmp_path_factory):
    """The ONNX file, the imported detector and its runtime."""
    path = shared_data / "models" / "FastestDet.onnx"
    imported = import_onnx(path, "fastestdet")
    street = cv2.imread(str(shared_data / "video" / "street.jpg"))[..., ::-1].copy()
    return path, imported, saved(imported, tmp_path_factory.mktemp("fastestdet") / "fastestdet.pt", street)


def street_photos(shared_data):
    paths = sorted((shared_data / "images").glob("*.jpg"))
    assert len(paths) >= 4
    return [cv2.imread(str(path)) for path in paths]


def pixels(image):
    """The network's input (1, 3, 352, 352) for a BGR picture."""
    small = cv2.resize(image, (352, 352), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1)[None] / 255, np.float32)


def test_fastestdet_has_its_authors_threshold(fastestdet):
    _, imported, runtime = fastestdet
    assert imported.score_threshold == 0.65
    assert runtime.manifest.golden.origin == "picture"
    assert {program.kind for program in runtime.manifest.programs} == {"onnx", "torchscript"}


def test_fastestdets_boxes_equal_those_of_onnxruntime_and_numpy(fastestdet, shared_data):
    path, _, runtime = fastestdet
    assert runtime.manifest.classes == COCO80
    found = missing = 0
    for image in street_photos(shared_data):
        height, width = image.shape[:2]
        mine = runtime(image[None], bgr=True, score_threshold=0.3)
        boxes, scores, labels = numpy_fastestdet(run_onnx(path, pixels(image))[0][0], width, height)
        for box, score, label in zip(boxes, scores, labels, strict=True):
            near = (np.abs(mine[0] - box).max(1) < 2) & (np.abs(mine[1] - score) < 0.01) & (mine[2] == label)
            found += near.sum() == 1
            missing += near.sum() != 1
    assert found > 20
    assert missing <= 2  # neighbours whose scores differ by 0.0003 change places in one of the photos


def test_fastestdet_takes_either_channel_order(fastestdet, shared_data):
    _, _, runtime = fastestdet
    for image in street_photos(shared_data):
        as_rgb = runtime(np.ascontiguousarray(image[None, ..., ::-1]), bgr=False)
        assert all(np.array_equal(a, b) for a, b in zip(runtime(image[None], True), as_rgb, strict=True))


def numpy_fastestdet(out, width, height, threshold=0.3):
    """Decoding as in the data's README, and a greedy NMS; best score first."""
    scores = out[0] ** 0.6 * out[5:].max(0) ** 0.4
    y, x = np.nonzero(scores >= threshold)
    cell, scores = out[:, y, x], scores[y, x]
    boxes = corners(
        (x + np.tanh(cell[1])) / 22, (y + np.tanh(cell[2])) / 22, sigmoid(cell[3]), sigmoid(cell[4])
    )
    boxes, labels = boxes * [width, height, width, height], cell[5:].argmax(0)
    kept = nms_reference(boxes, scores, labels, 0.45)
    return np.clip(boxes[kept], 0, [width, height] * 2), scores[kept], labels[kept]


def test_fastestdet_finds_the_bus_and_its_people(fastestdet, shared_data):
    _, _, runtime = fastestdet
    image = cv2.imread(str(shared_data / "images" / "bus.jpg"))
    boxes, _, labels, _ = runtime(image[None], bgr=True, score_threshold=0.5)
    names = [COCO80[label] for label in labels]
    assert names.count("bus") == 1
    assert names.count("person") >= 3
    bus = boxes[names.index("bus")]  # portrait, 810 x 1080: wrong scaling would show here
    assert np.abs(bus - [20, 230, 800, 750]).max() < 80


def test_fastestdet_takes_batches_and_answers_as_for_singles(fastestdet, shared_data):
    _, _, runtime = fastestdet
    photos = [image for image in street_photos(shared_data) if image.shape[:2] == (720, 1280)]
    assert len(photos) >= 2
    together = runtime(np.stack(photos), bgr=True)
    for i, image in enumerate(photos):
        alone = runtime(image[None], bgr=True)
        for part, whole in zip(alone[:3], together[:3], strict=True):
            np.testing.assert_allclose(part, whole[together[3] == i], atol=2e-3)


def test_slices_do_what_the_exported_shuffles_did(shared_data):
    model = onnx.load(shared_data / "models" / "FastestDet.onnx")
    x = np.random.default_rng(0).random((1, 3, 352, 352), np.float32)
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input.1": x})[0]
    slice_shuffles(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Slice") == 26
    assert "Gather" not in kinds
    assert "Reshape" not in kinds
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input.1": x})[0]
    np.testing.assert_allclose(after, before, atol=1e-5)


# --- torchvision -----------------------------------------------------------------------------------------

VISION = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")


def enliven(model):
    """Random weights answer the same to everything; give them features that differ, and scores too."""
    torch.manual_seed(0)
    model.backbone.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model.backbone(torch.randn(2, 3, 320, 320))
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and ("cls_score" in name or "classification_head" in name):
                parameter.mul_(10)
    return model.eval()


@pytest.fixture(scope="module", params=VISION)
def vision(request, tmp_path_factory):
    """A model, and the runtime of the bundle that the command made of its weights."""
    folder = tmp_path_factory.mktemp("vision")
    model = enliven(import_torchvision(request.param, seed=3).module.model)
    torch.save(model.state_dict(), folder / "w.pth")
    command = ["bundle", "export", "torchvision", request.param, "--weights", str(folder / "w.pth")]
    assert main([*command, "--out", str(folder / "v.pt"), "--nms-threshold", "0.6"]) == 0
    return model, Runtime.open(folder / "v.pt", "cpu")


def test_a_torchvision_model_equals_its_eager_self(vision):
    model, runtime = vision
    heads = getattr(model, "roi_heads", model)
    heads.nms_thresh = 0.6
    images = np.stack([photo(90, 130, seed) for seed in range(2)])
    with torch.no_grad():
        eager = model([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images])
    mine = runtime(images)
    assert len(mine[0]) > 10
    for i, answer in enumerate(eager):
        rows = mine[3] == i
        np.testing.assert_allclose(mine[1][rows], answer["scores"].numpy(), atol=1e-4)
        # As sets: of two scores equal to the sixth digit either may come first.
        near = np.abs(mine[0][rows][:, None] - answer["boxes"].numpy()).max(2) < 0.02
        near &= mine[2][rows][:, None] == answer["labels"].numpy()
        assert near.any(0).all()
        assert near.any(1).all()
    swapped = runtime(np.ascontiguousarray(images[..., ::-1]), bgr=True)
    assert all(np.array_equal(a, b) for a, b in zip(mine, swapped, strict=True))


def test_a_torchvision_bundle_says_what_the_model_says(vision):
    model, runtime = vision
    assert runtime.manifest.score_threshold == getattr(model, "roi_heads", model).score_thresh
    assert runtime.manifest.nms_threshold == 0.6
    assert len(runtime.manifest.classes) == 91
    assert runtime.manifest.classes[3] == "car"
    assert runtime.manifest.provenance["weights"].startswith("w.pth sha256 ")


def test_a_torchvision_models_thresholds_follow_each_call(vision):
    _, runtime = vision
    images = photo(90, 130)[None]
    every = runtime(images, score_threshold=0.0)
    middle = float(every[1].min() + every[1].max()) / 2
    above = runtime(images, score_threshold=middle)
    assert 0 < len(above[0]) < len(every[0])
    assert above[1].min() >= middle
    again = runtime(images, score_threshold=0.0)
    assert all(np.array_equal(a, b) for a, b in zip(every, again, strict=True))
    assert len(runtime(images, score_threshold=0.0, nms_threshold=0.01)[0]) <= len(every[0])
    assert [len(part) for part in runtime(images, score_threshold=1.0)] == [0, 0, 0, 0]


def test_an_exception_in_the_middle_of_a_large_model_is_one_line(vision, monkeypatch):
    """A frozen graph as `torch.jit.freeze` leaves it ends the process here."""
    _, runtime = vision
    inner = runtime._detect._module
    four = torch.zeros(1, 90, 130, 4, dtype=torch.uint8)  # channels, past the runtime's own check
    for _ in range(3):
        assert len(runtime(photo(90, 130)[None], score_threshold=0.0)[0])
        with monkeypatch.context() as patch:
            patch.setattr(runtime._detect, "_module", lambda _, *rest: inner(four, *rest))
            with pytest.raises(ModelError, match="size of tensor") as caught:
                runtime(photo(90, 130)[None])
        assert "\n" not in str(caught.value)


def test_random_weights_come_from_the_seed():
    name = VISION[0]
    weights = [import_torchvision(name, seed=seed).module.model.state_dict() for seed in (1, 1, 2)]
    key = next(key for key in weights[0] if key.endswith("0.0.weight"))
    assert torch.equal(weights[0][key], weights[1][key])
    assert not torch.equal(weights[0][key], weights[2][key])


def test_local_weights_and_own_classes(tmp_path):
    names = ("background", "car", "person")
    made = import_torchvision(VISION[0], classes=names, seed=5)
    torch.save(made.module.model.state_dict(), tmp_path / "mine.pth")
    loaded = import_torchvision(VISION[0], str(tmp_path / "mine.pth"), names)
    assert isinstance(loaded.module, TorchvisionDetector)
    assert loaded.classes == names
    assert loaded.provenance["weights"].startswith("mine.pth sha256 ")
    for key, value in made.module.model.state_dict().items():
        assert torch.equal(loaded.module.model.state_dict()[key], value)
    with pytest.raises(
        BundleError, match=r"mine\.pth' has 3 classes, the first of them the background: give --classes"
    ):
        import_torchvision(VISION[0], str(tmp_path / "mine.pth"))


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_googlenet_weights_convert_their_input_as_torchvisions_own_do(tmp_path):
    """Published files, and what was fine-tuned from them, with or without the heads for training."""
    torch.manual_seed(0)
    model = torchvision.models.googlenet(num_classes=3, transform_input=True, init_weights=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model(torch.rand(4, 3, 224, 224))  # else the random network answers the same to everything
    own = model.eval().state_dict()
    torch.save({k: v for k, v in own.items() if not k.startswith("aux")}, tmp_path / "tuned.pth")
    torch.save(own, tmp_path / "whole.pth")
    x = torch.rand(1, 3, 224, 224)
    for name in ("tuned.pth", "whole.pth"):
        imported = import_torchvision("googlenet", str(tmp_path / name), ["a", "b", "c"])
        traced = torch.jit.load(io.BytesIO(imported.programs[0].data))
        with torch.no_grad():
            torch.testing.assert_close(traced(x)[0], model(x), atol=1e-4, rtol=1e-3)


def test_the_published_file_of_an_old_detector_has_no_epsilon(tmp_path, monkeypatch):
    """As torchvision loads it; a file of one's own keeps the usual one."""
    name, path = "fasterrcnn_resnet50_fpn", tmp_path / "w.pth"
    torch.save(build_model(name, 91).state_dict(), path)

    def epsilons():
        model = import_torchvision(name, str(path)).module.model
        return {module.eps for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)}

    assert epsilons() == {1e-5}
    published = torchvision.models.get_model_weights(name).COCO_V1
    monkeypatch.setattr(
        "perception_rt.model.importers.torchvision._hash_in_name",
        {weights: sha256_of(path) if weights is published else "none" for weights in type(published)}.get,
    )
    assert epsilons() == {0.0}


def test_published_densenets_have_the_names_of_an_older_torchvision(tmp_path):
    state = build_model("densenet121", 3).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): v for key, v in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    imported = import_torchvision("densenet121", str(tmp_path / "w.pth"), ["a", "b", "c"])
    assert imported.classes == ("a", "b", "c")


def test_a_vision_transformer_takes_pictures_of_the_size_of_its_weights(tmp_path, monkeypatch):
    """SWAG's take 384 to 518 px; here one of two small layers."""

    def small(name, count, image_size=224):
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
        return torchvision.models.VisionTransformer(image_size, 16, **sizes, num_classes=count)

    monkeypatch.setattr("perception_rt.model.importers.torchvision.build_model", small)
    torch.save(small("", 3, image_size=384).state_dict(), tmp_path / "w.pth")
    imported = import_torchvision("vit_b_16", str(tmp_path / "w.pth"), ["a", "b", "c"])
    assert (imported.input_spec.size, imported.input_spec.resize) == ((384, 384), "crop_384")
    assert imported.notes[-1].startswith("resize: to 384 x 384, which the weights are for")


def test_torchvision_names_that_are_not_are_refused(tmp_path):
    with pytest.raises(BundleError, match="model='raft_small': not a torchvision detection model"):
        import_torchvision("raft_small")
    with pytest.raises(BundleError, match=r"weights='V9': neither a file nor one of .*COCO_V1"):
        import_torchvision(VISION[0], "V9")
    (tmp_path / "x.pth").write_text("not weights")
    with pytest.raises(BundleError, match="do not fit"):
        import_torchvision(VISION[0], str(tmp_path / "x.pth"))
    with pytest.raises(BundleError, match="2 names, but DEFAULT has 91"):
        import_torchvision(VISION[0], "DEFAULT", ["a", "b"])


# --- the command -----------------------------------------------------------------------------------------


def test_export_verify_and_show(tmp_path, capsys):
    model, out = tiny_onnx(tmp_path / "tiny.onnx", "yolov8"), tmp_path / "tiny.pt"
    (tmp_path / "names.txt").write_text("car\npedestrian\n\ncyclist\n")
    command = ["bundle", "export", "onnx", str(model), "--decoder", "yolov8", "--out", str(out)]
    assert main([*command, "--classes", str(tmp_path / "names.txt"), "--score-threshold", "0.2"]) == 0
    assert "3 classes" in capsys.readouterr().out
    assert main(["bundle", "verify", str(out)]) == 0
    assert "tiny.pt: ok" in capsys.readouterr().out
    assert main(["bundle", "show", str(out)]) == 0
    assert "pedestrian" in capsys.readouterr().out
    assert main(["bundle", "show", str(out), "--json"]) == 0
    assert '"score_threshold": 0.2' in capsys.readouterr().out


def test_the_command_fails_with_one_line(tmp_path, capsys):
    for arguments in (
        ["verify", str(tmp_path / "none.pt")],
        ["show", str(tmp_path / "none.pt")],
        ["export", "torchvision", "nope", "--out", str(tmp_path / "x.pt")],
        ["export", "onnx", "nope.onnx", "--decoder", "yolov8", "--out", str(tmp_path / "x.pt")],
        ["export", "onnx", "nope.onnx", "--decoder", "yolov8", "--classes", "no.txt", "--out", "x.pt"],
    ):
        assert main(["bundle", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("perception-rt bundle: ")
        assert error.count("\n") == 1
