"""The lidar detector: pillars (arXiv:1812.05784) and an anchor-free head; the parts that it ships in."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_rt.model.boxes3d import nms_bev
from perception_rt.train.blocks import ConvBnRelu, down_stage

X_RANGE = (-32.0, 64.0)  # m, in the sensor's frame: what is detected in
Y_RANGE = (-32.0, 32.0)
Z_RANGE = (-3.5, 3.0)
NEAREST = 1.5  # m from the sensor: what is nearer belongs to the own vehicle
PILLAR = 0.25  # m
CELL = 0.5  # m: a prediction each; pedestrians half a metre wide are hit or missed by the decimetre
COLUMNS = round((X_RANGE[1] - X_RANGE[0]) / PILLAR)
ROWS = round((Y_RANGE[1] - Y_RANGE[0]) / PILLAR)
CELL_COLUMNS, CELL_ROWS = round(COLUMNS * PILLAR / CELL), round(ROWS * PILLAR / CELL)
BOX_CHANNELS = 10
SLICE = 0.2  # m: what a pillar holds at each height
SLICES_FROM = -2.6  # m; the lowest slice holds what is below too
SLICES = 18  # the highest holds what is above too
CHANNELS = SLICES + 6
WIDTHS = (32, 64, 96, 128)  # channels at cells of 0.5, 1, 2 and 4 m
NECK = (32, 48, 64, 64)


class Pillars(nn.Module):
    """Points to a map: which heights of a pillar hold points, where in it they lie, how bright they are.

    Nothing is learned here. A height that is held counts once, however many points hold it (as in PIXOR,
    arXiv:1902.06326): near and far things and sensors of many and few rings look much the same. Intensities
    are seen relative to the cloud's mean, as sensors scale them in all ways. Nothing depends on where in the
    map a pillar is: what is moved by whole pillars looks the same, but for the room of the own vehicle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.slices = CHANNELS, SLICES
        self.x0, self.x1 = X_RANGE
        self.y0, self.y1 = Y_RANGE
        self.z0, self.z1 = Z_RANGE
        self.nearest = NEAREST
        self.size, self.slice, self.slices_from = PILLAR, SLICE, SLICES_FROM
        self.columns, self.rows = COLUMNS, ROWS

    def forward(self, points: Tensor, frame: Tensor, frames: int) -> Tensor:
        """Gather the points in range.

        Args:
            points: (P, 4) float32 x y z in m, intensity of any scale, not negative.
            frame: (P,) int64, which cloud a point is of.
            frames: how many clouds.

        Returns:
            (frames, CHANNELS, ROWS, COLUMNS): mean brightness, i / (i + mean of the cloud); 1 for each slice
            that holds points; greatest brightness; mean of x and of y from the middle in pillars; logarithm
            of 1 + the number of points; the top in parts of the slices. 0 where no point is.
        """
        x, y, z, bright = points.t().contiguous().unbind(0)
        inside = (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)
        inside &= (z >= self.z0) & (z < self.z1) & (x * x + y * y >= self.nearest**2)
        kept = inside.nonzero().squeeze(1)
        x, y, z, bright = points.index_select(0, kept).t().contiguous().unbind(0)
        bright = bright.clamp_(min=0.0)
        cells = self.rows * self.columns
        if frames == 1:
            bright = bright / (bright + (bright.mean() + 1e-6))
        else:
            frame = frame.index_select(0, kept)
            many = torch.zeros(frames, device=points.device).scatter_add_(0, frame, torch.ones_like(x))
            usual = torch.zeros(frames, device=points.device).scatter_add_(0, frame, bright)
            bright = bright / (bright + (usual / many.clamp(min=1.0) + 1e-6).index_select(0, frame))
        x, y = (x - self.x0) / self.size, (y - self.y0) / self.size
        column, row = x.long().clamp(max=self.columns - 1), y.long().clamp(max=self.rows - 1)
        up = ((z - self.slices_from) / self.slice).clamp(0.0, self.slices - 0.5)
        at = row * self.columns + column
        if frames > 1:
            at = at + frame * (self.channels * cells)
        grid = torch.zeros(frames * self.channels * cells, device=points.device)
        held = up.long().add_(1).mul_(cells).add_(at)
        grid.scatter_(0, held, 1.0)
        grid.scatter_add_(0, at, bright)
        at = at + (self.slices + 1) * cells
        grid.scatter_reduce_(0, at, bright, "amax")
        at = at + cells
        grid.scatter_add_(0, at, (x - column).sub_(0.5))
        at = at + cells
        grid.scatter_add_(0, at, (y - row).sub_(0.5))
        at = at + cells
        grid.scatter_add_(0, at, torch.ones_like(x))
        at = at + cells
        grid.scatter_reduce_(0, at, (up + 1) / (self.slices + 2), "amax")
        grid = grid.view(frames, self.channels, self.rows, self.columns)
        last = self.channels - 1
        count = grid[:, last - 1 : last]
        grid[:, :1] /= count.clamp(min=1.0)
        grid[:, last - 3 : last - 1] /= count.clamp(min=1.0)
        count.log1p_()
        return grid


