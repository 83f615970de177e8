"""PointPillars (arXiv:1812.05784) as OpenPCDet and mmdetection3d train it, in plain torch.

Modules and parameters have the names of OpenPCDet's checkpoints, and the same input gives the same output.
All can be scripted into a bundle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_rt.model.boxes3d import iou_bev, nms_bev

EPS = 1e-3  # of every batch normalisation


@dataclass(frozen=True, slots=True)
class PillarGrid:
    """The grid of pillars.

    Attributes:
        low: least x y z, m.
        high: greatest x y z, m.
        size: of a pillar along x y z, m.
        columns: pillars along x.
        rows: pillars along y.
        max_points: maximum number of points in a pillar; further ones are dropped.
        max_pillars: maximum number of pillars of a cloud; points of further ones are dropped.
        dynamic: use all points, without limits of number and height.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    size: tuple[float, float, float]
    columns: int
    rows: int
    max_points: int
    max_pillars: int
    dynamic: bool = False


@dataclass(frozen=True, slots=True)
class AnchorBox:
    """A box that a cell predicts from.

    Attributes:
        size: length width height, m.
        yaw: rad.
        bottom: z of its lower side, m.
        area: least x y and greatest x y of the region of such boxes, m.
        centred: it lies in the middle of its cell; otherwise the outermost lie on the border of `area`.
    """

    size: tuple[float, float, float]
    yaw: float
    bottom: float
    area: tuple[float, float, float, float]
    centred: bool


