"""What a topic is asked to find: truth in the frame and the classes of its outputs."""

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
    """The truth of one moment beside what was found.

    Attributes:
        boxes: (T, 4 or 7) float64, in the frame of the output.
        labels: (T,) int64 into the scored classes. ids: (T,) int64, -1 where there is none.
        ignored: (T,) bool: need not be found.
        found: (D, 4 or 7) float64. scores: (D,) float32. found_labels: (D,) int64 into the scored classes.
        excused: (D,) bool: where it is nothing was labelled, so that it makes no error.
        rows: (D,) int64, of the detections in the output.
        regions: (R, 4) float64 xyxy of the image, px: nothing is labelled there.
        moment, output: what this is of; no output: nothing was found.
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
        """The truth as detections."""
        return kind(self.boxes.astype(np.float32), np.ones(len(self.boxes), np.float32), self.labels)

    def detections(self, kind: type[Boxes]) -> Boxes:
        """What was found, as detections."""
        return kind(self.found.astype(np.float32), self.scores, self.found_labels)


class Asker:
    """Asks one topic for one truth.

    Scored are the truth's classes that the topic knows. Truths of another class of the same group
    (`stage.road_users`) need not be found: a detector without vans may call one a car, or not.

    Args:
        known: the classes that the topic's models can name, any spelling; None: all.

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
        # By class of the truth that is not asked for: the scored ones that it may be taken for.
        self._alike = [
            [k for k, scored in enumerate(self.classes) if group(scored) == group(name)]
            for name in truth.classes
        ]

    def ask(self, moment: Moment, output: RecordedOutput | None) -> ScoredScene:
        """What an output (None: nothing was found) is asked of a moment.

        Raises:
            TransformError: the recording does not tell where the truth is in the output's frame.
        """
        found, scores, labels, rows = self._found(output, moment.boxes.shape[1])
        matrix = np.eye(4)
        if output is not None and not self.truth.flat:
            matrix = self.places.between(
                output.frame_id, output.stamp_ns, self.truth.frame_id, moment.stamp_ns
            )
        truth_rows, truth_labels, ignored = self._asked(moment)
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

    def _asked(self, moment: Moment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the truth, their scored labels, and which need not be found: once for each class it may
        be taken for."""
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
    """(N,) int64, each name's place among the scored ones; -1 where it is none."""
    return np.array([scored.index(name) if name in scored else -1 for name in names], np.int64)


def inside(xyxy: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N,) largest share of the area of (N, 4) boxes that lies in one of (R, 4) regions."""
    overlap = np.minimum(xyxy[:, None, 2:], regions[:, 2:]) - np.maximum(xyxy[:, None, :2], regions[:, :2])
    area = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(1), 1e-9)
    return (overlap.clip(min=0).prod(2) / area[:, None]).max(1, initial=0)


def unlabelled(boxes: np.ndarray, view: View, regions: np.ndarray) -> np.ndarray:
    """Which boxes in space lie where nothing was labelled.

    Args:
        boxes: (N, 7) xyzlwh_yaw in the truth's frame.
        view: what the camera sees. regions: (R, 4) xyxy of the image, px.

    Returns:
        (N,) bool: a corner is behind the camera, the centre is not in the image, or more than half of the
        box's picture is in a region.
    """
    corners = corners_bev(torch.from_numpy(boxes)).numpy().repeat(2, 1)  # (N, 8, 2)
    z = boxes[:, None, 2] + np.tile([-0.5, 0.5], 4) * boxes[:, None, 5]
    pixels, depth = view.calibration.project(np.dstack([corners, z]).reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8)
    middle, _ = view.calibration.project(boxes[:, :3])
    outside = ((middle < 0) | (middle >= np.array(view.size))).any(1)
    pictures = np.hstack([pixels.min(1), pixels.max(1)])
    return (depth <= 0).any(1) | outside | (inside(pictures, regions) > MOST_DONT_CARE)
