"""Detection by geometry, on clouds that a small ray caster makes of boxes on a plane."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from perception_rt.cli.main import main
from perception_rt.model.archive import read_manifest
from perception_rt.model.bev_cluster import CLASSES, BevCluster
from perception_rt.model.boxes3d import iou_bev
from perception_rt.model.components import components, neighbours, occupied_cells
from perception_rt.model.ground import height_above_ground
from perception_rt.model.lshape import closeness, usual_direction
from perception_rt.model.runtime import Runtime
from perception_rt.model.visibility import crossed, returns_by_direction, seen_and_seen_through
from perception_rt.types import ConfigError

SENSOR_HEIGHT = 1.73
ELEVATIONS = np.radians(np.linspace(-24.8, 2.0, 64))
AZIMUTHS = np.radians(np.arange(-180, 180, 0.25))


def cast(boxes, slope=0.0, reach=50.0, elevations=ELEVATIONS, height=SENSOR_HEIGHT):
    """A cloud (N, 4) of a lidar over the plane z = slope * x - SENSOR_HEIGHT and boxes xyzlwh_yaw.

    A lidar mounted at another `height` sees the same from there.
    """
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid(elevations, AZIMUTHS, indexing="ij"))
    ray = np.stack(
        (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)), 1
    )
    fall = slope * ray[:, 0] - ray[:, 2]
    distance = np.where(fall > 1e-6, height / np.maximum(fall, 1e-6), np.inf)
    for box in np.array(boxes, np.float64).reshape(-1, 7):
        box[2] += SENSOR_HEIGHT - height
        cos, sin = np.cos(box[6]), np.sin(box[6])
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        with np.errstate(divide="ignore", over="ignore"):
            a, b = ((side * box[3:6] / 2 + box[:3] @ turn) / (ray @ turn) for side in (-1, 1))
        enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
        hit = (enter <= leave) & (enter > 0)
        distance = np.where(hit, np.minimum(distance, enter), distance)
    seen = distance < reach
    points = ray[seen] * distance[seen, None]
    points += np.random.default_rng(0).normal(0, 0.01, points.shape)
    return torch.from_numpy(np.column_stack((points, np.zeros(len(points)))).astype(np.float32))


def standing(x, y, length, width, height, yaw=0.0, slope=0.0):
    return [x, y, slope * x - SENSOR_HEIGHT + height / 2, length, width, height, yaw]


def car(x, y, yaw=0.0, slope=0.0):
    """A car's body on its wheels and its cabin, as two boxes: what is seen of it is no plain wall."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    body = standing(x, y, 4.2, 1.75, 0.85, yaw, slope)
    cabin = standing(x - 0.2 * cos, y - 0.2 * sin, 2.2, 1.5, 1.5, yaw, slope)
    return [body, cabin]


def cyclist(x, y, yaw=0.0):
    """A bicycle with its rider's legs, and the rider above its middle."""
    rider = standing(x, y, 0.5, 0.45, 1.7, yaw)
    return [standing(x, y, 1.7, 0.2, 0.85, yaw), rider, standing(x, y, 0.9, 0.35, 1.3, yaw)]


def detect(points, module=None):
    with torch.inference_mode():
        return (module or BevCluster())(points)


def overlap(truth, boxes):
    return iou_bev(torch.tensor([truth], dtype=torch.float32), boxes)[0]


@pytest.fixture(scope="module")
def street():
    """Two cars, a pedestrian, a cyclist, a wall and a pole."""
    return cast(
        [
            *car(12, 3),
            *car(18, -4, 0.6),
            standing(9, -3, 0.6, 0.5, 1.75),
            *cyclist(10, 6, 1.6),
            standing(15, 12, 40, 0.3, 3.6),
            standing(20, 5, 0.15, 0.15, 3.8),
        ]
    )


def test_a_street(street):
    boxes, scores, labels = detect(street)
    assert sorted(labels.tolist()) == [0, 0, 1, 2]
    assert (scores.diff() <= 0).all()
    for truth, name in (
        (standing(12, 3, 4.2, 1.75, 1.5), "car"),
        (standing(18, -4, 4.2, 1.75, 1.5, 0.6), "car"),
        (standing(9, -3, 0.6, 0.5, 1.75), "pedestrian"),
        (standing(10, 6, 1.7, 0.5, 1.7, 1.6), "cyclist"),
    ):
        iou = overlap(truth, boxes)
        assert iou.max() > 0.5, name
        best = boxes[iou.argmax()]
        assert CLASSES[labels[iou.argmax()]] == name
        assert best[2] - best[5] / 2 == pytest.approx(-SENSOR_HEIGHT, abs=0.15)
        assert best[2] + best[5] / 2 == pytest.approx(truth[2] + truth[5] / 2, abs=0.25)


