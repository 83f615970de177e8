"""The head of CenterPoint (arXiv:2006.11275) as OpenPCDet and mmdetection3d train it; can be scripted.

Modules and parameters have the names of OpenPCDet's checkpoints, and the same input gives the same output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perception_rt.model.pointpillars import from_turned, normed, suppress

PARTS = {"hm": 0, "center": 2, "center_z": 1, "dim": 3, "rot": 2}
"""By name, channels of what a group of classes answers; the heat map has one for each class."""


@dataclass(frozen=True, slots=True)
class ClassGroup:
    """Classes that share a branch.

    Attributes:
        labels: of the network, by channel of the heat map.
        radius_squared: m^2; of two boxes whose centres are at most this far apart, the one with the lower
            score is dropped; 0 uses their overlap only.
    """

    labels: tuple[int, ...]
    radius_squared: float = 0.0


@dataclass(frozen=True, slots=True)
class BranchShape:
    """The layers of every branch.

    Attributes:
        shared: channels of what all start from.
        between: channels between the layers of a branch.
        kernel: side of its convolutions.
        layers: by key of `PARTS`, how many.
        bias: convolutions before a batch normalisation have one.
        eps: of the batch normalisation.
    """

    shared: int
    between: int
    kernel: int
    layers: Mapping[str, int]
    bias: bool
    eps: float


@dataclass(frozen=True, slots=True)
class CenterDecoding:
    """How maps become boxes.

    Attributes:
        low: x and y of the corner of the map, m.
        cell: side of a cell of the map along x and y, m.
        limits: least x y z, greatest x y z of a centre, m.
        most_peaks: cells of a group that become boxes, best first.
        most_before: boxes of a group that reach NMS.
        most: boxes of a group.
        logarithm: the network answers the logarithm of a box's size.
        sine_first: the network answers the sine of the yaw before its cosine.
        turned: boxes are in the frame of mmdetection3d below 1.0, as `from_turned` says.
    """

    low: tuple[float, float]
    cell: tuple[float, float]
    limits: tuple[float, ...]
    most_peaks: int
    most_before: int
    most: int
    logarithm: bool = True
    sine_first: bool = False
    turned: bool = False


class Branch(nn.Module):
    """The outputs for one group of classes."""

    if TYPE_CHECKING:  # TorchScript refuses Any here
        hm: Any
        center: Any
        center_z: Any
        dim: Any
        rot: Any

    def __init__(self, shape: BranchShape, classes: int) -> None:
        super().__init__()
        for name, channels in PARTS.items():
            inputs = shape.shared
            layers: list[nn.Module] = []
            for _ in range(shape.layers[name] - 1):
                layers.append(
                    nn.Sequential(*normed(_same(inputs, shape.between, shape.kernel, shape.bias), shape.eps))
                )
                inputs = shape.between
            layers.append(_same(inputs, channels or classes, shape.kernel, True))
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(1, shared, h, w) -> the maps of `PARTS`, in its order."""
        return [self.hm(x), self.center(x), self.center_z(x), self.dim(x), self.rot(x)]


