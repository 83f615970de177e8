"""Find problems of a run and their remedies, for the verdict and the end of a replay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perception_rt.realtime.statistics import ANOTHER_CLOCK_NS
from perception_rt.replay.bag import Bag
from perception_rt.replay.report.box_statistics import (
    DETECTIONS,
    FUSED,
    BoxStatistics,
    read_box_statistics,
)
from perception_rt.replay.report.choose import sensors_of
from perception_rt.replay.warnings import MOSTLY, warnings_of

LEAST_FRAMES = 10
"""Minimum number of frames to judge ages and boxes."""
LEAST_EMPTY = 30
"""Minimum number of frames in a row without any box to report."""
SINGLE_A_FRAME, CROWDED = 2.0, 0.1
SHORT_NS, LEAST_SHORT = 500_000_000, 10
LEAST_FUSED = 20


def findings_of(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Return the findings of a run, one line each.

    Args:
        folder: the run; its `bag/` may be missing. metrics: content of metrics.json.

    Raises:
        CodecError: a message of boxes is malformed. BagError: the bag is damaged.
    """
    lines = [*warnings_of(metrics), *_old_outputs(metrics), *_health(metrics)]
    if (folder / "bag").is_dir():
        with Bag(folder / "bag") as outputs:
            lines += box_findings(read_box_statistics(outputs, metrics))
    return lines


def _old_outputs(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield cameras and lidars whose outputs are usually older than the sensor's period."""
    bag = metrics["bag"]
    offsets_s = bag.get("clock", {}).get("offsets_s", {})
    faults = bag.get("clock", {}).get("faults", {})
    for sensor in sensors_of(metrics):
        name = f"{sensor.node}: {sensor.topic}"
        age_ms, received = metrics["streams"][name]["age_ms"], metrics["streams"][name]["received"]
        if age_ms is None or received < LEAST_FRAMES or not bag["duration_s"] or sensor.topic in faults:
            continue
        period_ms = 1000 * bag["duration_s"] / received
        same_clock = abs(offsets_s.get(sensor.topic, 0.0)) * 1e9 <= ANOTHER_CLOCK_NS
        if same_clock and age_ms["p50"] > period_ms:
            yield (
                f"{name}: outputs are usually {age_ms['p50']:.0f} ms old when published, longer than the "
                f"sensor's period of {period_ms:.0f} ms: use a faster bundle or device"
            )


def _health(metrics: Mapping[str, Any]) -> Iterator[str]:
    for one in metrics.get("health", {}).get("findings", ()):
        end = "the end" if one["end_s"] is None else f"{one['end_s']:.1f} s"
        yield f"{one['sensor']}: {one['what']}, from {one['begin_s']:.1f} s to {end} ({one['level'].lower()})"


def box_findings(statistics: Mapping[str, BoxStatistics]) -> Iterator[str]:
    """Yield problems of detections, fused objects and tracks; the statistics are by topic."""
    seen = any(one.boxes for one in statistics.values() if one.kind == DETECTIONS)
    for topic, one in statistics.items():
        if one.kind == DETECTIONS:
            yield from _detections(topic, one)
        elif one.kind == FUSED:
            if seen and not one.matched and one.boxes >= LEAST_FUSED:
                yield (
                    f"{topic}: none of {one.boxes} objects was found by camera and lidar together: check "
                    "camera_info, /tf between the sensors, and their stamps"
                )
        else:
            yield from _tracks(topic, one)


def _detections(topic: str, one: BoxStatistics) -> Iterator[str]:
    if one.frames >= LEAST_EMPTY and not one.boxes:
        yield f"{topic}: no box in {one.frames} frames: check the classes, or lower the score threshold"
    if one.compared >= LEAST_FRAMES:
        single = one.single / one.compared
        if single >= SINGLE_A_FRAME and one.single >= MOSTLY * one.compared_boxes:
            boxes = one.compared_boxes / one.compared
            yield (
                f"{topic}: {boxes:.0f} boxes a frame, of which {single:.0f} live for one frame: raise the "
                "score threshold?"
            )
    if one.frames >= LEAST_FRAMES and one.crowded >= CROWDED * one.frames:
        yield (
            f"{topic}: up to {one.crowd} boxes on one object, three or more in {one.crowded} of {one.frames} "
            "frames: raise the score threshold, or lower the bundle's nms_threshold"
        )


def _tracks(topic: str, one: BoxStatistics) -> Iterator[str]:
    """Judge the ids that began at least `SHORT_NS` before the end."""
    judged = [last - first for first, last in one.lives_ns.values() if first <= one.end_ns - 2 * SHORT_NS]
    short = sum(life < SHORT_NS for life in judged)
    if short >= LEAST_SHORT and short >= MOSTLY * len(judged):
        span_s = (one.end_ns - one.begin_ns) / 1e9
        yield (
            f"{topic}: {len(judged)} ids in {span_s:.0f} s, of which {short} live for less than "
            f"{SHORT_NS / 1e9:g} s: raise the detector's score threshold, or check fixed_frame and /tf"
        )
