"""Prepare the pictures of chosen moments, one strip per sensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from perception_rt.replay.bag import Bag
from perception_rt.replay.report.choose import MomentChoice, SensorStream, choose, sensors_of
from perception_rt.replay.report.ledger import OUTCOMES, LedgerView
from perception_rt.replay.report.pictures import pictures_of
from perception_rt.replay.report.quality import judge_answers
from perception_rt.replay.report.scenes import ReportScene, SceneReader
from perception_rt.replay.score import Truth

RULE = (
    "A good and a bad frame from each part of the run, then the output with the greatest age and examples "
    "of lost messages for each outcome. Seconds are relative to the first arrival."
)
_BY_TRUTH = "Ranked by the F1 score of the frame's boxes. Ground truth is outlined in white."
_BY_CONFIDENCE = "Ranked by the mean confidence of the frame's boxes, as there is no ground truth."
_MOST_PICTURES = 40


def picture_strips(
    folder: Path, bag: Path, metrics: Mapping, view: LedgerView, truths: Sequence[Truth]
) -> list[dict[str, object]]:
    """Return the picture strips of every camera and lidar.

    Args:
        folder: folder of the run. bag: the recording. metrics, view: metrics and ledger of the run.
        truths: ground truth of the scores.

    Raises:
        BagError: a bag cannot be opened.
    """
    sensors = [sensor for sensor in sensors_of(metrics) if f"{sensor.node}: {sensor.topic}" in view.streams]
    if not sensors:
        return []
    with ExitStack() as stack:
        recording = stack.enter_context(Bag(bag, salvage=True))
        recording.retime(metrics["bag"].get("clock", {}).get("behind_ns", {}))
        outputs = stack.enter_context(Bag(folder / "bag"))
        reader = SceneReader(recording, outputs, metrics)
        parts = max(1, min(2, _MOST_PICTURES // len(sensors) // 4))
        strips = []
        for sensor in sensors:
            judged = None
            if truths and sensor.output is not None and sensor.output in metrics["scores"]:
                judged = judge_answers(recording, outputs, sensor.output, metrics["scores"], truths)
            choices = choose(view, outputs, sensor, parts, judged)
            strips.append(
                _strip(reader, sensor, choices, view, _BY_CONFIDENCE if judged is None else _BY_TRUTH)
            )
        return strips


def _strip(
    reader: SceneReader, sensor: SensorStream, choices: Sequence[MomentChoice], view: LedgerView, rule: str
) -> dict[str, object]:
    shown = [_shown(reader.read(sensor, choice), view) for choice in choices]
    told = {"node": sensor.node, "topic": sensor.topic, "is_camera": sensor.is_camera}
    return told | {"rule": rule, "shown": shown}


def _shown(scene: ReportScene, view: LedgerView) -> dict[str, object]:
    choice = scene.choice
    at_ns = choice.near_ns if choice.stamp_ns is None else choice.stamp_ns
    at_s = max(at_ns - view.start_ns, 0) / 1e9
    outcome = choice.why.replace(" ", "_")
    return {
        "title": f"{choice.why[:1].upper()}{choice.why[1:]}, at {at_s:.2f} s",
        "at_ms": round(at_s * 1000),
        "outcome": outcome if outcome in OUTCOMES else "",
        "pictures": pictures_of(scene),
        "caption": "; ".join((choice.detail, *_drawn(scene), *scene.missing)),
    }


def _drawn(scene: ReportScene) -> Iterator[str]:
    """Return the topic whose boxes a lidar picture shows; it may belong to another node."""
    if scene.camera is not None:
        yield f"in the image {scene.camera[1].source}"
    if scene.objects is not None:
        yield f"from above {scene.objects.source}"
