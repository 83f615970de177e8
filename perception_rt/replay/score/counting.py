"""Average precision, precision-recall curves and confidences of scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from perception_rt.replay.metrics import evaluate
from perception_rt.replay.metrics3d import Counted, Similarity, count_detections, iou_of_footprints
from perception_rt.replay.score.scene import ScoredScene
from perception_rt.types import Detections2D, Detections3D

CENTRE_M = 2.0
IOU_50 = 0  # of pycocotools' ten thresholds


class Precision(NamedTuple):
    """The scores of scenes.

    Attributes:
        figures: `{"ap50": .., "per_class": {name: {.., "truths": n}}}`; None without truth.
        curves: precision at recalls 0, 0.01 .. 1 and an IoU of 0.5, by class.
        confidences, hits: (D,) of all counted detections at an IoU of 0.5.
    """

    figures: dict
    curves: dict[str, list[float]]
    confidences: np.ndarray
    hits: np.ndarray


def precision_of(scenes: Sequence[ScoredScene], classes: Sequence[str], flat: bool) -> Precision:
    """Score scenes.

    In the image: AP at IoU 0.50 (`ap50`) and averaged over IoU 0.50:0.05:0.95 (`ap50_95`), by pycocotools;
    ignored truths are COCO crowd regions. In space: AP at a footprint IoU of 0.5 (`ap50`) and 0.7 (`ap70`),
    and for centres at most 2 m apart seen from above (`ap_2m`, as in nuScenes), also at 101 recalls.
    """
    return (_in_image if flat else _in_space)(scenes, classes)


def _in_image(scenes: Sequence[ScoredScene], classes: Sequence[str]) -> Precision:
    count = _truths(scenes, len(classes))
    if not count.any():
        return Precision(_figures({}, ("ap50", "ap50_95")), {}, np.zeros(0), np.zeros(0, bool))
    found = [scene.detections(Detections2D) for scene in scenes]
    truths, ignored = zip(*(_with_regions(scene, len(classes)) for scene in scenes), strict=True)
    evaluation = evaluate(truths, found, len(classes), ignored)
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    named = [(k, name) for k, name in enumerate(classes) if count[k]]
    rows = {
        name: {
            "ap50": float(precision[IOU_50, :, k].mean()),
            "ap50_95": float(precision[:, :, k].mean()),
            "truths": int(count[k]),
        }
        for k, name in named
    }
    curves = {name: precision[IOU_50, :, k].tolist() for k, name in named}
    of_interest = {k for k, _ in named}
    images = [image for image in evaluation.evalImgs if image and image["category_id"] in of_interest]
    judged = [~image["dtIgnore"][IOU_50].astype(bool) for image in images]
    scores = [np.array(image["dtScores"])[keep] for image, keep in zip(images, judged, strict=True)]
    hits = [image["dtMatches"][IOU_50][keep] > 0 for image, keep in zip(images, judged, strict=True)]
    return Precision(
        _figures(rows, ("ap50", "ap50_95")), curves, np.concatenate([[], *scores]), _joined(hits)
    )


def _with_regions(scene: ScoredScene, classes: int) -> tuple[Detections2D, np.ndarray]:
    """Return the truth plus the unlabelled regions for every class, and a mask of the regions."""
    truth, count = scene.truths(Detections2D), classes * len(scene.regions)
    boxes = np.concatenate([truth.xyxy, *[scene.regions.astype(np.float32)] * classes])
    labels = np.concatenate([truth.labels, np.repeat(np.arange(classes), len(scene.regions))])
    both = Detections2D(boxes, np.ones(len(boxes), np.float32), labels)
    return both, np.concatenate([scene.ignored, np.ones(count, bool)])


def _in_space(scenes: Sequence[ScoredScene], classes: Sequence[str]) -> Precision:
    truths = [scene.truths(Detections3D) for scene in scenes]
    found = [scene.detections(Detections3D) for scene in scenes]
    ignored, excused = [scene.ignored for scene in scenes], [scene.excused for scene in scenes]

    def counted(alike: Similarity, *thresholds: float) -> list[dict[str, Counted]]:
        return count_detections(truths, found, classes, alike, thresholds, ignored, excused)

    by_key = dict(zip(("ap50", "ap70"), counted(iou_of_footprints, 0.5, 0.7), strict=True))
    (by_key["ap_2m"],) = counted(closeness, float(_closeness(CENTRE_M)))
    at_half = by_key["ap50"]
    rows = {
        name: {key: float(each[name].precision.mean()) for key, each in by_key.items()}
        | {"truths": of.truths, "recall50": float(of.hits.sum() / of.truths)}
        for name, of in at_half.items()
    }
    curves = {name: of.precision.tolist() for name, of in at_half.items()}
    confidences = np.concatenate([[], *(of.scores for of in at_half.values())])
    return Precision(
        _figures(rows, tuple(by_key)), curves, confidences, _joined(of.hits for of in at_half.values())
    )


def closeness(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return (T, D) 1 / (1 + distance of centres seen from above, m) of (T, 7) and (D, 7) boxes."""
    return _closeness(np.linalg.norm(truth[:, None, :2] - found[None, :, :2], axis=2))


def _closeness(distance: np.ndarray | float) -> np.ndarray:
    return 1 / (1 + np.asarray(distance, np.float32))


def _joined(masks: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, bool), *masks])


def _truths(scenes: Sequence[ScoredScene], classes: int) -> np.ndarray:
    labels = [scene.labels[~scene.ignored] for scene in scenes]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=classes)


def _figures(rows: dict[str, dict], keys: Sequence[str]) -> dict:
    means = {key: float(np.mean([row[key] for row in rows.values()])) if rows else None for key in keys}
    return {**means, "per_class": rows}
