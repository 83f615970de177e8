"""Files of many tools: each imports right by default, or one line says why not."""

import json

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from perception_rt.cli.main import main
from perception_rt.codec.detections import DetectionEncoder, decode_detections
from perception_rt.model.export import onnx_program
from perception_rt.model.importers.common import COCO80, read_class_names
from perception_rt.model.importers.export import save_checked
from perception_rt.model.importers.onnx import import_onnx
from perception_rt.model.runtime import Runtime
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.draw import draw_detections
from perception_rt.types import BundleError, CameraFrame

from .test_import import CLASSES, tiny_onnx


@pytest.fixture(scope="module")
def cases(shared_data):
    """The small files of `../shared/cases/models`."""
    folder = shared_data.parent / "cases" / "models"
    if not folder.is_dir():
        pytest.skip("the cases are not here (../shared/cases)")
    return folder


@pytest.fixture(scope="module")
def street(shared_data):
    """(720, 1280, 3) uint8 RGB: cars ahead."""
    return cv2.imread(str(shared_data / "video" / "street.jpg"))[..., ::-1].copy()


def exported(path, out, *arguments):
    """The runtime of the bundle that the command makes."""
    assert main(["bundle", "export", "onnx", str(path), "--out", str(out), *map(str, arguments)]) == 0
    return Runtime.open(out, "cpu")