class Voxeliser(nn.Module):
    """Sorts points into pillars; the result depends only on the points and their order."""

    def __init__(self, grid: PillarGrid) -> None:
        super().__init__()
        self.columns, self.dynamic = grid.columns, grid.dynamic
        self.max_points, self.max_pillars = grid.max_points, grid.max_pillars
        self.low: Tensor
        self.size: Tensor
        self.cells: Tensor
        axes = self.axes = 2 if grid.dynamic else 3
        self.register_buffer("low", torch.tensor(grid.low[:axes]), persistent=False)
        self.register_buffer("size", torch.tensor(grid.size[:axes]), persistent=False)
        cells = torch.tensor([grid.columns, grid.rows, 1][:axes])
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keep the first `max_points` points of each of the first `max_pillars` pillars.

        Args:
            points: (N, C) float32 x y z in m, and further columns.

        Returns:
            points (P, C) by pillar and in their order within it, pillar (P,) of each, cell (V,) int64
            ``row * columns + column`` of each pillar, count (V,) of points.
        """
        at = ((points[:, : self.axes] - self.low) / self.size).floor()
        inside = ((at >= 0) & (at < self.cells)).all(1)
        points, at = points[inside], at[inside].long()
        cell, order = (at[:, 1] * self.columns + at[:, 0]).sort(stable=True)
        number, count = torch.unique_consecutive(cell, return_inverse=True, return_counts=True)[1:]
        if self.dynamic:
            return points[order], number, cell[count.cumsum(0) - count], count
        start = count.cumsum(0) - count
        keep = torch.arange(cell.shape[0], device=cell.device) - start[number] < self.max_points
        if count.shape[0] > self.max_pillars:
            first = order[start]
            keep = keep & (first <= first.sort()[0][self.max_pillars - 1])[number]
        cell, points = cell[keep], points[order[keep]]
        cell, number, count = torch.unique_consecutive(cell, return_inverse=True, return_counts=True)
        return points, number, cell, count


class PillarLayer(nn.Module):
    """Linear, batch normalisation if `norm`, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: bool, eps: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=not norm)
        self.norm = nn.BatchNorm1d(outputs, eps=eps) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (P, outputs) for (P, inputs)."""
        return F.relu(self.norm(self.linear(x)))


class PillarFeatures(nn.Module):
    """Features of a pillar from its points: OpenPCDet's PillarVFE and DynPillarVFE, and mmdetection3d's.

    Args:
        grid: of the pillars.
        columns: of the points.
        filters: channels after each layer; all layers except the last also return the maximum of the pillar.
        norm: batch normalisation instead of a bias.
        absolute: x y z are features too.
        distance: the distance from the sensor is a feature too.
        cluster: x y z from the mean of the pillar's points are features too.
        middle: number of axes whose position in the pillar is a feature: 0, 2 or 3.
        relative: the position in the pillar replaces x y z.
        eps: of the batch normalisation.
    """

    def __init__(
        self,
        grid: PillarGrid,
        columns: int,
        filters: Sequence[int],
        norm: bool = True,
        absolute: bool = True,
        distance: bool = False,
        cluster: bool = True,
        middle: int = 3,
        relative: bool = False,
        eps: float = EPS,
    ) -> None:
        super().__init__()
        self.columns, self.max_points, self.padded = grid.columns, grid.max_points, not grid.dynamic
        self.absolute, self.distance, self.cluster = absolute, distance, cluster
        self.axes, self.relative = middle, relative
        self.size: Tensor
        self.middle: Tensor
        low = [least + size / 2 for least, size in zip(grid.low, grid.size, strict=True)]
        self.register_buffer("size", torch.tensor(grid.size), persistent=False)
        self.register_buffer("middle", torch.tensor(low), persistent=False)
        inputs = columns - (0 if absolute else 3) + 3 * cluster + middle + distance
        layers = []
        for outputs in filters:
            layers.append(PillarLayer(inputs, outputs, norm, eps))
            inputs = 2 * outputs
        self.pfn_layers = nn.ModuleList(layers)
        self.channels = filters[-1]

    def forward(self, points: Tensor, number: Tensor, cell: Tensor, count: Tensor) -> Tensor:
        """Return (V, C) features; for the arguments see `Voxeliser`."""
        xyz = points[:, :3]
        sums = torch.zeros((count.shape[0], 3), device=points.device).index_add_(0, number, xyz)
        place = torch.stack((cell % self.columns, cell // self.columns, torch.zeros_like(cell)), 1)
        within = (xyz - (place * self.size + self.middle)[number])[:, : self.axes]
        from_mean = xyz - (sums / count[:, None])[number]
        if self.relative:
            points = torch.cat((within, points[:, self.axes :]), 1)
        parts = [points if self.absolute else points[:, 3:]]
        if self.cluster:
            parts.append(from_mean)
        parts.append(within)
        if self.distance:
            parts.append(points[:, :3].norm(2, 1, True))
        x = torch.cat(parts, 1)
        if self.padded:
            # The original pads pillars with rows of zeros, which count for the maximum. All padding rows of a
            # pillar stay equal after a layer, so one row represents them.
            padded = (count < self.max_points).nonzero().squeeze(1)
            x = torch.cat((x, torch.zeros((padded.shape[0], x.shape[1]), device=x.device)))
            number = torch.cat((number, padded))
        best = x
        for i, layer in enumerate(self.pfn_layers):
            if i > 0:
                x = torch.cat((x, best[number]), 1)
            x = layer(x)
            best = torch.zeros((count.shape[0], x.shape[1]), device=x.device, dtype=x.dtype)
            best = best.scatter_reduce(0, number[:, None].expand(-1, x.shape[1]), x, "amax")
        return best


class BevBackbone(nn.Module):
    """OpenPCDet's BaseBEVBackbone: levels of convolutions, resized to one resolution and concatenated.

    Args:
        inputs: channels of the map of pillars.
        layers: convolutions of each level after the first one.
        strides: of each level's first convolution.
        filters: channels of each level.
        up_strides: upsampling factor of each level (below 1: downsampling); one more factor upsamples the
            result.
        up_filters: channels of each upsampled level.
        conv_at_one: use a convolution instead of a transposed one for levels that keep their size.
        eps: epsilon of the batch normalisation, for the levels and for the upsampling.
    """

    def __init__(
        self,
        inputs: int,
        layers: Sequence[int],
        strides: Sequence[int],
        filters: Sequence[int],
        up_strides: Sequence[float],
        up_filters: Sequence[int],
        conv_at_one: bool,
        eps: tuple[float, float] = (EPS, EPS),
    ) -> None:
        super().__init__()
        blocks, deblocks = [], []
        for level, (count, stride, width) in enumerate(zip(layers, strides, filters, strict=True)):
            parts: list[nn.Module] = [
                nn.ZeroPad2d(1),
                *normed(nn.Conv2d(inputs, width, 3, stride, bias=False), eps[0]),
            ]
            for _ in range(count):
                parts += normed(nn.Conv2d(width, width, 3, padding=1, bias=False), eps[0])
            blocks.append(nn.Sequential(*parts))
            up, outputs, inputs = up_strides[level], up_filters[level], width
            if up > 1 or (up == 1 and not conv_at_one):
                step = int(up)
                scale: nn.Module = nn.ConvTranspose2d(width, outputs, step, step, bias=False)
            else:
                step = round(1 / up)
                scale = nn.Conv2d(width, outputs, step, step, bias=False)
            deblocks.append(nn.Sequential(*normed(scale, eps[1])))
        self.channels = sum(up_filters)
        self.enlarged = len(up_strides) > len(filters)
        if self.enlarged:
            step = int(up_strides[-1])
            last = nn.ConvTranspose2d(self.channels, self.channels, step, step, bias=False)
            deblocks.append(nn.Sequential(*normed(last, eps[1])))
        self.blocks, self.deblocks = nn.ModuleList(blocks), nn.ModuleList(deblocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, channels, h, w) for (1, inputs, rows, columns)."""
        levels: list[Tensor] = []
        for block, deblock in zip(self.blocks, self.deblocks):  # noqa: B905  # TorchScript knows no strict
            x = block(x)
            levels.append(deblock(x))
        x = torch.cat(levels, 1)
        return self.deblocks[-1](x) if self.enlarged else x


