"""Scores of the node's 2D tracker on real sequences, beside SORT's on the same boxes.

The settings were chosen on these fourteen sequences, so the figures are tuned.
"""

from __future__ import annotations

from pathlib import Path

from bench.image_sequences import ImageSequence, image_sequences, pooled, score_image_tracks
from bench.rows import Row, row
from bench.sort import Sort
from perception_rt.replay.score.hota import TrackFrame
from perception_rt.stage.tracking.config import TrackerConfig2D
from perception_rt.stage.tracking.presets import config_2d
from perception_rt.stage.tracking.tracker import Tracker2D

# The best of ByteTrack and OC-SORT of PyPI's `trackers` 2.6.1 with their defaults, scored by the same code.
PEERS = {"hota": 56.41, "idf1": 65.15, "mota": 50.65}


def image_rows(data: Path) -> list[Row]:
    """Return MOTA of each sequence and the scores of all; `data` is the folder of the recordings."""
    sequences = image_sequences(data)
    ours, sort = ([track(s) for s in sequences] for track in (track_with_defaults, track_with_sort))
    rows = []
    for sequence, mine, other in zip(sequences, ours, sort, strict=True):
        score, baseline = score_image_tracks(mine), score_image_tracks(other)
        if score.truths:
            target = f">= {baseline.mota - 1:.2f}, SORT's less 1"
            rows.append(row(f"tracking/image/{sequence.name}/mota", score.mota, "%", target))
    score, baseline = score_image_tracks(pooled(ours)), score_image_tracks(pooled(sort))
    for name, peer in PEERS.items():
        target = max(peer, getattr(baseline, name))
        text = f"> {target:.2f} of the best of SORT, ByteTrack and OC-SORT"
        rows.append(row(f"tracking/image/pooled/{name}", float(getattr(score, name)), "%", text))
    return rows


def track_with_defaults(sequence: ImageSequence) -> list[TrackFrame]:
    """Return the tracks of a sequence with the node's settings."""
    return track_with(sequence, config_2d((sequence.class_name,)))


def track_with(sequence: ImageSequence, config: TrackerConfig2D) -> list[TrackFrame]:
    """Return the tracks of a tracker on a sequence."""
    tracker, found = Tracker2D(config), []
    for number, frame in enumerate(sequence.frames):
        tracks = tracker.update(number * 10**9 // sequence.hz, frame.detections)
        found.append(frame.followed(tracks.ids, tracks.xyxy))
    return found


def track_with_sort(sequence: ImageSequence) -> list[TrackFrame]:
    """Return the tracks of SORT on a sequence."""
    tracker = Sort()
    return [frame.followed(*tracker.update(frame.detections.xyxy)) for frame in sequence.frames]