def test_cars_anywhere_in_any_direction():
    """One box each, seen from any side; a few are missed."""
    rng = np.random.default_rng(0)
    found = 0
    for distance, bearing, yaw in rng.uniform((6, -np.pi, -np.pi), (30, np.pi, np.pi), (30, 3)):
        x, y = distance * np.cos(bearing), distance * np.sin(bearing)
        boxes, _, labels = detect(cast(car(x, y, yaw)))
        assert labels.tolist() in ([], [0])
        found += bool((overlap(standing(x, y, 4.2, 1.75, 1.5, yaw), boxes) > 0.4).any())
    assert found >= 29


AROUND = [(7, 0.4, 0.1), (9, 2.0, 1.8), (10, -2.6, 0.3), (12, -1.2, 2.5), (14, 1.2, 0.9), (15, 2.9, 1.4)]


def around(**lidar):
    """How many of six cars all around are found, and how many other boxes there are."""
    places = [(r * np.cos(bearing), r * np.sin(bearing), yaw) for r, bearing, yaw in AROUND]
    boxes, _, labels = detect(cast([box for place in places for box in car(*place)], **lidar))
    iou = iou_bev(
        torch.tensor([standing(x, y, 4.2, 1.75, 1.5, yaw) for x, y, yaw in places]).float(),
        boxes[labels == 0],
    )
    found = int((iou > 0.4).any(1).sum())
    return found, len(labels) - found


@pytest.mark.parametrize("height", [0.5, 1.0, 1.73, 2.5])
@pytest.mark.parametrize(
    ("rings", "low", "high"), [(16, -15, 15), (32, -30, 10), (64, -24.8, 2), (128, -25, 15)]
)
def test_any_spinning_lidar_at_any_height(rings, low, high, height):
    """Up to 15 m; 16 rings 2 degrees apart pass above and below some of a car."""
    found, others = around(elevations=np.radians(np.linspace(low, high, rings)), height=height)
    assert found >= (4 if rings == 16 else 5)
    assert others <= 1


@pytest.mark.parametrize(("step", "least"), [(2, 6), (4, 4)])
def test_with_fewer_rings(step, least):
    """All cars with half the rings, and most with a quarter."""
    found, others = around(elevations=ELEVATIONS[::step])
    assert found >= least
    assert others <= 1


def test_what_shows_over_a_wall_is_no_car():
    """The lidar does not see the ground that it stands on."""
    assert detect(cast(car(15, 1, 0.3)))[2].tolist() == [0]
    assert len(detect(cast([*car(15, 1, 0.3), standing(12.4, 0, 0.2, 14, 0.8)]))[1]) == 0


def test_a_corner_of_a_car_is_taken_for_one_that_lies_as_those_beside_it():
    """A screen hides most of it: 1.6 m of its side show, and its end."""
    bearing, half = np.radians(47), 6 * np.tan(np.radians(13))
    screen = standing(6 * np.cos(bearing), 6 * np.sin(bearing), 0.1, 2 * half, 2.5, bearing)
    scores = {}
    for name, yaw in (("along", np.pi / 2), ("across", 0.0)):
        parked = [*car(12, -8, yaw), *car(12, 0, yaw)]
        boxes, score, _ = detect(cast([*car(12, 8, np.pi / 2), screen, *parked]), BevCluster(0.1))
        iou = overlap(standing(12, 8, 4.2, 1.75, 1.5, np.pi / 2), boxes)
        scores[name] = score[iou > 0.5].max().item()
    assert scores["along"] > scores["across"] + 0.1


@pytest.mark.parametrize("slope", [-0.1, 0.05])
def test_on_a_slope(slope):
    boxes, _, labels = detect(cast(car(16, 2, 0.2, slope), slope))
    assert labels.tolist() == [0]
    assert overlap(standing(16, 2, 4.2, 1.75, 1.5, 0.2), boxes).max() > 0.5
    assert boxes[0, 2] - boxes[0, 5] / 2 == pytest.approx(16 * slope - SENSOR_HEIGHT, abs=0.2)


def test_parked_side_by_side_they_stay_two():
    boxes, _, labels = detect(cast([*car(12, -1.2), *car(12, 1.2)]))
    assert labels.tolist() == [0, 0]
    for y in (-1.2, 1.2):
        assert overlap(standing(12, y, 4.2, 1.75, 1.5), boxes).max() > 0.5


