"""The lidar detector: pillars (arXiv:1812.05784) and an anchor-free head; the parts that it ships in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_rt.model.boxes3d import nms_bev
from perception_rt.train.blocks import ConvBnRelu, CrossStage, LinearBnRelu, down_stage

X_RANGE = (-32.0, 64.0)  # m, in the sensor's frame: what is detected in
Y_RANGE = (-32.0, 32.0)
Z_RANGE = (-3.5, 3.0)
PILLAR = 0.25  # m
CELL = 0.5  # m: a prediction each; pedestrians half a metre wide are hit or missed by the decimetre
COLUMNS = round((X_RANGE[1] - X_RANGE[0]) / PILLAR)
ROWS = round((Y_RANGE[1] - Y_RANGE[0]) / PILLAR)
CELL_COLUMNS, CELL_ROWS = round(COLUMNS * PILLAR / CELL), round(ROWS * PILLAR / CELL)
BOX_CHANNELS = 10
WIDTHS = (48, 96, 128)  # channels at cells of 0.5, 1 and 2 m
NECK = 48


class Pillars(nn.Module):
    """Points to a map: each is seen relative to its pillar, and a pillar keeps the maximum of its points.

    Every point counts (dynamic voxelisation, arXiv:1910.06528), and nothing depends on where in the map a
    pillar is: what is moved by whole pillars looks the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.x0, self.x1 = X_RANGE
        self.y0, self.y1 = Y_RANGE
        self.z0, self.z1 = Z_RANGE
        self.size = PILLAR
        self.columns, self.rows = COLUMNS, ROWS
        self.points = nn.Sequential(LinearBnRelu(8, channels), LinearBnRelu(channels, channels))

    def forward(self, points: Tensor, frame: Tensor, frames: int) -> Tensor:
        """Gather the points in range.

        Args:
            points: (P, 4) float32 x y z in m, intensity in [0, 1].
            frame: (P,) int64, which cloud a point is of.
            frames: how many clouds.

        Returns:
            (frames, C, ROWS, COLUMNS); 0 where no point is.
        """
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        inside = (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)
        inside &= (z >= self.z0) & (z < self.z1)
        points, frame = points[inside], frame[inside]
        at = (points[:, :2] - torch.tensor([self.x0, self.y0], device=points.device)) / self.size
        column = at[:, 0].floor().clamp(max=self.columns - 1)
        row = at[:, 1].floor().clamp(max=self.rows - 1)
        pillar = (frame * self.rows + row.long()) * self.columns + column.long()
        local = torch.stack((at[:, 0] - column - 0.5, at[:, 1] - row - 0.5, points[:, 2], points[:, 3]), 1)
        # In the order of their pillars: what is summed and compared lies together, and only pillars that
        # hold points cost anything.
        pillar, order = pillar.sort(stable=True)
        local = local[order]
        taken, number, counts = torch.unique_consecutive(pillar, return_inverse=True, return_counts=True)
        sums = torch.zeros((taken.shape[0], 3), device=points.device).index_add_(0, number, local[:, :3])
        count = counts[:, None].float()
        about = torch.cat((sums / count, count.log()), 1)[number]
        seen = torch.cat((local, local[:, :3] - about[:, :3], about[:, 3:]), 1)
        seen = self.points(seen.to(self.points[0][0].weight.dtype))  # type: ignore[index]
        best = torch.zeros((taken.shape[0], self.channels), device=points.device, dtype=seen.dtype)
        best = best.scatter_reduce(0, number[:, None].expand(-1, self.channels), seen, "amax")
        total = frames * self.rows * self.columns
        grid = torch.zeros((self.channels, total), device=points.device, dtype=seen.dtype)
        grid.scatter_(1, taken[None].expand(self.channels, -1), best.t())  # in place: the map has 12 MB
        return grid.view(self.channels, frames, self.rows, self.columns).transpose(0, 1)


class PillarsNetwork(nn.Module):
    """Points to class logits and raw boxes of every cell of the ground; a small U of convolutions between.

    One prediction per cell and no anchors, as in CenterPoint (arXiv:2006.11275).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.pillars = Pillars(32)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvBnRelu(32, WIDTHS[0], 3, 2), CrossStage(WIDTHS[0], 2)),
                down_stage(WIDTHS[0], WIDTHS[1], 2),
                down_stage(WIDTHS[1], WIDTHS[2], 2),
            ]
        )
        self.lateral = nn.ModuleList([ConvBnRelu(width, NECK, 1) for width in WIDTHS])
        self.merge = nn.ModuleList([ConvBnRelu(NECK, NECK), ConvBnRelu(NECK, NECK)])
        self.head = nn.Conv2d(NECK, classes + BOX_CHANNELS, 1)
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
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        for i, lateral in enumerate(self.lateral):
            features[i] = lateral(features[i])
        y = features[2]
        for j, merge in enumerate(self.merge):
            y = merge(features[1 - j] + F.interpolate(y, scale_factor=2.0, mode="nearest"))
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
        """(N, 4) float32 x y z in m, intensity in [0, 1] -> [(1, C, ROWS, COLUMNS)]."""
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
        scores = raw[:, : self.classes].sigmoid()
        # A cell answers for a class where no cell around it has a higher score.
        grid = scores.t().contiguous().view(1, self.classes, self.rows, self.columns)
        peak = (F.max_pool2d(grid, 3, 1, 1) == grid).view(self.classes, -1).t()
        scores, labels = (scores * peak).max(1)
        scores, best = scores.topk(min(self.top_k, scores.shape[0]))
        best = best[(scores >= score_threshold) & (scores > 0)]
        scores, labels = scores[: best.shape[0]], labels[best]
        boxes = decode(raw[best, self.classes :], self.at[best])
        kept = nms_bev(boxes, scores, labels, nms_threshold, True)
        return boxes[kept], scores[kept], labels[kept]
