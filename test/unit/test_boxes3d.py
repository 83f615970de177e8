"""Geometry of turned boxes, compared with point counting and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.model.boxes3d import corners_bev, intersection_bev, iou_3d, iou_bev, nms_bev
from perception_rt.model.torchscript import script_module

BOX = [0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0]
number = st.floats(-3.0, 3.0)
size = st.floats(0.2, 5.0)
box = st.tuples(number, number, number, size, size, size, st.floats(-7.0, 7.0))


def tensor(*boxes):
    return torch.tensor([list(map(float, b)) for b in boxes])


def inside(points: np.ndarray, b: tuple) -> np.ndarray:
    x, y = (points - b[:2]).T
    c, s = math.cos(b[6]), math.sin(b[6])
    return (abs(c * x + s * y) <= b[3] / 2) & (abs(c * y - s * x) <= b[4] / 2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (BOX, 1.0),
        ([1, 0, 0, 4, 2, 1.5, 0], 3 / 5),
        ([0, 0, 0, 4, 2, 1.5, math.pi], 1.0),
        ([0, 0, 0, 4, 2, 1.5, math.pi / 2], 4 / 12),
        ([0, 0, 0, 1, 1, 1, 0.3], 1 / 8),
        (
            [0, 0, 0, 2, 2, 1, math.pi / 4],
            (4 - (math.sqrt(2) - 1) ** 2 * 2) / (8 + (math.sqrt(2) - 1) ** 2 * 2),
        ),
        ([4, 0, 0, 4, 2, 1.5, 0], 0.0),
        ([50, 0, 0, 4, 2, 1.5, 1], 0.0),
    ],
)
def test_known_overlaps_of_footprints(other, expected):
    assert iou_bev(tensor(BOX), tensor(other)).item() == pytest.approx(expected, abs=1e-6)


def test_height_counts_in_3d():
    half_above = [0, 0, 0.75, 4, 2, 1.5, 0]
    assert iou_3d(tensor(BOX), tensor(half_above)).item() == pytest.approx(1 / 3)
    assert iou_3d(tensor(BOX), tensor([0, 0, 1.6, 4, 2, 1.5, 0])).item() == 0
    assert iou_bev(tensor(BOX), tensor(half_above)).item() == pytest.approx(1)


def test_corners_run_counter_clockwise_from_front_left():
    assert corners_bev(tensor([10, 0, 0, 4, 2, 1, math.pi / 2]))[0].tolist() == [
        pytest.approx(corner, abs=1e-6) for corner in ([9, 2], [9, -2], [11, -2], [11, 2])
    ]


@given(box, box)
@settings(max_examples=60, deadline=None)
def test_overlap_is_the_share_of_common_points(a, b):
    points = np.stack(np.meshgrid(np.linspace(-8, 8, 400), np.linspace(-8, 8, 400)), -1).reshape(-1, 2)
    counted = (inside(points, a) & inside(points, b)).mean() * 256
    assert intersection_bev(tensor(a), tensor(b)).item() == pytest.approx(counted, abs=0.35)


@given(box, box, st.floats(-3.2, 3.2), number)
@settings(max_examples=60, deadline=None)
def test_overlap_knows_no_order_and_no_place(a, b, turn, shift):
    def moved(one):
        c, s = math.cos(turn), math.sin(turn)
        return (c * one[0] - s * one[1] + shift, s * one[0] + c * one[1] - shift, *one[2:6], one[6] + turn)

    for iou in (iou_bev, iou_3d):
        value = iou(tensor(a), tensor(b)).item()
        assert -1e-6 <= value <= 1 + 1e-6
        assert iou(tensor(b), tensor(a)).item() == pytest.approx(value, abs=1e-5)
        assert iou(tensor(moved(a)), tensor(moved(b))).item() == pytest.approx(value, abs=1e-3)


def test_suppression_keeps_the_best_and_what_is_apart():
    boxes = tensor(
        BOX, [0.3, 0, 0, 4, 2, 1.5, 0.1], [10, 0, 0, 4, 2, 1.5, 0], [0.1, 0, 0, 4, 2, 1.5, math.pi]
    )
    scores, labels = torch.tensor([0.5, 0.9, 0.1, 0.7]), torch.tensor([0, 0, 0, 1])
    assert nms_bev(boxes, scores, labels, 0.3, False).tolist() == [1, 3, 2]
    assert nms_bev(boxes, scores, labels, 0.3, True).tolist() == [1, 2]
    assert nms_bev(boxes, scores, labels, 1.0, True).tolist() == [1, 3, 0, 2]
    assert nms_bev(boxes[:0], scores[:0], labels[:0], 0.3, True).tolist() == []


class Suppress(torch.nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nms_bev(boxes, scores, labels, 0.2, False)


def test_scripted_is_eager():
    torch.manual_seed(0)
    boxes = torch.rand(80, 7) * torch.tensor([20, 20, 1, 4, 4, 2, 6.3]) + 0.1
    scores, labels = torch.rand(80), torch.randint(0, 2, (80,))
    kept = nms_bev(boxes, scores, labels, 0.2, False)
    assert 10 < len(kept) < 80
    assert script_module(Suppress())(boxes, scores, labels).tolist() == kept.tolist()