def test_a_car_seen_in_pieces_stays_one():
    """A post in front of its side parts what is seen of it."""
    boxes, _, labels = detect(cast([*car(14, 5, 0.0), standing(9, 2.9, 0.3, 0.3, 2.0)]))
    assert (labels == 0).sum() == 1
    assert overlap(standing(14, 5, 4.2, 1.75, 1.5), boxes).max() > 0.5


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [standing(10, 5, 30, 0.2, 3.0)],
        [standing(12, 2, 4.2, 0.02, 1.75, 1.2)],
        [standing(8, 3, 0.2, 0.2, 3.9)],
        [[12, 0, 3.5, 3, 2, 1, 0]],
        [standing(14, -4, 12, 9, 3.9)],
        [standing(9, 2, 4, 2, 0.15)],
        [[12, 3, -0.1, 4, 1.7, 1, 0.4]],
    ],
    ids=["road", "long wall", "short fence", "pole", "sign above the road", "house", "kerb", "beam"],
)
def test_what_is_no_road_user(boxes):
    assert len(detect(cast(boxes))[1]) == 0


def test_under_a_roof_it_is_a_stall():
    """A counter with the sides of a car, seen by a lidar that looks up to its roof."""
    up = np.radians(np.linspace(-25, 25, 100))
    counter, roof = standing(12, 3, 4.2, 1.75, 1.9, 0.4), [12, 3, 1.7, 4.2, 1.75, 0.8, 0.4]
    assert detect(cast([counter], elevations=up))[2].tolist() == [0]
    assert len(detect(cast([counter, roof], elevations=up))[1]) == 0


def test_a_bush_as_large_as_a_car_is_less_sure():
    """Its points fill it; those of a car lie on its sides."""
    fill = torch.rand(600, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    bush = fill * torch.tensor([4.0, 1.8, 1.5, 0]) + torch.tensor([12, 2, -0.98, 0])
    road = cast([])
    beside = (torch.atan2(road[:, 1], road[:, 0]) - np.arctan2(2, 12)).abs() > 0.1
    behind_bush_nothing = road[beside | (road[:, 0] < 10)]
    assert (detect(torch.cat([behind_bush_nothing, bush]))[1] < 0.5).all()
    assert (detect(cast(car(12, 2)))[1] > 0.9).all()


def test_a_partly_hidden_car_is_completed_behind_what_hides_it():
    """Not to where the lidar saw the road, even though that lies farther from the sensor."""
    boxes, _, labels = detect(cast([*car(14, 0, np.pi / 2), standing(9, 3.45, 0.3, 6, 2.2)]))
    (best,) = boxes[labels == 0]
    assert overlap(standing(14, 0, 4.2, 1.75, 1.5, np.pi / 2), best[None]).item() > 0.5


def test_echoes_below_the_road_leave_the_ground_where_it_is(street):
    echo = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 1.0, 0.2, 1.0])
    echoes = torch.cat(
        [echo + torch.tensor([12.0, 3.0, -6.0, 0.0]), echo + torch.tensor([18.0, -4.0, -4.0, 0])]
    )
    plain, with_echoes = detect(street), detect(torch.cat([street, echoes]))
    assert with_echoes[2].tolist() == plain[2].tolist()
    torch.testing.assert_close(with_echoes[0], plain[0], atol=0.1, rtol=0)


@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(0, 4),
        torch.tensor([[5.0, 1, 0, 0]]),
        torch.zeros(3, 4),
        torch.tensor([[5.0, 1, 0, 0]]).repeat(4000, 1),
        torch.full((10, 4), 1e6),
        torch.tensor([[float("nan"), 0, 0, 0], [float("inf"), 1, 1, 0], [5, 5, float("-inf"), 0]]),
    ],
    ids=["none", "one", "in the sensor", "all in one place", "far away", "not finite"],
)
def test_clouds_without_anything(points):
    boxes, scores, labels = detect(points)
    assert boxes.shape == (0, 7)
    assert scores.shape == labels.shape == (0,)
    assert labels.dtype == torch.int64


def test_a_cloud_without_ground(street):
    boxes, _, _ = detect(street[street[:, 2] > -SENSOR_HEIGHT + 0.1])
    assert overlap(standing(12, 3, 4.2, 1.75, 1.5), boxes).max() > 0.5


def test_stray_points_change_nothing(street):
    stray = torch.tensor([[1e6, 1e6, 1e6, 0], [float("nan")] * 4, [-1e6, 3, 0, 0]])
    for got, want in zip(detect(torch.cat([stray, street])), detect(street), strict=True):
        torch.testing.assert_close(got, want)