def refused(capsys, *arguments):
    """The one line with which the command refuses."""
    capsys.readouterr()
    assert main(["bundle", "export", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


GREY = np.full((1, 64, 64, 3), 128, np.uint8)


# --- shared cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "top"), [("three", 0.881), ("five", 0.881)])
def test_rfdetr_is_known_by_its_names(cases, tmp_path, count, top):
    names = ["--classes", cases / f"{count}.txt", "--score-threshold", 0.3]
    runtime = exported(cases / f"{count}_classes.onnx", tmp_path / "x.pt", *names)
    boxes, scores, labels, _ = runtime(GREY)
    np.testing.assert_allclose(boxes, [[9.6, 19.2, 22.4, 44.8], [41.6, 19.2, 54.4, 44.8]], atol=0.01)
    np.testing.assert_allclose(scores, [top, 0.731], atol=1e-3)
    assert [runtime.manifest.classes[label] for label in labels] == ["b", "a"]
    assert runtime.manifest.decoder.name == "rfdetr"


def test_rfdetr_uses_the_last_slot_where_there_are_as_many_names(cases, tmp_path):
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    imported = import_onnx(cases / "three_classes.onnx", classes=["a", "b", "c", "d"])
    assert imported.decoder.parameters == {"classes": 4}


def test_a_decoder_that_does_not_fit_names_one_that_does(cases, tmp_path, capsys):
    out = tmp_path / "x.pt"
    options = ["--decoder", "detr", "--classes", cases / "three.txt", "--out", out]
    line = refused(capsys, "onnx", cases / "three_classes.onnx", *options)
    assert "decoder='detr': does not fit the outputs dets" in line
    assert "rfdetr would" in line
    assert not out.exists()


def test_yolox_adds_the_grid(cases, tmp_path):
    runtime = exported(cases / "yolox_like.onnx", tmp_path / "x.pt", "--classes", cases / "three.txt")
    boxes, scores, labels, _ = runtime(GREY)
    np.testing.assert_allclose(boxes, [[12, 22, 28, 34]], atol=0.01)
    np.testing.assert_allclose(scores, [0.855], atol=1e-3)
    assert runtime.manifest.classes[labels[0]] == "b"
    spec = runtime.manifest.input
    assert (spec.resize, spec.order, spec.scale, spec.pad) == ("letterbox_top_left", "bgr", 1.0, 114.0)


@pytest.mark.parametrize("opset", [17, 18])
def test_opsets_that_torch_cannot_take_run_as_onnx(cases, tmp_path, opset):
    imported = import_onnx(cases / f"split_opset{opset}.onnx", "yolov8")
    kinds = [program.kind for program in imported.programs]
    assert kinds == (["onnx", "torchscript"] if opset == 17 else ["onnx"])
    save_checked(tmp_path / "x.pt", imported, GREY[0], name="x")


# --- real files ------------------------------------------------------------------------------------------


def test_yolox_nano_finds_the_cars(shared_data, tmp_path):
    picture = shared_data / "frames" / "000114" / "image.png"
    model = shared_data / "models" / "yolox_nano.onnx"
    runtime = exported(model, tmp_path / "x.pt", "--check", picture)
    boxes, _, labels, _ = runtime(cv2.imread(str(picture))[None], bgr=True, score_threshold=0.4)
    cars = boxes[labels == COCO80.index("car")]
    assert len(cars) == 6
    assert runtime.manifest.golden.origin == "picture"
    rows = [line.split() for line in (picture.parent / "label.txt").read_text().splitlines()]
    truth = np.array([row[4:8] for row in rows if row[0] in ("Car", "Van")], float)
    matched = 0
    for car in cars:
        sides = np.minimum(truth[:, 2:], car[2:]) - np.maximum(truth[:, :2], car[:2])
        overlap = sides.clip(0).prod(1)
        union = (truth[:, 2:] - truth[:, :2]).prod(1) + (car[2:] - car[:2]).prod() - overlap
        matched += (overlap / union).max() > 0.4
    assert matched >= 5


def test_deimv2_with_its_second_input_finds_the_cars(shared_data, street, tmp_path):
    imported = import_onnx(shared_data / "models" / "deimv2_femto.onnx")
    assert imported.decoder.name == "rtdetr"
    assert [program.kind for program in imported.programs] == ["onnx"]  # GridSample
    save_checked(tmp_path / "x.pt", imported, street, name="x")
    boxes, _, labels, _ = Runtime.open(tmp_path / "x.pt", "cpu")(street[None])
    assert [COCO80[label] for label in labels] == ["car", "car"]
    np.testing.assert_allclose(boxes, [[1040, 401, 1256, 505], [812, 407, 944, 494]], atol=6)


def test_the_classes_that_are_kept_and_their_thresholds_are_in_the_bundle(shared_data, street, tmp_path):
    model, picture = shared_data / "models" / "yolox_nano.onnx", shared_data / "frames/000114/image.png"
    keep = ["--classes-keep", "car", "--score-thresholds", "car=0.5"]
    runtime = exported(model, tmp_path / "x.pt", "--check", picture, *keep)
    _, scores, labels, _ = runtime(cv2.imread(str(picture))[None], bgr=True)
    assert set(labels) == {COCO80.index("car")}
    assert len(scores) == 3
    assert scores.min() >= 0.5


# --- forms of one network --------------------------------------------------------------------------------


def answer_of(path, picture, **options):
    imported = import_onnx(path, "yolov8", CLASSES, score_threshold=0.1, **options)
    save_checked(path.with_suffix(".pt"), imported, picture, name="x")
    return Runtime.open(path.with_suffix(".pt"), "cpu")(picture[None]), imported


@pytest.fixture
def network(tmp_path):
    """A tiny network of YOLOv8's output, its answer to a picture, and the picture."""
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (16, 24, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path = tiny_onnx(tmp_path / "plain.onnx", "yolov8")
    answer, _ = answer_of(path, picture)
    assert len(answer[0]) > 2
    return path, answer, picture


def same(one, other, box=0.05, score=1e-3):
    assert len(one[0]) == len(other[0])
    np.testing.assert_allclose(one[0], other[0], atol=box)
    np.testing.assert_allclose(one[1], other[1], atol=score)
    np.testing.assert_array_equal(one[2], other[2])


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 22])
def test_any_opset(network, tmp_path, opset):
    path, answer, picture = network
    model = onnx.load(path)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = 10 if opset > 18 else 8
    onnx.save(model, tmp_path / "o.onnx")
    same(answer_of(tmp_path / "o.onnx", picture)[0], answer)


def test_external_data_is_taken_in(network, tmp_path):
    path, answer, picture = network
    (tmp_path / "e").mkdir()
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(onnx.load(path), tmp_path / "e" / "e.onnx", **outside)
    found, imported = answer_of(tmp_path / "e" / "e.onnx", picture)
    same(found, answer)
    assert len(imported.programs[0].data) > (tmp_path / "e" / "weights.bin").stat().st_size
    (tmp_path / "e" / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"external data 'weights\.bin' is missing"):
        import_onnx(tmp_path / "e" / "e.onnx", "yolov8", CLASSES)


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../../etc/passwd", "lies outside of its folder"),
        ("/etc/passwd", "lies outside of its folder"),
        ("linked", "lies outside of its folder"),
        ("a" * 300, "is missing beside it"),
        ("a\0b", "is missing beside it"),
    ],
)
def test_external_data_of_another_folder_is_not_read(network, tmp_path, location, why):
    path, _, _ = network
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (tmp_path / "linked").symlink_to("/etc/passwd")
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=why):
        import_onnx(tmp_path / "bad.onnx", "yolov8", CLASSES)