def normed(layer: nn.Module, eps: float) -> list[nn.Module]:
    """Return a convolution, its batch normalisation and ReLU."""
    return [layer, nn.BatchNorm2d(int(layer.out_channels), eps=eps), nn.ReLU()]  # type: ignore[arg-type]


class AnchorHead(nn.Module):
    """OpenPCDet's AnchorHeadSingle and mmdetection3d's Anchor3DHead.

    Args:
        inputs: channels.
        classes: number of classes.
        anchors: of every cell, in the order of the output's channels.
        cells: (rows, columns) of the output.
        bins: number of directions of the classifier; 0 without one.
        dir_offset: rad; where the first bin begins.
        dir_limit_offset: as in the configuration.
        most_before: boxes that reach NMS, best first.
        most: boxes of a cloud.
        by_class: NMS runs for each class, and a cell may return a box for several classes; otherwise each box
            has its best class, and NMS ignores classes.
        code: values of each anchor: 7 of the box, then unused ones (the velocity).
        turned: boxes are in the frame of mmdetection3d below 1.0, as `from_turned` says.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        anchors: Sequence[AnchorBox],
        cells: tuple[int, int],
        bins: int,
        dir_offset: float,
        dir_limit_offset: float,
        most_before: int,
        most: int,
        by_class: bool = False,
        code: int = 7,
        turned: bool = False,
    ) -> None:
        super().__init__()
        count = len(anchors)
        self.conv_cls = nn.Conv2d(inputs, count * classes, 1)
        self.conv_box = nn.Conv2d(inputs, count * code, 1)
        self.conv_dir_cls = nn.Conv2d(inputs, count * bins, 1) if bins else nn.Identity()
        self.classes, self.bins, self.columns, self.code = classes, bins, cells[1], code
        self.dir_offset, self.dir_limit_offset, self.turned = dir_offset, dir_limit_offset, turned
        self.most_before, self.most, self.by_class = most_before, most, by_class
        self.kinds: Tensor
        self.xs: Tensor
        self.ys: Tensor
        kinds = [(a.bottom + a.size[2] / 2, *a.size, a.yaw) for a in anchors]
        self.register_buffer("kinds", torch.tensor(kinds), persistent=False)
        xs = [_along(a.area[0], a.area[2], cells[1], a.centred) for a in anchors]
        ys = [_along(a.area[1], a.area[3], cells[0], a.centred) for a in anchors]
        self.register_buffer("xs", torch.stack(xs), persistent=False)
        self.register_buffer("ys", torch.stack(ys), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return logits, residuals and directions (if any), (1, h, w, channels), for (1, inputs, h, w)."""
        raw = [self.conv_cls(x).permute(0, 2, 3, 1), self.conv_box(x).permute(0, 2, 3, 1)]
        if self.bins > 0:
            raw.append(self.conv_dir_cls(x).permute(0, 2, 3, 1))
        return raw

    def detect(
        self, raw: list[Tensor], score_threshold: float, nms_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the maps and run NMS.

        Args:
            raw: as `forward` returns it.
            score_threshold: lowest score kept.
            nms_threshold: IoU of footprints.

        Returns:
            boxes (K, 7) float32 xyzlwh_yaw, scores (K,), labels (K,) int64; best score first.
        """
        logits = raw[0].float().reshape(-1, self.classes)
        best, labels = logits.max(1)
        scores = best.sigmoid()
        rows = (scores >= score_threshold).nonzero().squeeze(1)
        rows = rows[scores[rows].argsort(descending=True, stable=True)[: self.most_before]]
        boxes, scores, labels = self.boxes(raw, rows), scores[rows], labels[rows]
        if not self.by_class:
            kept = suppress(boxes, scores, nms_threshold, self.most)
            return boxes[kept], scores[kept], labels[kept]
        every = logits[rows].sigmoid()
        places, of = torch.where(every >= score_threshold)
        chosen: list[Tensor] = []
        for label in range(self.classes):
            mine = places[of == label]
            mine = mine[every[mine, label].argsort(descending=True, stable=True)]
            mine = mine[suppress(boxes[mine], every[mine, label], nms_threshold, self.most)]
            chosen.append(mine * self.classes + label)
        found = torch.cat(chosen)
        scores = every.flatten()[found]
        order = scores.argsort(descending=True, stable=True)[: self.most]
        found, scores = found[order], scores[order]
        return boxes[found // self.classes], scores, found % self.classes

    def boxes(self, raw: list[Tensor], rows: Tensor) -> Tensor:
        """Return (K, 7) boxes for (K,) int64 indices of anchors, cell by cell."""
        code = raw[1].float().reshape(-1, self.code)[rows]
        kind = rows % self.kinds.shape[0]
        cell = rows // self.kinds.shape[0]
        anchor = self.kinds[kind]
        x, y = self.xs[kind, cell % self.columns], self.ys[kind, cell // self.columns]
        diagonal = (anchor[:, 1] ** 2 + anchor[:, 2] ** 2).sqrt()
        yaw = code[:, 6] + anchor[:, 4]
        if self.bins > 0:
            period = 2 * math.pi / self.bins
            ahead = raw[2].float().reshape(-1, self.bins)[rows].argmax(1)
            yaw = yaw - self.dir_offset
            yaw = yaw - torch.floor(yaw / period + self.dir_limit_offset) * period
            yaw = yaw + self.dir_offset + period * ahead
        boxes = torch.cat(
            (
                torch.stack((code[:, 0] * diagonal + x, code[:, 1] * diagonal + y), 1),
                (code[:, 2] * anchor[:, 3] + anchor[:, 0])[:, None],
                code[:, 3:6].exp() * anchor[:, 1:4],
                torch.atan2(yaw.sin(), yaw.cos())[:, None],
            ),
            1,
        )
        return from_turned(boxes) if self.turned else boxes


def from_turned(boxes: Tensor) -> Tensor:
    """Convert boxes of mmdetection3d below 1.0: width before length, yaw 0 along -y and clockwise."""
    yaw = -boxes[:, 6] - math.pi / 2
    yaw = torch.atan2(yaw.sin(), yaw.cos())[:, None]
    return torch.cat((boxes[:, :3], boxes[:, 4:5], boxes[:, 3:4], boxes[:, 5:6], yaw), 1)


def _along(low: float, high: float, count: int, centred: bool) -> Tensor:
    """Return (count,) float32 positions of the anchors along one axis, m."""
    step = (high - low) / (count if centred else max(count - 1, 1))
    at = torch.arange(count, dtype=torch.float64) * step + (low + step / 2 if centred else low)
    return at.float()


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Run `nms_bev` across classes in blocks, so that memory does not grow with the square of the boxes.

    Args:
        boxes: (N, 7), best score first.
        scores: (N,).
        iou_threshold: if two footprints have a higher IoU, the box with the lower score is removed.
        most: maximum number of boxes kept.

    Returns:
        (K,) int64 rows that are kept, best score first.
    """
    kept, block = torch.zeros(0, dtype=torch.int64, device=boxes.device), 256
    for start in range(0, boxes.shape[0], block):
        rows = torch.arange(start, min(start + block, boxes.shape[0]), device=boxes.device)
        rows = rows[(iou_bev(boxes[rows], boxes[kept]) <= iou_threshold).all(1)]
        rows = rows[nms_bev(boxes[rows], scores[rows], torch.zeros_like(rows), iou_threshold, True)]
        kept = torch.cat((kept, rows))
        if kept.shape[0] >= most:
            break
    return kept[:most]


class PointPillars(nn.Module):
    """A detector for clouds: pillars, their features, a map, a convolutional backbone, a head.

    Args:
        grid: of the pillars.
        columns: columns of a point that are features: 0 to 3 are x y z intensity, 4 the age of its sweep;
            missing columns are 0.
        vfe: features of a pillar.
        backbone_2d: on the map.
        dense_head: predicts boxes.
        score_threshold: default lowest score.
        nms_threshold: default IoU of NMS.
    """

    if TYPE_CHECKING:  # TorchScript refuses Any here
        dense_head: Any

    def __init__(
        self,
        grid: PillarGrid,
        columns: Sequence[int],
        vfe: PillarFeatures,
        backbone_2d: BevBackbone,
        dense_head: nn.Module,
        score_threshold: float,
        nms_threshold: float,
    ) -> None:
        super().__init__()
        self.voxeliser = Voxeliser(grid)
        self.vfe, self.backbone_2d, self.dense_head = vfe, backbone_2d, dense_head
        self.rows, self.columns = grid.rows, grid.columns
        self.chosen: list[int] = list(columns)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold

    def scatter(self, features: Tensor, cell: Tensor) -> Tensor:
        """Return (1, C, rows, columns) with features (V, C) of pillars at their (V,) cells, 0 elsewhere."""
        width = features.shape[1]
        grid = torch.zeros((self.rows * self.columns, width), device=features.device, dtype=features.dtype)
        grid.index_copy_(0, cell, features)
        return grid.view(1, self.rows, self.columns, width).permute(0, 3, 1, 2)

    def raw(self, points: Tensor) -> list[Tensor]:
        """Return the output of the head for (N, 4) or (N, 5) points."""
        if self.chosen != list(range(points.shape[1])):
            points = F.pad(points, [0, max(self.chosen) + 1])[:, self.chosen]
        points, number, cell, count = self.voxeliser(points)
        return self.dense_head(self.backbone_2d(self.scatter(self.vfe(points, number, cell, count), cell)))

    def forward(
        self, points: Tensor, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detect objects in a cloud.

        Args:
            points: (N, 4) float32 x y z in m, intensity; z up; (N, 5) with the age of a point's sweep in s.
            score_threshold: lowest score kept; negative takes the default.
            nms_threshold: footprint IoU above which NMS drops the weaker box; negative takes the default.

        Returns:
            boxes (K, 7) float32 xyzlwh_yaw in the frame of the points, scores (K,), labels (K,) int64; best
            score first.
        """
        score = self.score_threshold if score_threshold < 0 else score_threshold
        nms = self.nms_threshold if nms_threshold < 0 else nms_threshold
        return self.dense_head.detect(self.raw(points), score, nms)