def test_the_same_cloud_gives_the_same_answer_in_any_order(street):
    first, again = detect(street), detect(street)
    shuffled = detect(street[torch.randperm(len(street), generator=torch.Generator().manual_seed(0))])
    for one, two, three in zip(first, again, shuffled, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(three, one, atol=1e-3, rtol=0)


def test_scripted_saved_loaded_and_frozen_it_answers_alike(street):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(BevCluster().eval()), file)
    file.seek(0)
    frozen = torch.jit.freeze(torch.jit.load(file).eval())
    for got, want in zip(detect(street, frozen), detect(street), strict=True):
        torch.testing.assert_close(got, want)
    assert detect(torch.zeros(0, 4), frozen)[0].shape == (0, 7)


def test_thresholds(street):
    module = BevCluster()
    with torch.inference_mode():
        everything = module(street, 0.0)
        sure = module(street, 0.85)
        parked = cast([*car(12, -1.1), *car(12, 1.1)])
        one_each, overlapping = module(parked, 0.0), module(parked, 0.0, 1.0)
    assert len(everything[1]) >= 4 > len(sure[1]) > 0
    assert (sure[1] >= 0.85).all()
    assert len(overlapping[1]) > len(one_each[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", 1.5),
        ("max_range", float("nan")),
        ("gap", 0.0),
        ("min_range", 70.0),
        ("car_width", 9.0),
    ],
)
def test_parameters_are_checked(name, value):
    with pytest.raises(ConfigError, match=f"{name}="):
        BevCluster(**{name: value})


def test_range(street):
    boxes, _, _ = detect(street, BevCluster(max_range=15.0))
    assert len(boxes)
    assert (torch.hypot(boxes[:, 0], boxes[:, 1]) < 17).all()
    boxes, _, _ = detect(street, BevCluster(min_range=16.0))
    assert (torch.hypot(boxes[:, 0], boxes[:, 1]) > 15).all()


# The parts.


@given(data=st.data(), nodes=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_components_as_scipy_finds_them(data, nodes):
    edge = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1))
    edges = torch.tensor(data.draw(st.lists(edge, max_size=80)), dtype=torch.long).view(-1, 2)
    got = components(edges[:, 0], edges[:, 1], torch.arange(nodes))
    graph = coo_matrix((np.ones(len(edges)), edges.numpy().T), (nodes, nodes))
    _, want = connected_components(graph, directed=False)  # numbers them in order of their first nodes
    assert np.array_equal(np.unique(got.numpy(), return_inverse=True)[1], want)


def test_a_long_chain_is_one_component():
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    assert (components(order[:-1], order[1:], torch.arange(2000)) == 0).all()