@pytest.mark.parametrize("batch", [2, 4])
def test_a_fixed_batch_serves_single_images(network, tmp_path, batch):
    _, answer, picture = network
    path = tiny_onnx(tmp_path / "batch.onnx", "yolov8", batch=batch)
    found, imported = answer_of(path, picture)
    same(found, answer)
    assert not any("costs as much" in note for note in imported.notes)


def test_a_batch_that_cannot_be_opened_is_repeated(network, tmp_path):
    """A weight for each image of the batch, which no shape can narrow."""
    path, answer, picture = network
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    for tensor in model.graph.initializer:
        if tensor.name == "flat":
            tensor.CopyFrom(numpy_helper.from_array(np.array([2, 7, -1]), "flat"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 1, 1), np.float32), "each"))
    last = next(node for node in model.graph.node if node.output[0] == "out")
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Add", ["before", "each"], ["out"]))
    onnx.save(model, tmp_path / "two.onnx")
    found, imported = answer_of(tmp_path / "two.onnx", picture)
    same(found, answer)
    assert "batch: the file is made for 2 images; each one costs as much as 2" in imported.notes


@pytest.mark.parametrize("kind", ["float16", "uint8", "NHWC"])
def test_other_inputs(network, tmp_path, kind):
    path, answer, picture = network
    model = onnx.load(path)
    value, first = model.graph.input[0], model.graph.node[0]
    if kind == "NHWC":
        dims = value.type.tensor_type.shape.dim
        for dim, side in zip(dims[1:], (64, 96, 3), strict=True):
            dim.dim_value = side
        change = helper.make_node("Transpose", ["image"], ["planar"], perm=[0, 3, 1, 2])
    else:
        value.type.tensor_type.elem_type = getattr(
            TensorProto, {"float16": "FLOAT16", "uint8": "UINT8"}[kind]
        )
        change = helper.make_node("Cast", ["image"], ["planar"], to=TensorProto.FLOAT)
    nodes = [change]
    if kind == "uint8":
        model.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "unit"))
        change.output[0] = "grey"
        nodes.append(helper.make_node("Mul", ["grey", "unit"], ["planar"]))
    first.input[0] = "planar"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, tmp_path / "i.onnx")
    found, imported = answer_of(tmp_path / "i.onnx", picture)
    same(found, answer, box=0.5, score=0.01)
    assert (imported.input_spec.dtype, imported.input_spec.layout) == {
        "float16": ("float16", "NCHW"),
        "uint8": ("uint8", "NCHW"),
        "NHWC": ("float32", "NHWC"),
    }[kind]


