"""YOLOv8, 9, 10, 11, 12 and 26, YOLOv5u: boxes, and with them keypoints or an angle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    Match,
    Preset,
    Signature,
    above,
    are_scores,
    cell_count,
    cxcywh_to_xyxy,
    fits,
)
from perception_rt.model.task import SEGMENT

TASKS = {
    "detect": "none",
    "pose": "keypoints",
    "obb": "theta",
    SEGMENT.name: "masks",
}  # as Ultralytics names them


class YoloV8:
    """The outputs of Ultralytics' exports.

    ``grid``: (1, 4 + C + E, A), cx cy w h in px, class scores after their sigmoid, E values more. ``rows``,
    end-to-end or with NMS inside: (1, R, 6 + E), x1 y1 x2 y2 (oriented: cx cy w h) in px, score, label, E.

    Args:
        spec: of the bundle's input.
        classes: C.
        layout: ``grid`` or ``rows``.
        extra: what the E values are: ``none``, ``keypoints``, ``theta`` (rad) or ``masks`` (left out here;
            `perception_rt.model.decoders.masks.YoloV8Seg` takes them).
        keypoints: their number, and 2 (x y) or 3 (x y visibility) values of each.

    Raises:
        ValueError: an unknown layout or extra.
    """

    preset = Preset("letterbox", "bilinear", "rgb", 0.25, 0.7)  # the default of `yolo predict`

    def __init__(
        self,
        spec: Any,
        classes: int,
        layout: str = "grid",
        extra: str = "none",
        keypoints: Sequence[int] = (0, 0),
    ) -> None:
        fits(layout in ("grid", "rows"), f"layout={layout!r}: must be grid or rows")
        fits(extra in TASKS.values(), f"extra={extra!r}: must be one of {', '.join(TASKS.values())}")
        if extra == "keypoints":
            valid = len(keypoints) == 2 and keypoints[0] >= 1 and keypoints[1] in (2, 3)
            fits(valid, f"keypoints={list(keypoints)}: must be their number and 2 or 3")
        self.needs_nms = layout == "grid"
        self._classes, self._rows, self._extra = classes, layout == "rows", extra
        self._keypoints = tuple(keypoints)

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        table = outputs[0][0].float()
        first = 6 if self._rows else 4 + self._classes
        table = table if self._rows else table.t()
        fits(table.ndim == 2 and table.shape[1] >= first, f"yolov8 takes {first} values a box or more")
        if self._rows:
            scores, labels = table[:, 4], table[:, 5].long()
        else:
            scores, labels = table[:, 4:first].max(1)
        rows, scores, labels = above(scores, labels, score_threshold)
        table = table[rows]
        centred = not self._rows or self._extra == "theta"
        boxes = cxcywh_to_xyxy(table) if centred else table[:, :4]
        return Candidates(boxes, scores, labels, self._extras(table[:, first:]))

    def _extras(self, rest: Tensor) -> dict[str, Tensor]:
        if self._extra == "theta":
            return {"theta": rest[:, 0]}
        if self._extra != "keypoints":
            return {}
        count, values = self._keypoints
        points = rest[:, : count * values].reshape(len(rest), count, values)
        if values == 2:  # without visibility: seen
            points = torch.cat([points, torch.ones_like(points[..., :1])], -1)
        return {"keypoints": points}

    def class_count(self, outputs: list[Tensor]) -> int | None:
        """How many classes this output holds; None where the output does not tell."""
        return None if self._rows else self._classes

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise Ultralytics' metadata, or the shapes of its outputs."""
        task = network.metadata.get("task")
        if task is not None and task not in TASKS:
            return None
        if task is None and ("names" in network.metadata and "stride" in network.metadata):
            return None  # YOLOv5 writes these two alone
        if "rtdetr" in network.metadata.get("description", "").lower():
            return None
        return _by_metadata(network, task) if task else _by_shapes(network)


def _by_metadata(network: Signature, task: str) -> Match | None:
    first, extra = network.outputs[0], TASKS[task]
    if first.ndim != 3:
        return None
    parameters: dict[str, Any] = {"extra": extra}
    if extra == "keypoints":
        parameters["keypoints"] = json.loads(network.metadata.get("kpt_shape", "[17, 3]"))
    elif extra == "masks":
        masks = network.outputs[1].shape[1] if len(network.outputs) > 1 else 32
    widths = {"none": 0, "theta": 1, "masks": masks if extra == "masks" else 0}
    width = widths.get(extra, 0)
    if extra == "keypoints":
        width = parameters["keypoints"][0] * parameters["keypoints"][1]
    why, by = f"metadata: Ultralytics, task {task}", "given" if extra == "masks" else "metadata"
    cells = cell_count(network.input_size, (8, 16, 32))
    if first.shape[2] == 6 + width and first.shape[1] != network.classes and first.shape[2] != cells:
        parameters |= {"layout": "rows", "classes": network.classes or 0}
        return Match(by, f"{why}, NMS inside or end-to-end", parameters, network.names[:1])
    parameters["classes"] = first.shape[1] - 4 - width
    return Match(by, why, parameters, network.names[:1])


def _by_shapes(network: Signature) -> Match | None:
    first, name = network.outputs[0], network.names[:1]
    if first.ndim != 3 or "labels" in network.names:
        return None
    shape = f"output {name[0]} {tuple(first.shape)}"
    masks = 0
    if len(network.outputs) == 2 and network.outputs[1].ndim == 4:
        masks = network.outputs[1].shape[1]
    elif len(network.outputs) != 1:
        return None
    extra, by = ("masks", "given") if masks else ("none", "shapes")
    if first.shape[2] == 6 + masks and are_scores(first[..., 4]):
        labels = first[..., 5]
        if bool((labels == labels.round()).all()) and float(labels.min()) >= 0:
            rows = {"layout": "rows", "classes": network.classes or 0, "extra": extra}
            return Match(by, f"{shape} is rows of box, score, label", rows, name)
    classes = first.shape[1] - 4 - masks
    if classes < 1 or not are_scores(first[:, 4 : 4 + classes]) or are_scores(first[:, :4]):
        return None
    parameters = {"classes": classes, "extra": extra}
    return Match(by, f"{shape} is cx cy w h in px and {classes} class scores", parameters, name)
