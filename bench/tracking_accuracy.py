"""Scores of the trackers on KITTI (in space) and TUD-Campus (in the image).

Parameters, one set a class, were chosen for the sequences of `TUNED` and the first half of TUD-Campus. The
other halves are held out, but not a blind test, as they were scored too in most trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import motmetrics
import numpy as np
import torch
from torchvision.ops import box_iou

from bench.image_accuracy import image_rows
from bench.image_sequences import pooled
from bench.kitti import ignored_in_image, read_detections
from bench.rows import Row, row
from perception_rt.replay.clear_mot import LEAST_IOU, Scene, Trajectories, score_scenes
from perception_rt.replay.kitti import Labels, read_tracking_labels
from perception_rt.replay.kitti_tracking import truth
from perception_rt.replay.mot import MotFrame, read_mot
from perception_rt.replay.score.hota import TrackFrame, hota
from perception_rt.replay.score.tracking import paired
from perception_rt.stage.tracking.config import TrackerConfig3D
from perception_rt.stage.tracking.presets import config_2d, config_3d
from perception_rt.stage.tracking.tracker import Tracker2D, Tracker3D
from perception_rt.types import Detections2D, Detections3D, Tracks

CLASSES = ("Car", "Pedestrian")
TUNED, HELD_OUT = ("0001", "0006", "0013"), ("0008", "0012", "0016")
KITTI_NAMES = (*TUNED, *HELD_OUT)
KITTI_HZ, TUD_HZ = 10, 25
# sAMOTA and MOTA, %, of AB3DMOT's tracks of the same detections (tuned half, held-out half, all), counted by
# `score_tracks`. Its own evaluation has the same MOTA, but 91.25 and 68.37 as sAMOTA of all: it averages
# means again for each threshold, and rounding then drops tracks at the very threshold that they set.
AB3DMOT = {
    "Car": ((92.83, 84.91), (91.84, 87.57), (92.65, 85.18)),
    "Pedestrian": ((77.88, 62.23), (69.57, 66.68), (71.85, 59.03)),
}
# HOTA, %, and fragments of the same tracks, of all six sequences, where MOTA is best.
AB3DMOT_MORE = {"Car": (67.41, 9), "Pedestrian": (48.16, 12)}
TUD_SPLIT = 36  # last frame of the first half

KITTI = config_3d(CLASSES, odometry=False)
TUD = config_2d(("pedestrian",))


def tracking_rows(data: Path) -> list[Row]:
    """Every score; `data` is the folder of the recordings."""
    return [
        *kitti_rows(data / "tracking_kitti"),
        *tud_rows(data / "tracking_mot15" / "TUD-Campus"),
        *image_rows(data),
    ]


def kitti_rows(folder: Path) -> list[Row]:
    """sAMOTA and CLEAR MOT at the best threshold of each class: both halves, then all six."""
    results = {name: kitti_scenes(folder, name, KITTI) for name in KITTI_NAMES}
    rows = []
    parts = {"tuned_half": TUNED, "held_out_half": HELD_OUT, "all": (*TUNED, *HELD_OUT)}
    for label, kind in enumerate(CLASSES):
        for (part, names), (samota, mota) in zip(parts.items(), AB3DMOT[kind], strict=True):
            scenes = [results[name][label] for name in names]
            score = score_scenes(scenes)
            best, prefix = score.best, f"tracking/kitti/{kind.lower()}/{part}"
            rows += [
                row(f"{prefix}/samota", 100 * score.samota, "%", f"> {samota}"),
                row(f"{prefix}/mota", 100 * best.mota, "%", f"> {mota}"),
                row(f"{prefix}/hota", hota_3d(scenes, score.threshold), "%"),
                row(f"{prefix}/id_switches", best.switches, "switches", "0"),
                row(f"{prefix}/fragments", best.fragments, "fragments"),
                row(f"{prefix}/false_positives", best.false_tracks, "boxes"),
                row(f"{prefix}/misses", best.misses, "boxes"),
            ]
    return rows


def kitti_scenes(folder: Path, name: str, config: TrackerConfig3D) -> list[Scene]:
    """Truth and tracks of each class."""
    labels = read_tracking_labels(folder / "label" / f"{name}.txt")
    frames = kitti_detections(folder, name, max(labels))
    tracker = Tracker3D(config)
    tracked = [tracker.update(index * 10**9 // KITTI_HZ, found) for index, (found, _) in enumerate(frames)]
    tracks = _kitti_tracks(tracked, [xyxy for _, xyxy in frames], labels)
    return [Scene(truth(labels, kind), tracks[label]) for label, kind in enumerate(CLASSES)]


def hota_3d(scenes: Sequence[Scene], threshold: float) -> float:
    """HOTA, %, over IoU of volumes, of tracks of at least that mean confidence.

    What is ignored is left out as in CLEAR MOT: truths, tracks paired with them, and ignored tracks alone.
    """
    parts = []
    for scene in scenes:
        true, tracks = scene.truth, scene.tracks
        overlaps = {int(true.frames[i[0]]): iou for i, _, iou in scene.frames}
        frames = []
        for frame in np.union1d(true.frames, tracks.frames).tolist():
            i, j = (np.arange(*np.searchsorted(of.frames, (frame, frame + 1))) for of in (true, tracks))
            iou = overlaps.get(frame, np.zeros((len(i), len(j))))
            kept = scene.confidence[j] >= threshold
            j, iou = j[kept], iou[:, kept]
            rows, columns = paired(iou, LEAST_IOU)
            gone, needed = tracks.ignored[j].copy(), ~true.ignored[i]
            gone[columns] = ~needed[rows]
            frames.append(TrackFrame(true.ids[i][needed], tracks.ids[j][~gone], iou[needed][:, ~gone]))
        parts.append(frames)
    return 100 * hota(pooled(parts)).hota


def kitti_detections(folder: Path, name: str, last: int) -> list[tuple[Detections3D, np.ndarray]]:
    """PointRCNN's detections of both classes in frames 0 to `last`, and their (N, 4) boxes in the image."""
    by_class = [
        read_detections(folder / f"pointrcnn_{kind}" / f"{name}.txt", label)
        for label, kind in enumerate(CLASSES)
    ]
    nothing = Detections3D.empty(), np.zeros((0, 4), np.float32)
    frames = []
    for frame in range(last + 1):
        parts = [found.get(frame, nothing) for found in by_class]
        joined = {
            field: np.concatenate([getattr(part, field) for part, _ in parts])
            for field in Detections3D.__slots__
        }
        frames.append((Detections3D(**joined), np.concatenate([xyxy for _, xyxy in parts])))
    return frames