@pytest.mark.parametrize("way", ["qdq", "dynamic"])
def test_int8_runs_as_onnx(network, tmp_path, way):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    path, answer, picture = network
    out = tmp_path / "q.onnx"

    class Pictures(CalibrationDataReader):
        def __init__(self):
            self.left = iter(
                [{"image": np.random.default_rng(i).random((1, 3, 64, 96), np.float32)} for i in range(4)]
            )

        def get_next(self):
            return next(self.left, None)

    if way == "qdq":
        quantize_static(path, out, Pictures(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"])
    else:
        quantize_dynamic(path, out, weight_type=QuantType.QUInt8)  # older runtimes have no int8 convolution
    found, imported = answer_of(out, picture)
    assert [(program.kind, program.precision) for program in imported.programs] == [("onnx", "int8")]
    assert abs(len(found[0]) - len(answer[0])) <= 2
    assert np.abs(found[1][0] - answer[1][0]) < 0.1


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("n.txt", "car\n\npedestrian\ncyclist\n"),
        ("n.yaml", "path: x\nnames:\n  0: car\n  1: pedestrian\n  2: cyclist\n"),
        ("n.yml", "names: [car, pedestrian, cyclist]\nnc: 3\n"),
        ("n.yaml", "- car\n- pedestrian\n- cyclist\n"),
        ("n.json", '["car", "pedestrian", "cyclist"]'),
        ("n.json", '{"id2label": {"2": "cyclist", "0": "car", "1": "pedestrian"}}'),
        ("n.json", '{"car": 0, "pedestrian": 1, "cyclist": 2}'),
    ],
)
def test_names_come_from_any_usual_file(tmp_path, file, text):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / file).write_text(text, encoding=encoding)
        assert read_class_names(tmp_path / file) == list(CLASSES)


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("n.txt", " \n", "holds no names"),
        ("n.yaml", "a: [", "cannot be parsed"),
        ("n.json", "[" * 100_000, "cannot be parsed"),
        ("n.json", "3", "must be a list of names"),
        ("n.json", '{"999999999": "x"}', "out of range"),
        ("n.yaml", "path: x\n", "must be a list of names"),
    ],
)
def test_files_without_names_are_refused(tmp_path, file, text, why):
    (tmp_path / file).write_text(text)
    with pytest.raises(BundleError, match=why) as caught:
        read_class_names(tmp_path / file)
    assert "\n" not in str(caught.value)


def with_metadata(path, out, **metadata):
    model = onnx.load(path)
    helper.set_model_props(model, metadata)
    onnx.save(model, out)
    return out


def test_the_names_and_the_task_of_the_file_count(network, tmp_path):
    path, _, _ = network
    own = {"task": "detect", "stride": "8", "imgsz": "[64, 96]", "names": "{0: 'a', 1: 'b', 2: 'c'}"}
    imported = import_onnx(with_metadata(path, tmp_path / "m.onnx", **own))
    assert imported.classes == ("a", "b", "c")
    assert imported.notes[0] == "decoder: yolov8 (metadata: Ultralytics, task detect)"
    own["task"] = "depth"
    with pytest.raises(BundleError, match="task=depth: not a detector"):
        import_onnx(with_metadata(path, tmp_path / "m.onnx", **own))


def test_coco_is_never_taken_in_silence(shared_data):
    notes = import_onnx(shared_data / "models" / "FastestDet.onnx").notes
    assert any("COCO's 80 names are taken" in note for note in notes)


