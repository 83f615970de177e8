"""Detection in lidar clouds by geometry alone: ground, clusters, rectangles, sizes. Nothing is trained."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception_rt.model.boxes3d import nms_bev
from perception_rt.model.components import components, neighbours, occupied_cells
from perception_rt.model.ground import height_above_ground
from perception_rt.model.lshape import Shapes, chosen, closeness, extremes, shapes_of, total, usual_direction
from perception_rt.model.shape_classes import (
    explained,
    like_inside,
    like_person,
    like_vehicle,
    middles,
    spacing_at,
    upright_box,
    whole_vehicles,
)
from perception_rt.model.visibility import ground_before, ray_spacing, returns_by_direction
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
        top: (M,) height of each cell's highest point above the ground, m.
        overhead: (M,) float, 1 where something is above the cell's points.
        tall: (M,) float, 1 where the cell's points go on without a gap to above a vehicle.
        rays: (elevations, 2) as `ray_spacing` gives them.
        highest: elevation of the highest ray, rad.
        mounted: how far the ground about the lidar lies below it, m.
        body: (sectors, rings) the points as `returns_by_direction` gives them.
        ground: (sectors, rings) the same for the points on the ground.
    """

    points: Tensor
    height: Tensor
    cell_of: Tensor
    cells: Tensor
    top: Tensor
    overhead: Tensor
    tall: Tensor
    rays: Tensor
    highest: float
    mounted: float
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
        ground_shown: share of what is seen of a thing that has ground right before it, from which on it is
            taken to stand there.
        alike: by how much it is less plausible that a car stands across what is long near by, in [0, 1].
        strict: power of a car's score: half of it is where other things become as frequent as cars.

    Raises:
        ConfigError: a parameter is out of its bounds.
    """

    def __init__(
        self,
        score_threshold: float = 0.5,
        nms_threshold: float = 0.15,
        min_range: float = 2.0,
        max_range: float = 60.0,
        ground_slope: float = 0.1,
        gap: float = 0.45,
        gap_per_m: float = 0.01,
        car_length: float = 4.1,
        car_width: float = 1.65,
        ground_shown: float = 0.25,
        alike: float = 0.6,
        strict: float = 1.15,
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
        _check("ground_shown", ground_shown, 0, 1)
        _check("alike", alike, 0, 1)
        _check("strict", strict, 0.1, 10)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.min_range = min_range
        self.max_range = max_range
        self.ground_slope = ground_slope
        self.gap = gap
        self.gap_per_m = gap_per_m
        self.car_length = car_length
        self.car_width = car_width
        self.ground_shown = ground_shown
        self.alike = alike
        self.strict = strict
        self.ground_cell = 1.0  # m; a car hides two cells across, and the ground at both sides shows
        self.cell = 0.2  # m
        self.body = (0.25, 2.8)  # m above the ground: over kerbs and what the model misses, up to tall vans
        self.standing = 2.0  # m above the ground; a person is not taller
        self.lowest, self.longest = 0.6, 12.0  # m: what is lower or longer is no road user that is looked for
        self.fewest = 3  # points of a cluster
        self.upper = 0.9  # m above the ground; a person is a torso there, a bicycle its rider
        self.overhead = 4.0  # m above the ground; what hangs higher is of no concern
        self.angles = 30  # tried in a quarter turn
        self.sectors, self.step = 720, 0.25  # directions, and m between distances, of what was seen through
        self.narrow = (0.5, 0.7)  # of the gap: keep neighbours apart
        self.loose = 1.5  # of the gap: keeps whole what was seen in pieces
        # There are no weights: these are what the bundle's hash tells apart, on /diagnostics too.
        sizes = (min_range, max_range, ground_slope, gap, gap_per_m, car_length, car_width)
        numbers = (*sizes, ground_shown, alike, strict)
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
        return self.classify(self.clusters(obstacles), obstacles, least, overlap)

    def obstacles(self, points: Tensor) -> Obstacles:
        """Part the ground from what stands on it, and leave out what hangs over it."""
        squared = points[:, 0].square() + points[:, 1].square()
        inside = (squared > self.min_range**2) & (squared < self.max_range**2)
        inside = inside & (points[:, 2].abs() < self.max_range)
        points = points[:, :3].index_select(0, inside.nonzero()[:, 0])
        height = height_above_ground(points, self.max_range, self.ground_cell, self.ground_slope)
        rays, highest = ray_spacing(points, 90)
        low, high = self.body
        on_ground = points.index_select(0, (height.abs() < low - 0.05).nonzero()[:, 0])
        mounted = -float(on_ground[:, 2].median()) if len(on_ground) else 0.0  # most of its points are near
        raised = ((height > low) & (height < self.overhead)).nonzero()[:, 0]
        points, height = points.index_select(0, raised), height.index_select(0, raised)
        cells, cell_of = occupied_cells(points[:, :2], self.max_range, self.cell)
        count = len(cells)
        # What begins higher than a person hangs over the place, unless it goes on from below.
        inf = torch.full_like(height, float("inf"))
        below = height < self.standing
        bottom, top = extremes(height, cell_of, count)
        lower_top = extremes(torch.where(below, height, -inf), cell_of, count)[1]
        upper_bottom = extremes(torch.where(below, inf, height), cell_of, count)[0]
        away = (cells * self.cell - self.max_range).float()
        gap = (1.5 * rays[45, 0] * torch.hypot(away[:, 0], away[:, 1])).clamp(0.5, 1.0)
        goes_on = upper_bottom - lower_top < gap
        used = bottom < self.standing
        number = used.long().cumsum(0) - 1
        limit = torch.where(goes_on, torch.full_like(top, high), torch.full_like(top, self.standing))
        limit = torch.where(used, limit, torch.zeros_like(limit))
        body = (height < limit.index_select(0, cell_of)).nonzero()[:, 0]
        points, height, cell_of = (
            points.index_select(0, body),
            height.index_select(0, body),
            cell_of.index_select(0, body),
        )
        cell_of = number.index_select(0, cell_of)
        return Obstacles(
            points=points,
            height=height,
            cell_of=cell_of,
            cells=cells[used],
            top=extremes(height, cell_of, int(used.sum()))[1],
            overhead=(top[used] > high).float(),
            tall=(goes_on & (top > high))[used].float(),
            rays=rays,
            highest=highest,
            mounted=mounted,
            body=returns_by_direction(points[:, :2], self.max_range, self.sectors, self.step),
            ground=returns_by_direction(on_ground[:, :2], self.max_range, self.sectors, self.step),
        )

    def clusters(self, obstacles: Obstacles) -> Shapes:
        """The shapes of the clusters at the narrowest gap, and at each wider one of those that are others."""
        cells, cell_of, height = obstacles.cells, obstacles.cell_of, obstacles.height
        count = len(cells)
        number = torch.bincount(cell_of, minlength=count)
        middle = total(obstacles.points[:, :2], cell_of, count) / number[:, None]
        alone = torch.arange(count, device=cells.device)
        labels = self.labels(cells, middle)
        cell, root = alone, labels[0]
        piece = torch.zeros(len(labels) * count, dtype=torch.bool, device=cells.device)
        for level in range(1, len(labels)):
            inner, outer = labels[level - 1], labels[level]
            # A cluster of one cluster of the narrower gap is the same.
            parts = torch.bincount(outer[inner == alone], minlength=count)
            joined = (parts.index_select(0, outer) > 1).nonzero()[:, 0]
            if level == 1:
                piece[:count] = parts.index_select(0, outer) > 1
            cell = torch.cat((cell, joined))
            root = torch.cat((root, outer.index_select(0, joined) + level * count))
        roots = len(labels) * count
        size = torch.zeros(roots, dtype=torch.long, device=root.device).index_add(0, root, number[cell])
        low, high = extremes(middle[cell], root, roots)
        highest = extremes(obstacles.top[cell], root, roots)[1]
        extent = high - low
        possible = (
            (size >= self.fewest)
            & (torch.hypot(extent[:, 0], extent[:, 1]) < self.longest)
            & (highest > self.lowest)
        )
        index = torch.where(possible, possible.long().cumsum(0) - 1, torch.full_like(size, -1))
        clusters, of_cell = int(possible.sum()), index.index_select(0, root)
        kept = (of_cell >= 0).nonzero()[:, 0]
        cell, cluster = cell.index_select(0, kept), of_cell.index_select(0, kept)
        angle, way = self.directions(middle.index_select(0, cell), cluster, clusters)
        share = torch.stack((obstacles.overhead, obstacles.tall), 1)[cell]
        share = total(share, cluster, clusters) / torch.bincount(cluster, minlength=clusters)[:, None]
        # The points of each cell, once for every cluster that has the cell.
        order = cell_of.argsort()
        start = number.cumsum(0) - number
        repeats = number.index_select(0, cell)
        member = torch.repeat_interleave(cluster, repeats)
        first = torch.repeat_interleave(start.index_select(0, cell) - (repeats.cumsum(0) - repeats), repeats)
        point = order.index_select(0, first + torch.arange(len(first), device=first.device))
        return shapes_of(
            obstacles.points.index_select(0, point),
            height.index_select(0, point),
            member,
            angle,
            share[:, 0],
            share[:, 1],
            piece[possible],
            way,
            self.upper,
        )

    def directions(self, xy: Tensor, cluster: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The angle of each cluster's rectangle, and `usual_direction` where it is."""
        close, sides = closeness(xy, cluster, count, self.angles)
        step = math.pi / 2 / self.angles
        best = close.argmax(1)
        size = sides[torch.arange(count, device=best.device), best]
        yaw = best * step + (size[:, 1] > size[:, 0]) * (math.pi / 2)
        length = size.amax(1)
        at = total(xy, cluster, count) / torch.bincount(cluster, minlength=count)[:, None]
        way = usual_direction(at, yaw, length, 4)
        angle = torch.arange(self.angles, device=xy.device) * step
        usual = way @ torch.stack(((4 * angle).cos(), (4 * angle).sin()))
        best = (close / close.amax(1, keepdim=True) + 0.1 * usual).argmax(1)
        return best * step, usual_direction(at, yaw, length, 2)

    def labels(self, cells: Tensor, middle: Tensor) -> list[Tensor]:
        """(M,) component of each cell, as `components` labels, at each of the gaps from narrow to wide."""
        first, second = neighbours(cells, self.reach)
        x, y = middle[:, 0].contiguous(), middle[:, 1].contiguous()
        distance = torch.hypot(x, y)
        gap = (self.gap + self.gap_per_m * distance.clamp(max=30)).square()
        dx = x.index_select(0, first) - x.index_select(0, second)
        dy = y.index_select(0, first) - y.index_select(0, second)
        radial = dx * (x / distance).index_select(0, first) + dy * (y / distance).index_select(0, first)
        squared = dx.square() + dy.square()
        gap = gap.index_select(0, first)
        label = torch.arange(len(cells), device=cells.device)
        labels: list[Tensor] = []
        for share in self.narrow:
            near = (squared < share**2 * gap).nonzero()[:, 0]
            label = components(first.index_select(0, near), second.index_select(0, near), label)
            labels.append(label)
        # Along the ray roofs and hoods are grazed, if met at all: what lies behind may belong to the thing.
        squared = squared - (1 - self.grazed**2) * radial.square()
        near = (squared < self.loose**2 * gap).nonzero()[:, 0]
        labels.append(components(first.index_select(0, near), second.index_select(0, near), label))
        return labels

    def on_ground(self, boxes: Tensor, spacing: Tensor, clear: float, obstacles: Obstacles) -> Tensor:
        """(B,) in [0, 1], how well what the lidar saw before boxes agrees with their standing on the ground.

        Args:
            boxes: (B, 7) xyzlwh_yaw.
            spacing: (B,) between rings there, m.
            clear: nothing but ground may lie so near before a box, m; where rings lie closer, up to the next.
            obstacles: what was seen.
        """
        distance = torch.hypot(boxes[:, 0], boxes[:, 1])
        between = 1.5 * spacing * distance / min(max(obstacles.mounted, 0.5), 3.0)  # rings on the ground
        reach = between.clamp(1.0, 8.0)
        shown = ground_before(
            boxes, obstacles.body, obstacles.ground, self.step, reach, reach.clamp(max=clear)
        )
        told = (reach / between).clamp(max=1)  # where rings lie farther apart none may show the ground
        return 1 - 0.7 * told * (1 - (shown / max(self.ground_shown, 1e-6)).clamp(max=1))

    def classify(
        self, s: Shapes, obstacles: Obstacles, least: float, overlap: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of what clusters are, as `forward` gives them."""
        spacing = spacing_at(s, obstacles.rays)
        vehicle = like_vehicle(s, spacing, obstacles.highest)
        could = torch.where(vehicle >= least ** (1 / self.strict))[0]
        car, fits = whole_vehicles(
            chosen(s, could),
            self.car_length,
            self.car_width,
            self.alike,
            obstacles.body,
            obstacles.ground,
            self.step,
        )
        side = int(2 * self.max_range / self.cell) + 1
        tops = torch.zeros([side, side], device=s.top.device)
        tops[obstacles.cells[:, 0], obstacles.cells[:, 1]] = obstacles.top
        fits = fits * self.on_ground(car, spacing[could, 0], 8.0, obstacles)
        fits = fits * like_inside(car, tops, self.max_range, self.cell, spacing[could, 0])
        scores = (vehicle[could] * fits) ** self.strict
        good = torch.where(scores >= max(least, 1e-3))[0]
        car, cars = car[good], scores[good]
        good = nms_bev(car, cars, torch.zeros_like(good), overlap, True)
        car, cars = car[good], cars[good]
        pedestrian, cyclist = like_person(s, spacing)
        boxes = torch.cat((upright_box(s, 0.7, 0.6), upright_box(s, 1.7, 0.6)))
        scores = torch.cat((pedestrian, cyclist))
        scores = scores * self.on_ground(boxes, spacing[:, 0].repeat(2), 2.0, obstacles)
        labels = torch.cat((torch.ones_like(s.points), torch.full_like(s.points, 2)))
        seen = middles(s).repeat(2, 1)
        good = torch.where(scores >= max(least, 1e-3))[0]
        good = good[~explained(seen[good], scores[good], car, cars)]
        boxes, scores = torch.cat((car, boxes[good])), torch.cat((cars, scores[good]))
        labels = torch.cat((torch.zeros(len(car), dtype=labels.dtype, device=labels.device), labels[good]))
        kept = nms_bev(boxes, scores, labels, overlap, True)
        return boxes[kept], scores[kept], labels[kept]