class PillarsNetwork(nn.Module):
    """The map of pillars to class logits and raw boxes of every cell; a U of convolutions.

    One prediction per cell and no anchors, as in CenterPoint (arXiv:2006.11275).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.pillars = Pillars()
        blocks = (1, 2, 2, 1)
        inputs = (CHANNELS, *WIDTHS)
        self.stages = nn.ModuleList(down_stage(*pair) for pair in zip(inputs, WIDTHS, blocks, strict=False))
        self.lateral = nn.ModuleList(
            ConvBnRelu(width, neck, 1) for width, neck in zip(WIDTHS, NECK, strict=True)
        )
        self.up = nn.ModuleList(ConvBnRelu(high, low, 1) for low, high in pairwise(NECK))
        self.merge = nn.ModuleList(ConvBnRelu(neck, neck) for neck in NECK[:-1])
        self.head = nn.Conv2d(NECK[0], classes + BOX_CHANNELS, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        bias = self.head.bias
        assert bias is not None
        nn.init.zeros_(bias)
        nn.init.constant_(bias[:classes], -4.6)  # every score starts at 0.01: few cells hold an object

    def forward(self, points: Tensor, frame: Tensor, frames: int) -> Tensor:
        """Predictions of all cells; arguments as of `Pillars`, result as of `predict`."""
        return self.predict(self.pillars(points, frame, frames))

    def predict(self, x: Tensor) -> Tensor:
        """Predictions from the map of pillars.

        Args:
            x: from `Pillars`.

        Returns:
            (frames, A, classes + BOX_CHANNELS): logits, then the box as `decode` reads it; cells in the order
            of `cells`.
        """
        features: list[Tensor] = []
        for stage, lateral in zip(self.stages, self.lateral):  # noqa: B905  # TorchScript knows no strict
            x = stage(x)
            features.append(lateral(x))
        y = features[-1]
        levels = list(zip(features[:-1], self.up, self.merge, strict=True))
        for level, up, merge in reversed(levels):
            y = merge(level + F.interpolate(up(y), scale_factor=2.0, mode="nearest"))
        return self.head(y).permute(0, 2, 3, 1).flatten(1, 2)


def cells(like: Tensor) -> Tensor:
    """(A, 3): centre x, y and size in m of every cell, row by row from the right rear of the range."""
    x = torch.arange(CELL_COLUMNS, device=like.device, dtype=torch.float32)
    y = torch.arange(CELL_ROWS, device=like.device, dtype=torch.float32)
    yy, xx = torch.meshgrid((y + 0.5) * CELL + Y_RANGE[0], (x + 0.5) * CELL + X_RANGE[0], indexing="ij")
    return torch.stack((xx, yy, torch.full_like(xx, CELL)), 2).flatten(0, 1)


def decode(raw: Tensor, at: Tensor) -> Tensor:
    """Boxes from raw predictions.

    The axis comes from the doubled angle, which is the same for front and rear, so that an object whose front
    cannot be told still gets its box; which end is the front comes from the angle itself.

    Args:
        raw: (N, BOX_CHANNELS): x and y from the cell in cells, z, log length width height, sine and cosine of
            twice the yaw, sine and cosine of the yaw.
        at: (N, 3) from `cells`.

    Returns:
        (N, 7) xyzlwh_yaw.
    """
    axis = torch.atan2(raw[:, 6], raw[:, 7]) / 2
    ahead = axis.sin() * raw[:, 8] + axis.cos() * raw[:, 9] >= 0
    yaw = torch.where(ahead, axis, torch.where(axis > 0, axis - math.pi, axis + math.pi))
    size = raw[:, 3:6].clamp(-3.0, 4.0).exp()
    return torch.cat((at[:, :2] + raw[:, :2] * at[:, 2:], raw[:, 2:3], size, yaw[:, None]), 1)


class PillarsEncoder(nn.Module):
    """Points to the map of pillars, as the bundle holds it."""

    def __init__(self, pillars: Pillars) -> None:
        super().__init__()
        self.pillars = pillars

    def forward(self, points: Tensor) -> list[Tensor]:
        """(N, 4) float32 x y z in m, intensity -> [(1, C, ROWS, COLUMNS)]."""
        frame = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        return [self.pillars(points, frame, 1)]


class PillarsDense(nn.Module):
    """The map of pillars to raw predictions: the convolutions alone."""

    def __init__(self, network: PillarsNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, grid: Tensor) -> Tensor:
        """As `PillarsNetwork.predict`."""
        return self.network.predict(grid)


class PillarsDecoder(nn.Module):
    """From raw predictions to boxes, as the bundle holds it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.top_k = 256  # most boxes a cloud may have, before NMS too
        self.rows, self.columns = CELL_ROWS, CELL_COLUMNS
        self.at: Tensor
        self.register_buffer("at", cells(torch.zeros(0)), persistent=False)

    def forward(
        self, outputs: list[Tensor], score_threshold: float, nms_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode one cloud.

        Args:
            outputs: of `PillarsDense`, (1, A, classes + BOX_CHANNELS).
            score_threshold: a box below it is dropped.
            nms_threshold: of two boxes whose footprints overlap more (IoU) the lesser is dropped, whatever
                their classes.

        Returns:
            boxes (K, 7) float32 xyzlwh_yaw, scores (K,), labels (K,) int64; best score first.
        """
        raw = outputs[0][0].float()
        # Only cells that reach the threshold are looked at, as most do not.
        highest = raw[:, 0]
        for label in range(1, self.classes):
            highest = torch.maximum(highest, raw[:, label])
        found = (highest.sigmoid() >= score_threshold).nonzero().squeeze(1)
        scores = raw[found, : self.classes].sigmoid()
        # A cell answers for a class where no cell around it has a higher score.
        row, column = found // self.columns, found % self.columns
        peak = torch.ones_like(scores, dtype=torch.bool)
        for down in range(-1, 2):
            for right in range(-1, 2):
                beside = (row + down).clamp(0, self.rows - 1) * self.columns
                beside = beside + (column + right).clamp(0, self.columns - 1)
                peak &= raw[beside, : self.classes].sigmoid() <= scores
        scores, labels = (scores * peak).max(1)
        scores, best = scores.topk(min(self.top_k, scores.shape[0]))
        best = best[(scores >= score_threshold) & (scores > 0)]
        scores, labels, best = scores[: best.shape[0]], labels[best], found[best]
        boxes = decode(raw[best, self.classes :], self.at[best])
        kept = nms_bev(boxes, scores, labels, nms_threshold, True)
        return boxes[kept], scores[kept], labels[kept]
