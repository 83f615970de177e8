"""Pair the truth with outputs, in the frame and the classes of the outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception_rt.codec.detection_array import Boxes
from perception_rt.model.boxes3d import corners_bev
from perception_rt.replay.kitti_tracking import MOST_DONT_CARE
from perception_rt.replay.score.outputs import Outputs, RecordedOutput
from perception_rt.replay.score.places import Places, moved
from perception_rt.replay.score.truth import BoxTruth, Moment, View
from perception_rt.stage.road_users import canonical, group
from perception_rt.stage.transforms import inverse


@dataclass(frozen=True, slots=True, eq=False)
class ScoredScene:
    """The truth of one moment and the detections to score.

    Attributes:
        boxes: (T, 4 or 7) float64, in the frame of the output.
        labels: (T,) int64, indices of the scored classes. ids: (T,) int64, -1 for none.
        ignored: (T,) bool: neither a miss nor a hit.
        found: (D, 4 or 7) float64. scores: (D,) float32. found_labels: (D,) int64, as `labels`.
        excused: (D,) bool: in an unlabelled area, so that it is no false positive.
        rows: (D,) int64, indices of the detections in the output.
        regions: (R, 4) float64 xyxy, px: unlabelled regions of the image.
        moment, output: the source of truth and detections; without output nothing was found.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    scores: np.ndarray
    found_labels: np.ndarray
    excused: np.ndarray
    rows: np.ndarray
    regions: np.ndarray
    moment: Moment
    output: RecordedOutput | None

    def truths(self, kind: type[Boxes]) -> Boxes:
        """Return the truth as detections."""
        return kind(self.boxes.astype(np.float32), np.ones(len(self.boxes), np.float32), self.labels)

    def detections(self, kind: type[Boxes]) -> Boxes:
        """Return the scored detections."""
        return kind(self.found.astype(np.float32), self.scores, self.found_labels)


class SceneBuilder:
    """Build the scenes that compare one topic with one truth.

    Only classes of the truth that the topic can detect are scored. Truths of another class of the same group
    (`stage.road_users`) are ignored: a detector without the class van may or may not report a car.

    Args:
        known: the classes that the topic's models can detect, in any spelling; None for all.

    Attributes:
        classes: the canonical names that are scored, sorted.
    """

    def __init__(
        self, truth: BoxTruth, outputs: Outputs, known: Collection[str] | None, places: Places
    ) -> None:
        names = set(truth.classes)
        if known is not None:
            names &= {canonical(name) for name in known}
        self.truth, self.places = truth, places
        self.classes = sorted(names)
        self._of_truth = _index(truth.classes, self.classes)
        self._of_found = _index(outputs.classes, self.classes)
        # For each class of the truth that is not scored, the scored classes of its group.
        self._alike = [
            [k for k, scored in enumerate(self.classes) if group(scored) == group(name)]
            for name in truth.classes
        ]

    def build(self, moment: Moment, output: RecordedOutput | None) -> ScoredScene:
        """Return the scene of a moment and an output; None means that nothing was found.

        Raises:
            TransformError: the transform from the truth's to the output's frame is not known.
        """
        found, scores, labels, rows = self._found(output, moment.boxes.shape[1])
        matrix = np.eye(4)
        if output is not None and not self.truth.flat:
            matrix = self.places.between(
                output.frame_id, output.stamp_ns, self.truth.frame_id, moment.stamp_ns
            )
        truth_rows, truth_labels, ignored = self._scored_truth(moment)
        boxes = moment.boxes[truth_rows] if self.truth.flat else moved(matrix, moment.boxes[truth_rows])
        excused = np.zeros(len(found), bool)
        if self.truth.flat:
            high = found[:, 3] - found[:, 1] > self.truth.least_height
            found, scores, labels, rows = found[high], scores[high], labels[high], rows[high]
            excused = inside(found, moment.regions) > MOST_DONT_CARE
        elif self.truth.view is not None and len(found):
            excused = unlabelled(moved(inverse(matrix), found), self.truth.view, moment.regions)
        return ScoredScene(
            boxes,
            truth_labels,
            moment.ids[truth_rows],
            ignored,
            found,
            scores,
            labels,
            excused,
            rows,
            moment.regions,
            moment,
            output,
        )

    def _found(
        self, output: RecordedOutput | None, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        if output is None:
            nothing = np.zeros(0, np.int64)
            return np.zeros((0, width)), np.zeros(0, np.float32), nothing, nothing
        labels = self._of_found[output.labels]
        rows = np.flatnonzero(labels >= 0)
        return output.boxes[rows], output.scores[rows], labels[rows], rows

    def _scored_truth(self, moment: Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows of the truth, their labels and a mask of ignored ones, once for each possible class."""
        asked: list[tuple[int, int, bool]] = []
        for row, (label, skip) in enumerate(
            zip(moment.labels.tolist(), moment.ignored.tolist(), strict=True)
        ):
            own = int(self._of_truth[label])
            if own >= 0:
                asked.append((row, own, skip))
                continue
            asked += [(row, alike, True) for alike in self._alike[label]]
        columns = np.array(asked, np.int64).reshape(-1, 3).T
        return columns[0], columns[1], columns[2].astype(bool)


def _index(names: Sequence[str], scored: Sequence[str]) -> np.ndarray:
    """Return (N,) int64, the index of each name in `scored`; -1 if absent."""
    return np.array([scored.index(name) if name in scored else -1 for name in names], np.int64)


def inside(xyxy: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return (N,) the largest share of each (N, 4) box's area inside one of (R, 4) regions."""
    overlap = np.minimum(xyxy[:, None, 2:], regions[:, 2:]) - np.maximum(xyxy[:, None, :2], regions[:, :2])
    area = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(1), 1e-9)
    return (overlap.clip(min=0).prod(2) / area[:, None]).max(1, initial=0)


def unlabelled(boxes: np.ndarray, view: View, regions: np.ndarray) -> np.ndarray:
    """Return which boxes in space are in an unlabelled area.

    Args:
        boxes: (N, 7) xyzlwh_yaw in the truth's frame.
        view: the camera's view. regions: (R, 4) xyxy of the image, px.

    Returns:
        (N,) bool: a corner is behind the camera, the centre is outside the image, or more than half of the
        projected box is in a region.
    """
    corners = corners_bev(torch.from_numpy(boxes)).numpy().repeat(2, 1)  # (N, 8, 2)
    z = boxes[:, None, 2] + np.tile([-0.5, 0.5], 4) * boxes[:, None, 5]
    pixels, depth = view.calibration.project(np.dstack([corners, z]).reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8)
    middle, _ = view.calibration.project(boxes[:, :3])
    outside = ((middle < 0) | (middle >= np.array(view.size))).any(1)
    pictures = np.hstack([pixels.min(1), pixels.max(1)])
    return (depth <= 0).any(1) | outside | (inside(pictures, regions) > MOST_DONT_CARE)
