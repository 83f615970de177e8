"""The lidar detector: pillars, the module that ships, targets and loss."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.train.blocks import fused
from perception_rt.train.pillars.data import CloudBatch
from perception_rt.train.pillars.loss import assign, detection_loss
from perception_rt.train.pillars.network import (
    BOX_CHANNELS,
    CELL,
    CELL_COLUMNS,
    CELL_ROWS,
    CHANNELS,
    COLUMNS,
    PILLAR,
    ROWS,
    SLICE,
    SLICES,
    SLICES_FROM,
    Pillars,
    PillarsDecoder,
    PillarsDense,
    PillarsEncoder,
    PillarsNetwork,
    cells,
    decode,
)

AT = cells(torch.zeros(0))
YAWS = st.floats(-math.pi, math.pi)


def cloud(count, seed=0, low=(-30, -30, -2), high=(60, 30, 1)):
    rng = np.random.default_rng(seed)
    return np.column_stack((rng.uniform(low, high, (count, 3)), rng.uniform(0, 1, count))).astype(np.float32)


def box(x, y, length=4.5, width=1.8, yaw=0.3):
    return [x, y, -1.0, length, width, 1.6, yaw]


def batch_of(boxes, labels=None, clear=None):
    """One cloud without points and its truth."""
    n = len(boxes)
    return CloudBatch(
        torch.zeros(0, 4),
        torch.zeros(0).long(),
        1,
        torch.tensor(boxes, dtype=torch.float32).reshape(n, 7),
        torch.zeros(n).long() if labels is None else torch.tensor(labels),
        torch.ones(n, dtype=torch.bool) if clear is None else torch.tensor(clear),
        torch.zeros(n).long(),
        torch.zeros(0),
        torch.ones(1, dtype=torch.bool),
    )


def perfect(boxes, at):
    """The raw answer of each cell that decodes to its box."""
    yaw = boxes[:, 6]
    return torch.column_stack(
        (
            (boxes[:, :2] - at[:, :2]) / at[:, 2:],
            boxes[:, 2],
            boxes[:, 3:6].log(),
            (2 * yaw).sin(),
            (2 * yaw).cos(),
            yaw.sin(),
            yaw.cos(),
        )
    )


class Chain(torch.nn.Module):
    """Encoder, convolutions and decoder, one after the other."""

    def __init__(self, encoder, dense, decoder):
        super().__init__()
        self.encoder, self.dense, self.decoder = encoder, dense, decoder

    def forward(self, points: torch.Tensor, score_threshold: float = 0.0, nms_threshold: float = 0.3):
        return self.decoder([self.dense(self.encoder(points)[0])], score_threshold, nms_threshold)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(3)
    network = PillarsNetwork(3)
    torch.nn.init.normal_(network.head.weight, std=1.0)  # scores that differ from cell to cell
    network = fused(network)
    chain = Chain(PillarsEncoder(network.pillars), PillarsDense(network), PillarsDecoder(network.classes))
    return chain.eval()


@settings(deadline=None, max_examples=50)
@given(st.floats(-31.9, 63.9), st.floats(-31.9, 31.9), st.floats(0.3, 12), st.floats(0.3, 3), YAWS)
def test_every_object_in_range_has_cells_that_can_answer_it_exactly(x, y, length, width, yaw):
    batch = batch_of([box(x, y, length, width, yaw)])
    cell, truth = assign(batch)
    assert 1 <= len(cell) <= 9
    assert not truth.any()
    at = AT[cell]
    assert ((at[:, :2] - batch.boxes[:, :2]).norm(dim=1) < 0.75).all()
    found = decode(perfect(batch.boxes.expand(len(cell), 7), at), at)
    torch.testing.assert_close(found[:, :6], batch.boxes[:, :6].expand(len(cell), 6), atol=1e-4, rtol=1e-5)
    turned = found[:, 6] - batch.boxes[0, 6]
    assert (torch.atan2(turned.sin(), turned.cos()).abs() < 1e-3).all()
    assert (found[:, 6].abs() <= math.pi + 1e-6).all()


@given(YAWS)
def test_an_object_whose_front_cannot_be_told_still_has_its_axis(yaw):
    raw = torch.zeros(1, BOX_CHANNELS)
    raw[0, 6], raw[0, 7] = math.sin(2 * yaw), math.cos(2 * yaw)
    away = float(decode(raw, torch.zeros(1, 3))[0, 6]) - yaw
    assert abs(math.sin(away)) < 1e-3


def test_objects_out_of_range_have_no_cells():
    batch = batch_of([box(70, 0), box(-34, 0), box(0, 40), box(0, -33)])
    assert [len(part) for part in assign(batch)] == [0, 0]


def test_a_cell_that_two_objects_claim_goes_to_the_nearer():
    batch = batch_of([box(10, 5, 0.6, 0.5), box(10.8, 5, 0.6, 0.5)])
    cell, truth = assign(batch)
    assert set(truth.tolist()) == {0, 1}
    away = (AT[cell, None, :2] - batch.boxes[None, :, :2]).norm(dim=2)
    own = away[torch.arange(len(cell)), truth]
    assert (own <= away.min(1).values + 1e-6).all()


def test_objects_of_the_second_cloud_have_cells_of_the_second_cloud():
    one = batch_of([box(10, 5)])
    second = replace(one, frames=2, box_frame=torch.ones(1).long())
    assert torch.equal(assign(second)[0], assign(one)[0] + len(AT))


def test_a_perfect_answer_costs_nothing_and_each_error_costs():
    batch = batch_of([box(10, 5), box(30, -8, 0.6, 0.5, 2.0)], [0, 1])
    cell, truth = assign(batch)
    raw = torch.full((1, len(AT), 3 + BOX_CHANNELS), -12.0)
    raw[0, cell, 3:] = perfect(batch.boxes[truth], AT[cell])
    raw[0, cell, batch.labels[truth]] = 12.0
    best = detection_loss(raw, batch, AT)
    assert best < 0.001
    for channel in range(3, 3 + BOX_CHANNELS):
        worse = raw.clone()
        worse[0, cell, channel] += 0.5
        assert detection_loss(worse, batch, AT) > best + 0.05
    empty = next(i for i in range(len(AT)) if i not in set(cell.tolist()))
    for place, label, value in ((empty, 2, 6.0), (cell[0], batch.labels[truth[0]], -6.0)):
        worse = raw.clone()
        worse[0, place, label] = value
        assert detection_loss(worse, batch, AT) > best + 0.3


def test_cells_of_hardly_seen_objects_are_asked_nothing():
    batch = batch_of([box(10, 5), box(30, -8)], clear=[True, False])
    raw = torch.zeros(1, len(AT), 3 + BOX_CHANNELS, requires_grad=True)
    detection_loss(raw, batch, AT).backward()
    cell, truth = assign(batch)
    assert not raw.grad[0, cell[truth == 1]].any()
    assert raw.grad[0, cell[truth == 0]].any()


def test_a_batch_without_objects_can_be_learned_from():
    raw = torch.zeros(1, len(AT), 3 + BOX_CHANNELS, requires_grad=True)
    detection_loss(raw, batch_of([]), AT).backward()
    assert (raw.grad[..., :3] > 0).all()  # every score is to fall


def test_each_pillar_holds_what_its_points_alone_decide():
    pillars = Pillars()
    points = torch.from_numpy(cloud(3000, low=(3, -30, -2)))
    points[1500:, :2] = points[:1500, :2] + 0.01  # pillars of several points
    with torch.inference_mode():
        grid = pillars(points, torch.zeros(3000).long(), 1)
        shuffled = pillars(points.flip(0), torch.zeros(3000).long(), 1)
        pair = pillars(points.repeat(2, 1), torch.arange(2).repeat_interleave(3000), 2)
    assert grid.shape == (1, CHANNELS, ROWS, COLUMNS)
    torch.testing.assert_close(shuffled, grid)
    torch.testing.assert_close(pair[1:], grid)
    column = ((points[:, 0] + 32) / PILLAR).floor().long()
    row = ((points[:, 1] + 32) / PILLAR).floor().long()
    filled_in = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    filled_in[row, column] = True
    assert torch.equal(grid[0].any(0) & ~filled_in, torch.zeros_like(filled_in))
    assert torch.equal(grid[0, 1 : 1 + SLICES].any(0), filled_in)


def test_a_pillar_says_which_heights_are_held_where_the_points_lie_and_how_bright_they_are():
    low, high, within = SLICES_FROM + 2.5 * SLICE, SLICES_FROM + 6.25 * SLICE, 0.1
    points = [[10.0 + within, 5.0 + within, low, 0.9], [10.0 + within, 5.0 + PILLAR / 2, high, 0.1]]
    points += [[20.0, -5.0, SLICES_FROM - 0.5, 0.0], [20.0, -5.0, SLICES_FROM + SLICES * SLICE + 0.5, 0.6]]
    grid = Pillars()(torch.tensor(points), torch.zeros(4).long(), 1)[0]
    pillar = grid[:, round((5 + 32) / PILLAR), round((10 + 32) / PILLAR)]
    assert (pillar[1 : 1 + SLICES].nonzero().flatten()).tolist() == [2, 6]
    bright = [value / (value + 0.4) for value in (0.9, 0.1)]  # 0.4 is the mean
    x, y = within / PILLAR - 0.5, (within + PILLAR / 2) / 2 / PILLAR - 0.5
    expected = torch.tensor([max(bright), x, y, math.log(3), 7.25 / (SLICES + 2)])
    torch.testing.assert_close(pillar[1 + SLICES :], expected, atol=1e-4, rtol=1e-4)
    assert float(pillar[0]) == pytest.approx(sum(bright) / 2, abs=1e-4)
    # What is lower or higher than all slices counts for the lowest and the highest.
    ends = grid[1 : 1 + SLICES, round((-5 + 32) / PILLAR), round((20 + 32) / PILLAR)]
    assert ends.nonzero().flatten().tolist() == [0, SLICES - 1]
    assert (grid.any(0)).sum() == 2


def test_the_own_vehicle_is_not_looked_at():
    points = torch.tensor([[0.5, 0.2, -0.5, 0.0], [-1.0, 1.0, -1.0, 0.0], [1.4, -0.6, -1.0, 0.0]])
    grid = Pillars()(points, torch.zeros(3).long(), 1)[0]
    assert grid[1 : 1 + SLICES].sum() == 1  # the third alone


@pytest.mark.parametrize("scale", [255.0, 0.01])
def test_the_scale_of_intensity_changes_nothing(scale):
    points = torch.from_numpy(cloud(2000))
    other = points * torch.tensor([1, 1, 1, scale])
    frame = torch.zeros(2000).long()
    torch.testing.assert_close(Pillars()(points, frame, 1), Pillars()(other, frame, 1), atol=1e-3, rtol=1e-3)
    dark = Pillars()(points * torch.tensor([1, 1, 1, 0]), frame, 1)  # a sensor without intensity
    assert not dark[:, [0, SLICES + 1]].any()
    assert dark.any()


def test_a_cloud_that_is_moved_by_whole_cells_is_answered_alike(detector):
    points = torch.from_numpy(np.round(cloud(4000, 1, (2, -10, -2), (20, 10, 1)) * 64) / 64)
    moved = points + torch.tensor([4.0, -8.0, 0.0, 0.0])  # of the coarsest level
    frame = torch.zeros(4000).long()
    with torch.inference_mode():
        first, second = (
            detector.dense.network(cloud_, frame, 1)[0].T.reshape(-1, CELL_ROWS, CELL_COLUMNS)
            for cloud_ in (points, moved)
        )
    dy, dx = round(-8.0 / CELL), round(4.0 / CELL)
    # Away from the edge of the map, where convolutions see padding.
    torch.testing.assert_close(
        second[:, 56 + dy : 80 + dy, 72 + dx : 96 + dx], first[:, 56:80, 72:96], atol=1e-3, rtol=1e-3
    )


def test_an_empty_cloud_is_answered_and_what_is_out_of_range_changes_nothing(detector):
    points = torch.from_numpy(cloud(5000))
    far = torch.from_numpy(cloud(500, 2, (64, 32, 3), (99, 99, 9)))
    with torch.inference_mode():
        nothing = detector(points[:0])
        assert [part.shape[1:] for part in nothing] == [(7,), (), ()]
        for got, want in zip(detector(far), nothing, strict=True):
            torch.testing.assert_close(got, want)
        for got, want in zip(detector(torch.cat((far, points))), detector(points), strict=True):
            torch.testing.assert_close(got, want)


def test_answers_repeat_and_are_in_order_and_in_range(detector):
    points = torch.from_numpy(cloud(20_000, 4))
    with torch.inference_mode():
        boxes, scores, labels = detector(points)
        again = detector(points)
        assert all(torch.equal(a, b) for a, b in zip(again, (boxes, scores, labels), strict=True))
        few = detector(points, float(scores[4]), 1.0)[1]
    assert 5 <= len(boxes) <= 256
    assert (scores.diff() <= 0).all()
    assert ((scores > 0) & (scores <= 1)).all()
    assert set(labels.tolist()) <= {0, 1, 2}
    assert (few >= scores[4]).all()


def test_the_saved_and_frozen_detector_answers_as_the_eager_one(detector):
    example = torch.zeros(1, CHANNELS, ROWS, COLUMNS)
    scripted = torch.jit.script(
        Chain(detector.encoder, torch.jit.trace(detector.dense, example), detector.decoder)
    )
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.freeze(torch.jit.load(file).eval())
    for points in (torch.from_numpy(cloud(20_000, 5)), torch.zeros(0, 4)):
        with torch.inference_mode():
            want = detector(points)
            for module in (scripted, loaded):
                for got, part in zip(module(points), want, strict=True):
                    torch.testing.assert_close(got, part, atol=1e-3, rtol=1e-3)


def test_folding_normalisation_changes_no_answer_and_not_the_network():
    torch.manual_seed(1)
    network = PillarsNetwork(3)
    points, frame = torch.from_numpy(cloud(3000)), torch.zeros(3000).long()
    for _ in range(3):
        network(points, frame, 1)  # running means that are not their first ones
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        want = network.eval()(points, frame, 1)
        torch.testing.assert_close(fused(network)(points, frame, 1), want, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