def _same(inputs: int, outputs: int, kernel: int, bias: bool) -> nn.Module:
    """Return a convolution that keeps the size of the map."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


class CenterHead(nn.Module):
    """Heat map peaks for each class, and the box parameters at them.

    The velocities of the original are left out, as the package's detections have none.

    Args:
        inputs: channels.
        groups: of classes; NMS compares boxes of one group only.
        shape: of the branches.
        decoding: from their maps to boxes.
    """

    def __init__(
        self, inputs: int, groups: Sequence[ClassGroup], shape: BranchShape, decoding: CenterDecoding
    ) -> None:
        super().__init__()
        self.shared_conv = nn.Sequential(*normed(_same(inputs, shape.shared, 3, shape.bias), shape.eps))
        self.heads_list = nn.ModuleList([Branch(shape, len(group.labels)) for group in groups])
        self.labels: list[list[int]] = [list(group.labels) for group in groups]
        self.radii: list[float] = [group.radius_squared for group in groups]
        self.low: list[float] = list(decoding.low)
        self.cell: list[float] = list(decoding.cell)
        self.most_peaks, self.most_before, self.most = (
            decoding.most_peaks,
            decoding.most_before,
            decoding.most,
        )
        self.logarithm, self.sine_first, self.turned = (
            decoding.logarithm,
            decoding.sine_first,
            decoding.turned,
        )
        self.limits: Tensor
        self.register_buffer("limits", torch.tensor(decoding.limits), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of each group for (1, inputs, h, w), in the order of `PARTS`."""
        x = self.shared_conv(x)
        maps: list[Tensor] = []
        for branch in self.heads_list:
            maps.extend(branch(x))
        return maps

    def detect(
        self, raw: list[Tensor], score_threshold: float, nms_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode and suppress, group by group.

        Args:
            raw: as `forward` returns it.
            score_threshold: lowest score kept.
            nms_threshold: IoU of footprints; 1 keeps what `radius_squared` keeps.

        Returns:
            boxes (K, 7) float32 xyzlwh_yaw, scores (K,), labels (K,) int64; best score first.
        """
        every: list[Tensor] = []
        scores: list[Tensor] = []
        labels: list[Tensor] = []
        for group, own in enumerate(self.labels):
            maps = [values.float() for values in raw[5 * group : 5 * group + 5]]
            boxes, score, channel = self.boxes(maps, score_threshold)
            boxes, score, channel = (value[: self.most_before] for value in (boxes, score, channel))
            if self.radii[group] > 0:
                kept = thin(boxes, self.radii[group])
                boxes, score, channel = boxes[kept], score[kept], channel[kept]
            if nms_threshold < 1:
                kept = suppress(boxes, score, nms_threshold, self.most)
                boxes, score, channel = boxes[kept], score[kept], channel[kept]
            every.append(boxes[: self.most])
            scores.append(score[: self.most])
            labels.append(torch.tensor(own, device=channel.device)[channel[: self.most]])
        together = torch.cat(scores)
        order = together.argsort(descending=True, stable=True)
        return torch.cat(every)[order], together[order], torch.cat(labels)[order]

    def boxes(self, maps: list[Tensor], score_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes of a group before NMS.

        Args:
            maps: of the group.
            score_threshold: lowest score kept.

        Returns:
            boxes (K, 7), scores (K,), channels of the heat map (K,) int64; best score first.
        """
        columns = maps[0].shape[3]
        scores = maps[0].sigmoid().flatten()
        rows = (scores >= score_threshold).nonzero().squeeze(1)
        rows = rows[scores[rows].argsort(descending=True, stable=True)[: self.most_peaks]]
        area = maps[0].shape[2] * columns
        cell = rows % area
        centre, z, size, rot = [values[0].flatten(1)[:, cell] for values in maps[1:]]
        x = (cell % columns + centre[0]) * self.cell[0] + self.low[0]
        y = (cell // columns + centre[1]) * self.cell[1] + self.low[1]
        if self.logarithm:
            size = size.exp()
        yaw = torch.atan2(rot[0], rot[1]) if self.sine_first else torch.atan2(rot[1], rot[0])
        boxes = torch.cat((torch.stack((x, y, z[0])), size, yaw[None])).T
        within = ((boxes[:, :3] >= self.limits[:3]) & (boxes[:, :3] <= self.limits[3:])).all(1)
        boxes, rows = boxes[within], rows[within]
        return from_turned(boxes) if self.turned else boxes, scores[rows], rows // area


def thin(boxes: Tensor, radius_squared: float) -> Tensor:
    """Circle NMS.

    Args:
        boxes: (N, 7), best score first.
        radius_squared: m^2; of two boxes whose centres are at most this far apart, the later one is removed.

    Returns:
        (K,) int64 rows that are kept.
    """
    away = ((boxes[:, None, :2] - boxes[None, :, :2]) ** 2).sum(2)
    near = (away <= radius_squared).cpu()
    kept = torch.ones(boxes.shape[0], dtype=torch.bool)
    for i in range(boxes.shape[0] - 1):
        if bool(kept[i]):
            kept[i + 1 :] = kept[i + 1 :] & ~near[i, i + 1 :]
    return kept.to(boxes.device).nonzero().squeeze(1)