def _kitti_tracks(
    tracked: Sequence[Tracks], images: Sequence[np.ndarray], labels: dict[int, Labels]
) -> list[Trajectories]:
    """Tracks of each class; one without a detection keeps its last box in the image, as AB3DMOT's do."""
    last_seen: dict[int, np.ndarray] = {}
    ignored = []
    for frame, (tracks, xyxy) in enumerate(zip(tracked, images, strict=True)):
        last_seen |= {
            key: xyxy[at] for key, at in zip(tracks.ids.tolist(), tracks.detection, strict=True) if at >= 0
        }
        boxes = np.array([last_seen[key] for key in tracks.ids.tolist()]).reshape(-1, 4)
        ignored.append(ignored_in_image(boxes, labels.get(frame)))
    frames = np.repeat(np.arange(len(tracked)), [len(tracks) for tracks in tracked])
    columns = [
        np.concatenate([getattr(tracks, name) for tracks in tracked])
        for name in ("ids", "xyzlwh_yaw", "scores", "labels")
    ]
    ids, boxes, scores, kinds = columns
    rows = [kinds == label for label in range(len(CLASSES))]
    log_odds = _log_odds(scores)
    return [
        Trajectories(frames[at], ids[at], boxes[at], np.concatenate(ignored)[at], log_odds[at]) for at in rows
    ]


def _log_odds(scores: np.ndarray) -> np.ndarray:
    """The scale of PointRCNN's confidences, which the protocol averages along each track."""
    p = scores.astype(np.float64).clip(1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def tud_rows(folder: Path) -> list[Row]:
    """CLEAR MOT of TUD-Campus as py-motmetrics counts it at IoU 0.5: both halves, each by itself, and all."""
    detections, truths = read_mot(folder / "det.txt"), read_mot(folder / "gt.txt")
    last = max(truths)
    parts = {"tuned_half": (1, TUD_SPLIT), "held_out_half": (TUD_SPLIT + 1, last), "all": (1, last)}
    rows = []
    for part, (first, final) in parts.items():
        score = _clear_mot([(detections[frame], truths[frame]) for frame in range(first, final + 1)])
        prefix, whole = f"tracking/tud_campus/{part}", part == "all"
        rows += [
            row(f"{prefix}/mota", 100 * score["mota"], "%", ">= 64" if whole else ""),
            row(f"{prefix}/id_switches", int(score["num_switches"]), "switches", "<= 4" if whole else ""),
            row(f"{prefix}/false_positives", int(score["num_false_positives"]), "boxes"),
            row(f"{prefix}/misses", int(score["num_misses"]), "boxes"),
        ]
    return rows


def _clear_mot(frames: Sequence[tuple[MotFrame, MotFrame]]) -> dict[str, float]:
    """py-motmetrics' counts of tracks of the detections against the truth, (detections, truth) a frame."""
    tracker, counter = Tracker2D(TUD), motmetrics.MOTAccumulator(auto_id=True)
    for index, (found, true) in enumerate(frames):
        detections = Detections2D(found.xyxy, found.scores, np.zeros(len(found.scores), np.int64))
        tracks = tracker.update(index * 10**9 // TUD_HZ, detections)
        distance = 1 - box_iou(torch.from_numpy(true.xyxy), torch.from_numpy(tracks.xyxy)).numpy()
        counter.update(true.ids, tracks.ids, np.where(distance > 0.5, np.nan, distance))
    metrics = ["mota", "num_switches", "num_false_positives", "num_misses"]
    return motmetrics.metrics.create().compute(counter, metrics=metrics).iloc[0].to_dict()
