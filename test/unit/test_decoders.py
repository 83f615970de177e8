"""Decoders, NMS and resizing against plain NumPy and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders import DECODERS
from perception_rt.model.host_image import ImagePreparer, place
from perception_rt.model.manifest import ImageSpec
from perception_rt.model.network import best_candidates
from perception_rt.model.oriented import oriented_nms, probabilistic_iou
from perception_rt.model.preprocess import dense_tables, resize_dense
from perception_rt.model.torchscript import load_operators

load_operators()
SIZE = (64, 96)


# --- references ----------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def corners(cx, cy, w, h):
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)


def yolov5_reference(out):
    classes = out[:, 5:]
    return corners(*out[:, :4].T), classes.max(1) * out[:, 4], classes.argmax(1)


def yolov8_reference(out):
    return corners(*out[:4]), out[4:].max(0), out[4:].argmax(0)


def yolov5seg_reference(out, prototypes):
    return yolov5_reference(out[:, :-3])


def yolov8seg_reference(out, prototypes):
    return yolov8_reference(out[:-3])


def detr_reference(logits, boxes):
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    classes = (exponent / exponent.sum(1, keepdims=True))[:, :-1]
    return corners(*boxes.T) * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]], classes.max(1), classes.argmax(1)


def fastestdet_reference(out):
    _, rows, columns = out.shape
    boxes, scores, labels = [], [], []
    for y in range(rows):
        for x in range(columns):
            cell = out[:, y, x]
            labels.append(cell[5:].argmax())
            scores.append(cell[0] ** 0.6 * cell[5:].max() ** 0.4)
            cx, cy = (x + np.tanh(cell[1])) / columns, (y + np.tanh(cell[2])) / rows
            boxes.append(corners(cx, cy, sigmoid(cell[3]), sigmoid(cell[4])))
    return np.array(boxes) * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]], np.array(scores), np.array(labels)


def nms_reference(boxes, scores, labels, threshold):
    """Greedy, one class at a time."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(labels[i] != labels[j] or iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def iou(a, b):
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap)


# --- decoders ------------------------------------------------------------------------------------------


def raw_outputs(name, classes, seed):
    rng = np.random.default_rng(seed)
    if name == "classifier":
        return [rng.normal(0, 2, 1 + classes)]
    if name == "yolov5":
        return [np.concatenate([rng.uniform(1, 90, (30, 4)), rng.uniform(0, 1, (30, 1 + classes))], 1)]
    if name == "yolov8":
        return [np.concatenate([rng.uniform(1, 90, (4, 30)), rng.uniform(0, 1, (classes, 30))], 0)]
    if name in ("yolov5seg", "yolov8seg"):  # of each box three coefficients of prototypes
        (boxes,) = raw_outputs(name.removesuffix("seg"), classes, seed)
        axis = 1 if name == "yolov5seg" else 0
        shape = (30, 3) if name == "yolov5seg" else (3, 30)
        return [np.concatenate([boxes, rng.normal(0, 1, shape)], axis), rng.normal(0, 1, (3, 16, 24))]
    if name == "yolox":
        cells = 8 * 12 + 4 * 6 + 2 * 3
        boxes = np.concatenate([rng.uniform(-1, 2, (cells, 2)), rng.uniform(-1, 1, (cells, 2))], 1)
        return [np.concatenate([boxes, rng.uniform(0, 1, (cells, 1 + classes))], 1)]
    if name == "nanodet":
        cells = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
        return [np.concatenate([rng.uniform(0, 1, (cells, classes)), rng.normal(0, 2, (cells, 32))], 1)]
    if name == "picodet":
        levels = (8 * 12, 4 * 6, 2 * 3, 1 * 2)
        scores = [rng.uniform(0, 1, (cells, classes)) for cells in levels]
        return scores + [rng.normal(0, 2, (cells, 32)) for cells in levels]
    if name == "detr":
        return [rng.normal(0, 3, (20, classes + 1)), rng.uniform(0.05, 0.95, (20, 4))]
    if name == "rfdetr":
        return [rng.uniform(0.05, 0.95, (20, 4)), rng.normal(0, 3, (20, classes + 1))]
    if name == "rtdetr":
        return [rng.integers(0, classes, 20), rng.uniform(0, 60, (20, 4)), rng.uniform(0, 1, 20)]
    if name == "ssd":
        return [rng.uniform(0, 1, (20, 4)), rng.uniform(0, 1, 20), rng.integers(1, classes + 1, 20)]
    if name == "paddle":
        labels, rest = rng.integers(-1, classes, (20, 1)), rng.uniform(0, 1, (20, 1))
        return [np.concatenate([labels, rest, rng.uniform(0, 60, (20, 4))], 1)]
    out = rng.normal(0, 2, (5 + classes, 4, 6))
    out[[0, *range(5, 5 + classes)]] = rng.uniform(0, 1, (1 + classes, 4, 6))
    return [out]


