"""Pictures of chosen moments, a strip a sensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from perception_rt.replay.bag import Bag
from perception_rt.replay.report.choose import Choice, Sensor, choose, sensors_of
from perception_rt.replay.report.ledger import FATES, LedgerView
from perception_rt.replay.report.pictures import pictures_of
from perception_rt.replay.report.scenes import Scene, SceneReader

RULE = (
    "Of each part of the run, the frame whose boxes are on average the surest, and the least sure: what the "
    "model thinks of itself, not what is true. Then the answer that was the oldest when published, and "
    "messages that were not answered, of every fate that occurs. Seconds count from the run's first arrival."
)
_MOST_PICTURES = 40


def picture_strips(folder: Path, bag: Path, metrics: Mapping, view: LedgerView) -> list[dict[str, object]]:
    """What the page shows of every camera and lidar.

    Raises:
        BagError: a bag cannot be opened.
    """
    sensors = [sensor for sensor in sensors_of(metrics) if f"{sensor.node}: {sensor.topic}" in view.streams]
    if not sensors:
        return []
    with ExitStack() as stack:
        recording = stack.enter_context(Bag(bag))
        outputs = stack.enter_context(Bag(folder / "bag"))
        reader = SceneReader(recording, outputs, metrics)
        parts = max(1, min(2, _MOST_PICTURES // len(sensors) // 4))
        return [_strip(reader, sensor, choose(view, outputs, sensor, parts), view) for sensor in sensors]


def _strip(
    reader: SceneReader, sensor: Sensor, choices: Sequence[Choice], view: LedgerView
) -> dict[str, object]:
    shown = [_shown(reader.read(sensor, choice), view) for choice in choices]
    return {"node": sensor.node, "topic": sensor.topic, "is_camera": sensor.is_camera, "shown": shown}


def _shown(scene: Scene, view: LedgerView) -> dict[str, object]:
    choice = scene.choice
    at_s = ((choice.near_ns if choice.stamp_ns is None else choice.stamp_ns) - view.start_ns) / 1e9
    fate = choice.why.replace(" ", "_")
    return {
        "title": f"{choice.why[:1].upper()}{choice.why[1:]}, at {at_s:.2f} s",
        "fate": fate if fate in FATES else "",
        "pictures": pictures_of(scene),
        "caption": "; ".join((choice.detail, *scene.missing)),
    }