@given(st.lists(st.tuples(st.floats(-9.9, 9.9), st.floats(-9.9, 9.9)), max_size=60), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_neighbours_as_all_pairs_find_them(places, radius):
    xy = torch.tensor(places, dtype=torch.float32).view(-1, 2)
    cells, cell_of = occupied_cells(xy, 10.0, 0.5)
    assert torch.equal(cells[cell_of], ((xy + 10) / 0.5).long())
    assert len(cells) == len(set(map(tuple, cells.tolist())))
    first, second = neighbours(cells, radius)
    got = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    apart = (cells[:, None] - cells[None]).double().norm(dim=2)
    want = {
        frozenset(pair) for pair in zip(*map(torch.Tensor.tolist, torch.where(apart <= radius)), strict=True)
    }
    assert got == {pair for pair in want if len(pair) == 2}
    assert len(got) == len(first)


@given(st.floats(0, np.pi / 2))
@settings(max_examples=30, deadline=None)
def test_the_angle_of_an_l(angle):
    side = torch.linspace(0, 1, 30)[:, None]
    corner = torch.cat([side * torch.tensor([[4.0, 0]]), side * torch.tensor([[0, 1.8]])])
    cos, sin = np.cos(angle), np.sin(angle)
    xy = corner @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float32) + 7
    close, sides = closeness(xy, torch.zeros(60, dtype=torch.long), 1, 30)
    got = close[0].argmax().item() * np.pi / 60
    assert sides[0, close[0].argmax()].max().item() == pytest.approx(4, abs=0.2)
    away = abs((got - angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    assert away < np.radians(3)


def test_the_usual_direction():
    """Of long things, near ones first; opposite ways are one, and a thing does not count for itself."""
    xy = torch.tensor([[0.0, 0], [4, 0], [8, 0], [90, 0]])
    yaw, length = torch.tensor([1.2, 0.3, 0.3 + np.pi, 0.9]), torch.tensor([4.0, 4, 4, 1.5])
    way = usual_direction(xy, yaw, length, 2)
    assert torch.atan2(way[0, 1], way[0, 0]).item() / 2 == pytest.approx(0.3, abs=1e-5)
    assert way[0].norm() > 0.7
    assert way[1].norm() < way[0].norm()  # its neighbours do not agree
    assert way[3].norm() < 0.05  # far from all
    assert usual_direction(xy, yaw, torch.ones(4), 2).abs().sum() == 0


def test_height_above_uneven_ground():
    """Undulating ground, a hole in it under a lorry, a wall and an echo: heights stay right within 0.1 m."""
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(40000, 2, generator=generator) * 80 - 40
    ground = 0.6 * torch.sin(xy[:, 0] / 12) + 0.05 * xy[:, 1] - 1.7
    lorry = ((xy[:, 0] - 10).abs() < 5) & ((xy[:, 1] - 5).abs() < 1.3)
    wall = (xy[:, 0] + 15).abs() < 0.3
    z = torch.where(
        lorry, ground + 3, torch.where(wall, ground + 2 * torch.rand(40000, generator=generator), ground)
    )
    points = torch.cat([xy, z[:, None]], 1)
    points[:3] = torch.tensor([[20.0, 20.0, -6.0], [20.2, 20.1, -6.1], [20.1, 20.3, -6.0]])
    ground[:3] = 0.6 * torch.sin(points[:3, 0] / 12) + 0.05 * points[:3, 1] - 1.7
    off = height_above_ground(points, 60.0, 1.0, 0.15) - (points[:, 2] - ground)
    inside = xy.abs().amax(1) < 39
    assert off[inside].abs().mean() < 0.05
    assert off[inside & lorry].abs().max() < 0.4
    assert off[inside & ~lorry & ~wall].abs().max() < 0.25


def test_rays_cross_a_box():
    box = torch.tensor([[10.0, 0, 0, 4, 2, 1.5, 0], [0, 10, 0, 4, 2, 1.5, np.pi / 2]])
    enter, leave = crossed(box, torch.tensor([[0.0, 0.5], [np.pi / 2, 0.0]]))
    torch.testing.assert_close(torch.stack([enter[:, 0], leave[:, 0]], 1), torch.tensor([[8.0, 12], [8, 12]]))
    assert (enter[:, 1] > leave[:, 1]).all()


def test_seen_and_seen_through():
    """The left half of the box has returns, through the right half the ground behind shows."""
    box = torch.tensor([[10.0, 0, -1, 2, 2, 1.5, 0]])
    bearing = torch.linspace(-0.11, 0.11, 400)
    direction = torch.stack((bearing.cos(), bearing.sin()), 1)
    front, behind = direction[bearing > 0] * 9.1, direction[bearing < 0] * 12
    body, ground = (returns_by_direction(xy, 60.0, 720, 0.25) for xy in (front, behind))
    seen, through = seen_and_seen_through(box, body, ground, 0.25)
    assert seen.item() == pytest.approx(0.5, abs=0.1)
    assert through.item() == pytest.approx(0.5, abs=0.1)
    far = returns_by_direction(direction * 30, 60.0, 720, 0.25)
    assert seen_and_seen_through(box, body, far, 0.25)[1].item() == 0  # over its roof


# The bundle.


def test_the_command_writes_parameters_and_scores(tmp_path, capsys):
    name = "lidar/bev_cluster/frames/recall_iou30"
    rows = [{"name": name, "value": 0.9}, {"name": "camera/x", "value": 1}]
    (tmp_path / "lidar.json").write_text(json.dumps({"rows": rows}))
    out = tmp_path / "near.pt"
    options = ["--max-range", "30", "--score-threshold", "0.5", "--scores", str(tmp_path / "lidar.json")]
    assert main(["bundle", "export", "bev_cluster", "--out", str(out), *options]) == 0
    manifest = read_manifest(out)
    assert (manifest.task, manifest.classes) == ("detect3d", CLASSES)
    assert manifest.input.range == (-30, -30, -30, 30, 30, 30)
    assert manifest.score_threshold == 0.5
    assert manifest.provenance["parameters"]["max_range"] == 30
    assert manifest.provenance["scores"] == {name: 0.9}
    assert main(["bundle", "export", "bev_cluster", "--out", str(out), "--gap", "7"]) == 2
    assert "gap=7.0" in capsys.readouterr().err
    assert main(["bundle", "export", "bev_cluster", "--out", str(out), "--scores", str(out)]) == 2
    assert "scores=" in capsys.readouterr().err


def test_the_shipped_bundle_is_what_the_code_makes(street):
    shipped = Runtime.open("bev_cluster", device="cpu")
    assert shipped.manifest.provenance["scores"]
    for got, want in zip(shipped(street), detect(street), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4)
