"""Detection in lidar clouds by geometry alone: ground, clusters, rectangles, sizes. Nothing is trained."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception_rt.model.boxes3d import nms_bev
from perception_rt.model.components import components, neighbours, occupied_cells
from perception_rt.model.ground import height_above_ground
from perception_rt.model.lshape import Shapes, best_angle, chosen, extremes, joined, shapes_of, total
from perception_rt.model.shape_classes import (
    explained,
    like_person,
    like_vehicle,
    middles,
    upright_box,
    whole_vehicles,
)
from perception_rt.model.visibility import returns_by_direction
from perception_rt.types.errors import ConfigError

CLASSES = ("car", "pedestrian", "cyclist")


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name}={value!r}: must be from {least} to {most}")


class Obstacles(NamedTuple):
    """What rises above the ground, in cells of the bird's-eye view.

    Attributes:
        points: (N, 3) m.
        height: (N,) above the ground, m.
        cell_of: (N,) int64, cell of each point.
        cells: (M, 2) int64, row and column.
        overhead: (M,) float, 1 where something is above the cell's points.
        body: (sectors, rings) the points as `returns_by_direction` gives them.
        ground: (sectors, rings) the same for the points on the ground.
    """

    points: Tensor
    height: Tensor
    cell_of: Tensor
    cells: Tensor
    overhead: Tensor
    body: Tensor
    ground: Tensor


class BevCluster(nn.Module):
    """Cars (vans included), pedestrians and cyclists in a cloud; scripted into a bundle of task `detect3d`.

    What rises above a local ground model is clustered in the bird's-eye view, at a tight and at a loose gap;
    a rectangle is fitted to each cluster and completed to a whole vehicle where that agrees with what the
    lidar saw through; size and shape give class and score; of boxes that overlap the best stays.

    Args:
        score_threshold: default lowest score, in [0, 1].
        nms_threshold: default IoU above which of two boxes one goes, in [0, 1]; low, as things on a road do
            not overlap, though completed boxes of cars that stand close may a little.
        min_range: m; what is nearer belongs to the own vehicle.
        max_range: m; what is farther is not looked at.
        ground_slope: of the steepest ground, on top of the vehicle's own tilt, m per m.
        gap: from which on neighbouring points are two things, at the sensor, m.
        gap_per_m: by which the gap grows with range, up to 30 m, as points lie farther apart.
        car_length: of a usual car, m.
        car_width: of a usual car, m.

    Raises:
        ConfigError: a parameter is out of its bounds.
    """

    def __init__(
        self,
        score_threshold: float = 0.4,
        nms_threshold: float = 0.15,
        min_range: float = 2.0,
        max_range: float = 60.0,
        ground_slope: float = 0.15,
        gap: float = 0.45,
        gap_per_m: float = 0.01,
        car_length: float = 4.1,
        car_width: float = 1.65,
    ) -> None:
        super().__init__()
        _check("score_threshold", score_threshold, 0, 1)
        _check("nms_threshold", nms_threshold, 0, 1)
        _check("max_range", max_range, 1, 200)  # the cells of a square with this half side are tabled
        _check("min_range", min_range, 0, max_range)
        _check("ground_slope", ground_slope, 0, 1)
        _check("gap", gap, 0.1, 2)
        _check("gap_per_m", gap_per_m, 0, 0.1)
        _check("car_length", car_length, 1, 6)
        _check("car_width", car_width, 0.5, 2.4)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.min_range = min_range
        self.max_range = max_range
        self.ground_slope = ground_slope
        self.gap = gap
        self.gap_per_m = gap_per_m
        self.car_length = car_length
        self.car_width = car_width
        self.ground_cell = 1.0  # m; a car hides two cells across, and the ground at both sides shows
        self.cell = 0.2  # m
        self.body = (0.25, 2.8)  # m above the ground: over kerbs and what the model misses, up to tall vans
        self.overhead = 4.0  # m above the ground; what hangs higher is of no concern
        self.angles = 30  # tried in a quarter turn
        self.sectors, self.step = 720, 0.25  # directions, and m between distances, of what was seen through
        self.tight = 0.7  # of the gap: keeps neighbours apart
        self.loose = 1.5  # of the gap: keeps whole what was seen in pieces
        # There are no weights: these are what the bundle's hash tells apart, on /diagnostics too.
        numbers = (min_range, max_range, ground_slope, gap, gap_per_m, car_length, car_width)
        self.register_buffer("given", torch.tensor(numbers, dtype=torch.float64))
        self.grazed = 0.7  # share of a distance along the ray that counts for the loose gap
        self.reach = 6  # cells; no gap is wider

    def forward(
        self, points: Tensor, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            points: (N, 4) float32 x y z intensity, m, sensor frame (REP 103); intensity is not used.
            score_threshold: negative: the module's own.
            nms_threshold: negative: the module's own.

        Returns:
            boxes (K, 7) xyzlwh_yaw, scores (K,) in [0, 1], labels (K,) int64 into `CLASSES`; best score
            first.
        """
        least = self.score_threshold if score_threshold < 0 else score_threshold
        overlap = self.nms_threshold if nms_threshold < 0 else nms_threshold
        obstacles = self.obstacles(points)
        boxes, scores, labels = self.classify(self.clusters(obstacles), obstacles, least)
        kept = nms_bev(boxes, scores, labels, overlap, True)
        return boxes[kept], scores[kept], labels[kept]

    def obstacles(self, points: Tensor) -> Obstacles:
        """Part the ground from what stands on it, and leave out what hangs over it."""
        points = points[:, :3]
        distance = torch.hypot(points[:, 0], points[:, 1])
        inside = (
            (distance > self.min_range) & (distance < self.max_range) & (points[:, 2].abs() < self.max_range)
        )
        points = points[inside]
        height = height_above_ground(points, self.max_range, self.ground_cell, self.ground_slope)
        low, high = self.body
        on_ground = points[height.abs() < low - 0.05]
        raised = (height > low) & (height < self.overhead)
        points, height = points[raised], height[raised]
        cells, cell_of = occupied_cells(points[:, :2], self.max_range, self.cell)
        bottom, top = extremes(height, cell_of, len(cells))
        used = bottom < high
        number = used.long().cumsum(0) - 1
        is_body = height < high
        points, height, cell_of = points[is_body], height[is_body], number[cell_of[is_body]]
        return Obstacles(
            points=points,
            height=height,
            cell_of=cell_of,
            cells=cells[used],
            overhead=(top[used] > high).float(),
            body=returns_by_direction(points[:, :2], self.max_range, self.sectors, self.step),
            ground=returns_by_direction(on_ground[:, :2], self.max_range, self.sectors, self.step),
        )

    def clusters(self, obstacles: Obstacles) -> Shapes:
        """The shapes of the clusters at both gaps."""
        count = len(obstacles.cells)
        number = torch.bincount(obstacles.cell_of, minlength=count)
        middle = total(obstacles.points[:, :2], obstacles.cell_of, count) / number[:, None]
        gap = self.gap + self.gap_per_m * torch.hypot(middle[:, 0], middle[:, 1]).clamp(max=30)
        first, second = neighbours(obstacles.cells, self.reach)
        away = middle[first] - middle[second]
        ray = middle[first] / torch.hypot(middle[first, 0], middle[first, 1])[:, None]
        radial = (away * ray).sum(1)
        tangential = away[:, 0] * ray[:, 1] - away[:, 1] * ray[:, 0]
        gap = gap[first]
        tight = torch.hypot(radial, tangential) < self.tight * gap
        # Along the ray roofs and hoods are grazed, if met at all: what lies behind may belong to the thing.
        loose = torch.hypot(self.grazed * radial, tangential) < self.loose * gap
        return joined(
            self.shapes(obstacles, middle, first[tight], second[tight]),
            self.shapes(obstacles, middle, first[loose], second[loose]),
        )

    def shapes(self, obstacles: Obstacles, middle: Tensor, first: Tensor, second: Tensor) -> Shapes:
        """The shapes of the clusters that these links make of the cells."""
        cluster, count = components(first, second, len(middle))
        angle = best_angle(middle, cluster, count, self.angles)
        overhead = total(obstacles.overhead, cluster, count) / torch.bincount(cluster, minlength=count)
        return shapes_of(obstacles.points, obstacles.height, cluster[obstacles.cell_of], angle, overhead)

    def classify(self, s: Shapes, obstacles: Obstacles, least: float) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of what clusters may be, where the score is not below `least`."""
        vehicle = like_vehicle(s)
        could = torch.where(vehicle >= least)[0]
        car, fits = whole_vehicles(
            chosen(s, could), self.car_length, self.car_width, obstacles.body, obstacles.ground, self.step
        )
        pedestrian, cyclist = like_person(s)
        boxes = torch.cat((car, upright_box(s, 0.7, 0.6), upright_box(s, 1.7, 0.6)))
        scores = torch.cat((vehicle[could] * fits, pedestrian, cyclist))
        labels = torch.cat((torch.zeros_like(could), torch.ones_like(s.points), torch.full_like(s.points, 2)))
        good = scores >= max(least, 1e-3)
        middle = middles(s)
        seen = torch.cat((middle[could], middle, middle))[good]
        boxes, scores, labels = boxes[good], scores[good], labels[good]
        kept = ~explained(seen, boxes, scores, labels)
        return boxes[kept], scores[kept], labels[kept]