@pytest.mark.parametrize("tool", ["tensorflow", "torchvision"])
def test_labels_of_detectors_without_names_are_cocos_ids(tmp_path, tool):
    """Ids have gaps: of 80 names, person (1) would be bicycle, and stop sign (13) parking meter."""
    boxes, scores = np.array([[8, 8, 24, 24], [32, 32, 60, 60]], np.float32), np.array([0.9, 0.8], np.float32)
    ids = np.array([1, 13])
    outputs = {"boxes": boxes, "scores": scores, "labels": ids}
    if tool == "tensorflow":
        columns = boxes[None] / 64, scores[None], ids[None].astype(np.float32)
        outputs = dict(
            zip(("detection_boxes", "detection_scores", "detection_classes"), columns, strict=True)
        )
    imported = import_onnx(constant_network(tmp_path / "n.onnx", [IMAGE], outputs))
    found = imported.reference(GREY[0], 0.5)
    assert [imported.classes[label] for label in found[2]] == ["person", "stop sign"]
    assert len(imported.classes) == (90 if tool == "tensorflow" else 91)
    assert any(f"COCO's {len(imported.classes)} names are taken" in note for note in imported.notes)
    few = import_onnx(tmp_path / "n.onnx", classes=["a", "b"])
    with pytest.raises(BundleError, match=r"classes: 2 names, but the check picture has label 1[23]:"):
        save_checked(tmp_path / "n.pt", few, GREY[0], name="n")


def test_a_torchvision_detector_of_other_classes_needs_their_names(tmp_path):
    """Its outputs do not tell how many there are, but the weights of its head do."""
    outputs = {
        "boxes": np.zeros((1, 4), np.float32),
        "scores": np.ones(1, np.float32),
        "labels": np.array([1]),
    }
    path = constant_network(tmp_path / "n.onnx", [IMAGE], outputs)
    model = onnx.load(path)
    bias = numpy_helper.from_array(np.zeros(7, np.float32), "roi_heads.box_predictor.cls_score.bias")
    model.graph.initializer.append(bias)
    onnx.save(model, path)
    with pytest.raises(BundleError, match=r"classes: 91 names, but .*cls_score\.bias of .* has 7 values"):
        import_onnx(path)
    with pytest.raises(BundleError, match="6 names, but"):
        import_onnx(path, classes=list("abcdef"))
    assert import_onnx(path, classes=list("abcdefg")).classes == tuple("abcdefg")


# --- second inputs, other families by their names --------------------------------------------------------


def constant_network(path, inputs, outputs):
    """A network that answers the same to any picture: `outputs` by name."""
    nodes = [helper.make_node("ReduceMean", [inputs[0][0]], ["mean"], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    tensors = [numpy_helper.from_array(np.array(0, np.float32), "zero")]
    for name, value in outputs.items():
        tensors.append(numpy_helper.from_array(value, f"{name}_c"))
        if value.dtype == np.float32:
            nodes.append(helper.make_node("Add", [f"{name}_c", "nothing"], [name]))
        else:
            nodes.append(helper.make_node("Identity", [f"{name}_c"], [name]))
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kinds[v.dtype], v.shape) for name, v in outputs.items()],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


IMAGE = ("images", TensorProto.FLOAT, [1, 3, 64, 64])


def test_rtdetr_takes_the_size_of_its_input(tmp_path):
    sizes = ("orig_target_sizes", TensorProto.INT64, [1, 2])
    outputs = {
        "labels": np.array([[1, 0]]),
        "boxes": np.array([[[10, 20, 30, 40], [1, 2, 3, 4]]], np.float32),
        "scores": np.array([[0.9, 0.1]], np.float32),
    }
    path = constant_network(tmp_path / "r.onnx", [IMAGE, sizes], outputs)
    imported = import_onnx(path, classes=CLASSES)
    save_checked(tmp_path / "r.pt", imported, GREY[0], name="r")
    boxes, scores, labels, _ = Runtime.open(tmp_path / "r.pt", "cpu")(np.zeros((1, 128, 192, 3), np.uint8))
    np.testing.assert_allclose(boxes, [[30, 40, 90, 80]], atol=1e-3)  # stretched by 3 and 2
    assert (scores.round(3), labels) == (0.9, 1)


def test_two_images_are_refused(tmp_path):
    other = ("mask", TensorProto.FLOAT, [1, 3, 64, 64])
    path = constant_network(tmp_path / "t.onnx", [IMAGE, other], {"out": np.zeros((1, 4), np.float32)})
    with pytest.raises(BundleError, match="must be one image"):
        import_onnx(path)