def grid_of(strides):
    """x, y and stride of every cell of a 64 x 96 input, one after the other."""
    return [
        (x, y, stride)
        for stride in strides
        for y in range(-(-SIZE[0] // stride))
        for x in range(-(-SIZE[1] // stride))
    ]


def yolox_reference(out):
    """github.com/Megvii-BaseDetection/YOLOX, demo/ONNXRuntime."""
    boxes = []
    for row, (x, y, stride) in zip(out, grid_of((8, 16, 32)), strict=True):
        w, h = np.exp(row[2]) * stride, np.exp(row[3]) * stride
        boxes.append(corners((row[0] + x) * stride, (row[1] + y) * stride, w, h))
    return np.array(boxes), out[:, 5:].max(1) * out[:, 4], out[:, 5:].argmax(1)


def distances_reference(scores, logits, strides, offset):
    """Generalised focal loss (Li et al., 2020): the mean of each side's distribution, in strides."""
    boxes = []
    for row, (x, y, stride) in zip(logits, grid_of(strides), strict=True):
        sides = []
        for side in range(4):
            weight = np.exp(row[8 * side : 8 * side + 8] - row[8 * side : 8 * side + 8].max())
            sides.append(sum(k * weight[k] for k in range(8)) / weight.sum() * stride)
        cx, cy = (x + offset) * stride, (y + offset) * stride
        boxes.append([cx - sides[0], cy - sides[1], cx + sides[2], cy + sides[3]])
    return np.array(boxes), scores.max(1), scores.argmax(1)


def nanodet_reference(out):
    return distances_reference(out[:, :-32], out[:, -32:], (8, 16, 32, 64), 0.0)


def picodet_reference(*outputs):
    scores, logits = np.concatenate(outputs[:4]), np.concatenate(outputs[4:])
    return distances_reference(scores, logits, (8, 16, 32, 64), 0.5)


def rfdetr_reference(boxes, logits):
    """A sigmoid; each slot of a query counts."""
    scores = sigmoid(logits)
    queries, labels = np.nonzero(scores >= 0)
    extent = [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]
    return (corners(*boxes.T) * extent)[queries], scores[queries, labels], labels


def rtdetr_reference(labels, boxes, scores):
    return boxes, scores, labels


def ssd_reference(boxes, scores, labels):
    return boxes * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]], scores, labels - 1


def paddle_reference(rows):
    rows = rows[rows[:, 0] >= 0]
    return rows[:, 2:], rows[:, 1], rows[:, 0].astype(int)


def classifier_reference(out):
    scores = np.exp(out) / np.exp(out).sum()
    return [(0, 0, SIZE[1], SIZE[0])] * len(out), scores, range(len(out))


REFERENCES = {
    "yolov5": yolov5_reference,
    "yolov8": yolov8_reference,
    "yolov5seg": yolov5seg_reference,
    "yolov8seg": yolov8seg_reference,
    "yolox": yolox_reference,
    "nanodet": nanodet_reference,
    "picodet": picodet_reference,
    "detr": detr_reference,
    "rfdetr": rfdetr_reference,
    "rtdetr": rtdetr_reference,
    "ssd": ssd_reference,
    "paddle": paddle_reference,
    "fastestdet": fastestdet_reference,
    "classifier": classifier_reference,
}


def test_every_decoder_has_a_reference():
    assert set(REFERENCES) == set(DECODERS) - {"semantic"}  # which answers no boxes


def decoded(name, raw, threshold=0.0, **parameters):
    tensors = [torch.from_numpy(np.asarray(array, np.float32)) for array in raw]
    if name != "paddle":
        tensors = [tensor[None] for tensor in tensors]
    found = DECODERS[name](None, **parameters)(tensors, SIZE, threshold)
    return tuple(tensor.numpy() for tensor in found[:3]), found.extras, tensors


COUNTED = ("yolov8", "yolov5seg", "yolov8seg")  # decoders that are told how many classes there are


@pytest.mark.parametrize("name", sorted(REFERENCES))
@given(classes=st.integers(1, 9), seed=st.integers(0, 2**31), threshold=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_a_decoder_equals_its_authors_formula(name, classes, seed, threshold):
    raw = raw_outputs(name, classes, seed)
    parameters = {"classes": classes} if name in COUNTED else {}
    (boxes, scores, labels), extras, _ = decoded(name, raw, threshold, **parameters)
    expected = REFERENCES[name](*(np.asarray(array, np.float32) for array in raw))
    used = np.flatnonzero(np.asarray(expected[1], np.float32) >= np.float32(threshold))
    if np.abs(np.asarray(expected[1]) - threshold).min() < 1e-6:
        return  # rounding decides
    np.testing.assert_allclose(boxes, np.asarray(expected[0])[used], atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(scores, np.asarray(expected[1])[used], atol=1e-5)
    np.testing.assert_array_equal(labels, np.asarray(expected[2])[used])
    assert labels.dtype == np.int64
    assert set(extras) == ({"coefficients"} if name.endswith("seg") else set())


@pytest.mark.parametrize("name", ["yolov5", "yolov8", "yolox", "nanodet", "picodet", "detr", "fastestdet"])
def test_a_decoder_counts_classes(name):
    parameters = {"yolov8": {"classes": 7}}.get(name, {})
    _, _, tensors = decoded(name, raw_outputs(name, 7, 0), **parameters)
    assert DECODERS[name](None, **parameters).class_count(tensors) == 7


def test_rfdetr_leaves_out_the_last_slot_where_it_stands_for_nothing():
    boxes, logits = raw_outputs("rfdetr", 3, 1)
    (_, _, labels), _, _ = decoded("rfdetr", [boxes, logits], classes=3)
    assert set(labels) == {0, 1, 2}
    (_, _, labels), _, _ = decoded("rfdetr", [boxes, logits])
    assert set(labels) == {0, 1, 2, 3}


def test_keypoints_come_with_their_boxes():
    """(1, 4 + C + K * 3, A), as Ultralytics' pose exports."""
    grid = np.zeros((4 + 1 + 2 * 3, 2), np.float32)
    grid[:, 0] = [30, 20, 10, 8, 0.9, 28, 18, 0.7, 33, 22, 0.2]
    grid[:, 1] = [50, 40, 10, 8, 0.1, 0, 0, 0, 0, 0, 0]
    options = {"classes": 1, "extra": "keypoints", "keypoints": [2, 3]}
    (boxes, scores, _), extras, _ = decoded("yolov8", [grid], 0.5, **options)
    np.testing.assert_allclose(boxes, [[25, 16, 35, 24]])
    np.testing.assert_allclose(scores, [0.9])
    np.testing.assert_allclose(extras["keypoints"], [[[28, 18, 0.7], [33, 22, 0.2]]])


@pytest.mark.parametrize("layout", ["grid", "rows"])
def test_an_oriented_box_is_centre_size_and_angle(layout):
    """(1, 4 + C + 1, A), or with NMS inside rows of cx cy w h score label angle."""
    row = [30, 20, 10, 8, 0.0, 0.9, 0.5] if layout == "grid" else [30, 20, 10, 8, 0.9, 1, 0.5]
    raw = np.array([row], np.float32)
    options = {"classes": 2, "extra": "theta", "layout": layout}
    raw = raw.T if layout == "grid" else raw
    (boxes, scores, labels), extras, _ = decoded("yolov8", [raw], 0.5, **options)
    np.testing.assert_allclose(boxes, [[25, 16, 35, 24]])
    assert (scores.round(4), labels) == (0.9, 1)
    np.testing.assert_allclose(extras["theta"], [0.5])


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_outputs_of_another_layout_are_refused(name):
    parameters = {"classes": 7} if name in COUNTED else {}
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        decoded(name, [np.zeros((3, 2), np.float32)], **parameters)


def test_oriented_nms_is_upright_nms_of_what_does_not_overlap():
    """Boxes of one centre at right angles overlap little where they are long; an upright NMS drops one."""
    boxes = torch.tensor([[0.0, 40, 100, 60], [0, 40, 100, 60], [0, 40, 100, 60]])
    theta = torch.tensor([0.0, np.pi / 2, 0.01])
    assert oriented_nms(boxes, theta, torch.zeros(3), 0.7).tolist() == [0, 1]
    assert oriented_nms(boxes, theta, torch.tensor([0, 0, 1]), 0.7).tolist() == [0, 1, 2]


def test_the_overlap_of_gaussians_is_one_for_equals_and_falls_with_distance():
    box, theta = torch.tensor([[10.0, 10, 50, 30]]), torch.tensor([0.3])
    others = torch.tensor([[10.0, 10, 50, 30], [15, 10, 55, 30], [200, 10, 240, 30]])
    overlap = probabilistic_iou(box, theta, others, theta.repeat(3))[0]
    assert overlap[0] == pytest.approx(1, abs=1e-6)
    # Along x by one twelfth of the square: B = d' S^-1 d / 8, worked out by hand for an upright box.
    upright = probabilistic_iou(box, torch.zeros(1), others[1:2], torch.zeros(1))[0, 0]
    bhattacharyya = 5**2 / (40**2 / 12) / 8
    assert upright == pytest.approx(1 - np.sqrt(1 - np.exp(-bhattacharyya)), abs=1e-6)
    assert overlap[2] < 0.01


# --- selection -----------------------------------------------------------------------------------------


def select(boxes, scores, labels, score=0.0, nms=0.5, suppress=True, most=300):
    columns = (np.float32(boxes), np.float32(scores), np.asarray(labels, np.int64))
    found = best_candidates(Candidates(*map(torch.from_numpy, columns), {}), score, nms, suppress, most)
    return tuple(column.numpy() for column in found[:3])


@given(seed=st.integers(0, 2**31), nms=st.floats(0.1, 0.9), score=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_selection_equals_a_greedy_nms_of_each_class(seed, nms, score):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 60, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (40, 2))], 1).astype(np.float32)
    scores, labels = rng.random(40).astype(np.float32), rng.integers(0, 3, 40)
    usable = np.flatnonzero(scores >= np.float32(score))
    kept = usable[nms_reference(boxes[usable], scores[usable], labels[usable], nms)]
    expected = (boxes[kept], scores[kept], labels[kept])
    for mine, theirs in zip(select(boxes, scores, labels, score, nms), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_overlapping_boxes_of_two_classes_are_both_kept():
    boxes = [[10, 10, 50, 50], [11, 11, 51, 51], [10, 10, 50, 51]]
    _, scores, labels = select(boxes, [0.9, 0.8, 0.7], [0, 1, 0])
    assert labels.tolist() == [0, 1]
    np.testing.assert_allclose(scores, [0.9, 0.8])


def test_without_suppression_only_the_score_counts():
    out = select([[0, 0, 9, 9]] * 3, [0.2, 0.9, 0.5], [0, 0, 0], score=0.4, suppress=False)
    np.testing.assert_allclose(out[1], [0.9, 0.5])


def test_the_most_that_are_kept_are_the_best():
    boxes = np.arange(9)[:, None] * 10 + np.float32([0, 0, 5, 5])
    out = select(boxes, np.linspace(0.1, 0.9, 9), np.zeros(9), most=3)
    np.testing.assert_allclose(out[1], [0.9, 0.8, 0.7], atol=1e-6)


def test_nothing_above_the_threshold_is_an_empty_answer():
    out = select(np.zeros((5, 4)), np.full(5, 0.1), np.zeros(5), score=0.5)
    assert [part.shape for part in out] == [(0, 4), (0,), (0,)]


def test_small_boxes_of_a_late_class_lose_no_precision():
    """80 classes move boxes far apart; their overlap must not change by it."""
    rng = np.random.default_rng(0)
    boxes = np.repeat(rng.uniform(0, 1900, (40, 2)), 5, 0) + rng.uniform(0, 2, (200, 2))
    boxes = np.concatenate([boxes, boxes + rng.uniform(3, 6, (200, 2))], 1).astype(np.float32)
    scores = rng.random(200).astype(np.float32)
    late, first = (select(boxes, scores, np.full(200, label)) for label in (79, 0))
    np.testing.assert_array_equal(late[0], first[0])


# --- preprocessing -------------------------------------------------------------------------------------


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    noise = rng.integers(0, 30, (height, width, 3))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def dense(image, height, width, area):
    """As a GPU resizes, here on the CPU."""
    tables = dense_tables(*image.shape[:2], height, width, area, False)
    return resize_dense(torch.from_numpy(image[None]), tables).round()[0].numpy()


@pytest.mark.parametrize(("filter_name", "flag"), [("area", cv2.INTER_AREA), ("bilinear", cv2.INTER_LINEAR)])
@pytest.mark.parametrize("size", [(720, 1280), (375, 1242), (352, 352), (353, 355), (1080, 810)])
def test_resize_is_opencvs_within_one_grey_level(filter_name, flag, size):
    image = photo(*size)
    mine = dense(image, 352, 352, filter_name == "area")
    theirs = cv2.resize(image, (352, 352), interpolation=flag)
    assert np.abs(mine - theirs).max() <= 1.01
    if filter_name == "area":  # OpenCV's bilinear has 11-bit weights; area is exact up to ties
        assert (np.abs(mine - theirs) > 0.5).mean() < 1e-3


@given(
    h=st.integers(1, 150),
    w=st.integers(1, 150),
    out_h=st.integers(1, 70),
    out_w=st.integers(1, 70),
    area=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_resize_is_opencvs_at_any_size(h, w, out_h, out_w, area):
    if area:  # shrinking; OpenCV has its own rule where an axis grows
        h, w = max(h, out_h), max(w, out_w)
    image = np.random.default_rng(h * w).integers(0, 256, (h, w, 3), np.uint8)
    flag = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    theirs = cv2.resize(image, (out_w, out_h), interpolation=flag)
    assert np.abs(dense(image, out_h, out_w, area) - theirs).max() <= 1.01


def prepared(spec, image, bgr=False):
    """The network's input (3, h, w), and where the image lies in it."""
    inputs, where = ImagePreparer(spec, ("x",), torch.device("cpu"))(torch.from_numpy(image[None]), bgr)
    return inputs["x"][0].numpy().copy(), where


@pytest.mark.parametrize("size", [(50, 200), (200, 50), (64, 96), (31, 17)])
def test_letterbox_keeps_the_aspect_and_fills_with_grey(size):
    image = photo(*size)
    mine, where = prepared(ImageSpec(SIZE, "letterbox", "bilinear", "rgb", scale=1.0), image)
    h, w = where.height, where.width
    assert abs(h / w - size[0] / size[1]) <= max(1 / w, 1 / h) * max(1.0, size[0] / size[1])
    assert h == SIZE[0] or w == SIZE[1]
    inside = np.zeros(SIZE, bool)
    inside[where.window] = True
    np.testing.assert_allclose(mine[:, ~inside], 114)
    theirs = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(mine.transpose(1, 2, 0)[where.window], theirs)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "letterbox_top_left", "letterbox_32", "fit"])
@given(h=st.integers(2, 3000), w=st.integers(2, 3000), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_boxes_come_back_to_native_pixels(resize, h, w, seed):
    where = place(ImageSpec(SIZE, resize, "bilinear", "rgb"), (h, w))
    points = np.sort(np.random.default_rng(seed).uniform(0, 1, (7, 2, 2)), 1)
    inner = (points * [where.width, where.height] + [where.left, where.top]).reshape(7, 4)
    boxes = torch.from_numpy(np.vstack([inner, [-9e3, -9e3, 9e3, 9e3]])).float()
    found = where.to_native(Candidates(boxes, torch.ones(8), torch.zeros(8, dtype=torch.int64), {}))
    np.testing.assert_allclose(found.boxes[:7], (points * [w, h]).reshape(7, 4), atol=1e-3 * max(h, w))
    np.testing.assert_allclose(found.boxes[7], [0, 0, w, h])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_either_channel_order_gives_the_same_input(order):
    image, spec = photo(100, 130), ImageSpec(SIZE, "letterbox", "area", order, scale=1.0)
    as_rgb, where = prepared(spec, image)
    as_bgr, _ = prepared(spec, image[..., ::-1].copy(), bgr=True)
    np.testing.assert_array_equal(as_rgb, as_bgr)
    theirs = cv2.resize(image, (where.width, where.height), interpolation=cv2.INTER_AREA)
    theirs = theirs[..., ::-1] if order == "bgr" else theirs
    mine = as_rgb.transpose(1, 2, 0)[where.window]
    np.testing.assert_allclose(mine, theirs, atol=1)  # a value between two grey levels may go to either
    assert (mine != theirs).mean() < 1e-3


def test_scale_mean_and_std_are_applied_to_each_channel_of_the_network():
    image = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    spec = ImageSpec((8, 8), "stretch", "area", "bgr", 0.5, (1.0, 2.0, 3.0), (2.0, 4.0, 5.0))
    expected = [(15 - 1) / 2, (10 - 2) / 4, (5 - 3) / 5]
    np.testing.assert_allclose(prepared(spec, image)[0][:, 0, 0], expected, rtol=1e-6)