def test_logits_that_two_families_could_have_are_not_guessed(tmp_path):
    """300 queries and one slot more than names: a softmax (DETR) or a sigmoid (Deformable DETR)."""
    outputs = {
        "logits": np.zeros((1, 300, 5), np.float32),
        "pred_boxes": np.full((1, 300, 4), 0.5, np.float32),
    }
    path = constant_network(tmp_path / "l.onnx", [IMAGE], outputs)
    with pytest.raises(BundleError, match="decoder=auto: none fits the outputs logits"):
        import_onnx(path)


def test_paddles_rows_are_in_px_of_the_input(tmp_path):
    factor = ("scale_factor", TensorProto.FLOAT, [1, 2])
    rows = {"multiclass_nms3_0.tmp_0": np.array([[2, 0.8, 8, 8, 24, 40], [-1, 0, 0, 0, 0, 0]], np.float32)}
    path = constant_network(tmp_path / "p.onnx", [IMAGE, factor], rows)
    imported = import_onnx(path, classes=CLASSES)
    assert imported.decoder.name == "paddle"
    save_checked(tmp_path / "p.pt", imported, GREY[0], name="p")
    boxes, _, labels, _ = Runtime.open(tmp_path / "p.pt", "cpu")(np.zeros((1, 128, 64, 3), np.uint8))
    np.testing.assert_allclose(boxes, [[8, 16, 24, 80]], atol=1e-3)
    assert labels.tolist() == [2]


@pytest.mark.parametrize("kind", ["pose", "obb"])
def test_pose_and_oriented_exports_come_with_their_extras(tmp_path, kind):
    extra = {"pose": 2 * 3, "obb": 1}[kind]
    grid = np.zeros((1, 4 + 1 + extra, 84), np.float32)
    grid[0, :5, 5] = [32, 32, 20, 10, 0.9]
    grid[0, 5:, 5] = [30, 31, 0.9, 34, 33, 0.8] if kind == "pose" else [0.5]
    path = constant_network(tmp_path / "k.onnx", [IMAGE], {"output0": grid})
    own = {"task": kind, "stride": "32", "names": "{0: 'thing'}", "kpt_shape": "[2, 3]", "imgsz": "[64, 64]"}
    imported = import_onnx(with_metadata(path, path, **own))
    save_checked(tmp_path / "k.pt", imported, GREY[0], name="k")
    runtime = Runtime.open(tmp_path / "k.pt", "cpu")
    boxes, _, _, _ = runtime(np.zeros((1, 128, 128, 3), np.uint8))
    np.testing.assert_allclose(boxes, [[44, 54, 84, 74]], atol=1e-3)
    if kind == "pose":
        np.testing.assert_allclose(runtime.extras["keypoints"][0, :, :2], [[60, 62], [68, 66]], atol=1e-3)
    else:
        np.testing.assert_allclose(runtime.extras["theta"], [0.5])
    frame = CameraFrame(np.zeros((128, 128, 3), np.uint8), False, 0, "camera")
    found = detect2d(runtime, [frame])[0]
    if kind == "pose":  # seen with 0.9 and 0.8: a dot of each in the picture
        picture = draw_detections(frame.pixels, found, ["thing"])
        assert (picture[[62, 66], [60, 68]] > 200).all()
        return
    _, _, back = decode_detections(DetectionEncoder(["thing"]).encode(found, 0, "camera"), ["thing"])
    np.testing.assert_allclose(back.theta, [0.5])
    np.testing.assert_allclose(back.xyxy, boxes, atol=1e-3)


class BrightCells(torch.nn.Module):
    """A box of 20 by 10 px in the middle of each cell of 32 px, its score the cell's brightness."""

    def forward(self, x):
        score = torch.nn.functional.avg_pool2d(x, 32).mean(1, keepdim=True)
        one = torch.ones_like(score)
        x0 = (one.cumsum(3) - 0.5) * 32
        y0 = (one.cumsum(2) - 0.5) * 32
        return torch.cat([x0, y0, one * 20, one * 10, score], 1).flatten(2)


def test_a_file_of_any_size_follows_the_pictures_aspect_as_its_tool_does(tmp_path):
    axes = {"images": {2: "height", 3: "width"}, "output0": {2: "cells"}}
    made = onnx_program(BrightCells(), torch.zeros(1, 3, 64, 64), ["images"], ["output0"], axes)
    path = tmp_path / "any.onnx"
    path.write_bytes(made.data)
    own = {"task": "detect", "stride": "32", "names": "{0: 'thing'}", "imgsz": "[128, 128]"}
    imported = import_onnx(with_metadata(path, path, **own))
    assert imported.input_spec.resize == "letterbox_32"
    assert any("follows the picture's aspect within 128 x 128" in note for note in imported.notes)
    image = np.zeros((100, 256, 3), np.uint8)  # becomes 50 x 128, in 64 x 128: 7 rows of grey above and below
    image[64:, 192:] = 255
    save_checked(tmp_path / "any.pt", imported, image, name="any")
    for size, threshold in (((100, 256), 0.5), ((256, 100), 0.5)):
        turned = image if size == (100, 256) else image.transpose(1, 0, 2)
        runtime = Runtime.open(tmp_path / "any.pt", "cpu", engine="onnxruntime")
        boxes, _, _, _ = runtime(np.ascontiguousarray(turned)[None], score_threshold=threshold)
        # Cell (1, 3) of 2 x 4: its middle is (112, 48) in the input, (224, 82) in the picture.
        expected = [204, 72, 244, 92] if size == (100, 256) else [62, 214, 100, 234]  # cut off at its edge
        np.testing.assert_allclose(boxes, [expected], atol=1e-3)
    fixed = import_onnx(path, input_size=(128, 128))
    assert fixed.input_spec.resize == "letterbox"
    constant = constant_network(tmp_path / "k.onnx", [IMAGE], {"output0": np.zeros((1, 5, 84), np.float32)})
    with pytest.raises(BundleError, match=r"resize='letterbox_32': .* takes images of \(64, 64\) only"):
        import_onnx(constant, "yolov8", ["thing"], resize="letterbox_32")


def test_nanodets_pairs_of_outputs(tmp_path):
    outputs = {}
    for stride, cells in ((8, 64), (16, 16), (32, 4)):
        outputs[f"cls_pred_stride_{stride}"] = np.full((1, cells, 3), 0.01, np.float32)
        outputs[f"dis_pred_stride_{stride}"] = np.zeros((1, cells, 32), np.float32)
    outputs["cls_pred_stride_16"][0, 5, 1] = 0.8  # cell (1, 1): its middle is 24, 24; 3.5 strides each way
    imported = import_onnx(constant_network(tmp_path / "n.onnx", [IMAGE], outputs), classes=CLASSES)
    assert (imported.decoder.name, imported.input_spec.resize) == ("nanodet", "letterbox")
    save_checked(tmp_path / "n.pt", imported, GREY[0], name="n")
    boxes, scores, labels, _ = Runtime.open(tmp_path / "n.pt", "cpu")(GREY)
    np.testing.assert_allclose(boxes, [[0, 0, 64, 64]], atol=1e-3)  # 24 - 56 and 24 + 56, clipped
    assert (scores.round(3), labels) == (0.8, 1)


# --- the command -----------------------------------------------------------------------------------------


def test_a_network_that_finds_nothing_is_told_and_saved(network, tmp_path, capsys):
    path, _, _ = network
    (tmp_path / "n.txt").write_text("\n".join(CLASSES))
    exported(path, tmp_path / "x.pt", "--classes", tmp_path / "n.txt", "--score-threshold", 0.999)
    assert "warning: no detection in the check picture" in capsys.readouterr().out
    assert main(["bundle", "verify", str(tmp_path / "x.pt")]) == 0
    assert "its golden input is noise" in capsys.readouterr().out


def test_both_lists_are_printed(network, tmp_path, capsys):
    path, _, _ = network
    (tmp_path / "n.json").write_text(json.dumps(CLASSES))
    exported(path, tmp_path / "x.pt", "--classes", tmp_path / "n.json", "--score-threshold", 0.1)
    printed = capsys.readouterr().out.splitlines()
    heads = [line for line in printed if line.startswith("source: ")]
    assert len(heads) == 1
    assert "bundle: " in heads[0]


def test_a_bundle_that_differs_is_refused_and_not_written(network, tmp_path):
    path, _, picture = network
    imported = import_onnx(path, "yolov8", CLASSES, score_threshold=0.1)
    truth = imported.reference

    def shifted(image, threshold):
        boxes, scores, labels = truth(image, threshold)
        return boxes + 5, scores, labels

    imported.reference = shifted
    with pytest.raises(BundleError, match="differs"):
        save_checked(tmp_path / "x.pt", imported, picture, name="x")
    assert not (tmp_path / "x.pt").exists()
    assert not list(tmp_path.glob(".x.pt*"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--check", "none.jpg"], "check='none.jpg': cannot be read"),
        (["--check", __file__], "not a picture"),
        (["--score-threshold", "2"], "score_threshold=2.0: must be in"),
        (["--classes-keep", "lorry"], "class 'lorry': not one of"),
        (["--out", "nowhere/x.pt"], "no folder nowhere"),
        (["--input-size", "0", "99"], r"input_size=(0, 99): must be"),
    ],
)
def test_bad_options_are_one_line(network, tmp_path, capsys, arguments, why):
    path, _, _ = network
    (tmp_path / "n.txt").write_text("\n".join(CLASSES))
    out = [] if "--out" in arguments else ["--out", tmp_path / "x.pt"]
    line = refused(capsys, "onnx", path, "--classes", tmp_path / "n.txt", *out, *arguments)
    assert why in line
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_are_refused(network, tmp_path, number):
    path, _, _ = network
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            values = numpy_helper.to_array(tensor).copy()
            values[0, 0, 0, 0] = number
            tensor.CopyFrom(numpy_helper.from_array(values, "w"))
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(BundleError, match="weights 'w' hold NaN or infinity"):
        import_onnx(tmp_path / "bad.onnx", "yolov8", CLASSES)


def limited(path, to, number):
    """Write a network whose output is limited by a constant, as RT-DETR's invalid anchors are."""
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "unlimited"
    model.graph.node.append(helper.make_node("Min", ["unlimited", "limit"], ["out"]))
    limit = np.array([np.finfo(np.float32).max] * 4 + [1, number, number], np.float32).reshape(1, -1, 1)
    model.graph.initializer.append(numpy_helper.from_array(limit, "limit"))
    onnx.save(model, to)
    return to


def test_infinity_may_stand_among_constants_that_are_no_weights(network, tmp_path):
    path, answer, picture = network
    same(answer_of(limited(path, tmp_path / "inf.onnx", np.inf), picture)[0], answer)
    with pytest.raises(BundleError, match="weights 'limit' hold NaN or infinity"):
        import_onnx(limited(path, tmp_path / "nan.onnx", np.nan), "yolov8", CLASSES)


def test_an_unknown_operator_is_one_line(tmp_path):
    path = constant_network(tmp_path / "u.onnx", [IMAGE], {"out": np.zeros((1, 84, 8), np.float32)})
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, path)
    with pytest.raises(BundleError, match="onnxruntime cannot load it") as caught:
        import_onnx(path, "yolov8", CLASSES)
    assert "\n" not in str(caught.value)
    assert torch.get_num_threads() == 1
