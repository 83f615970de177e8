"""Explanations of detections: the folder that holds them, and those of a replay."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from perception_rt.component.component import Component
from perception_rt.component.graph import class_of, read_graph
from perception_rt.component.parameters import resolve
from perception_rt.model.runtime import Runtime
from perception_rt.model.task import CLASSIFY, TASKS
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.lockstep.graph import overrides_of
from perception_rt.replay.message_types import header_stamp_ns
from perception_rt.replay.report.choose import DECODERS, SensorStream, sensors_of
from perception_rt.replay.report.explanations import EXPLAIN, EXPLANATIONS
from perception_rt.stage.explain.explain import Explanation, explain
from perception_rt.stage.explain.probe import Probe, Target, iou
from perception_rt.types import CodecError, ConfigError, ModelError

SAME_IOU = 0.5  # of a published box and the one that is found again
QUALITY = 90  # of the pictures


class Explained(NamedTuple):
    """An explanation and the frame that it belongs to.

    Attributes:
        name: of the picture, without suffix. source: file or topic. frame: number in the source.
        stamp_ns: of the frame; None of a file.
    """

    name: str
    source: str
    frame: int
    stamp_ns: int | None
    explanation: Explanation


class ExplanationFolder:
    """Writes explanations; `close` writes the JSON last, which marks a complete folder.

    Args:
        folder: to write to; created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.records: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EXPLANATIONS).unlink(missing_ok=True)

    def add(self, found: Explained, runtime: Any, node: str = "") -> dict[str, Any]:
        """Write the picture; return its record."""
        told, file = found.explanation, f"{found.name}.jpg"
        bgr = np.ascontiguousarray(told.picture[:, :, ::-1])
        cv2.imwrite(str(self._folder / file), bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        target, check, manifest = told.target, told.check, runtime.manifest
        record = {
            "picture": file,
            "bundle": manifest.name,
            "bundle_sha256": runtime.sha256,
            "engine": f"{runtime.choice.engine} {runtime.choice.program.precision}",
            "node": node,
            "source": found.source,
            "frame": found.frame,
            "stamp_ns": found.stamp_ns,
            "detection": target.number,
            "class": manifest.classes[target.label],
            "score": round(target.score, 4),
            "box": [round(float(value), 2) for value in target.box],
            "method": told.method,
            "calls": told.calls,
            "check": {
                "size": check.size,
                "share": round(check.share, 6),
                "marked": round(check.marked, 4),
                "random": [round(value, 4) for value in check.random],
                "near": [round(value, 4) for value in check.near],
                "holds": check.holds,
                "text": check.text("picture" if told.heat.ndim == 2 else "cloud"),
            },
        }
        self.records.append(record)
        return record

    def close(self) -> None:
        """Write the records."""
        part = self._folder / f"{EXPLANATIONS}.part"
        part.write_text(json.dumps({"records": self.records}, indent=1) + "\n")
        os.replace(part, self._folder / EXPLANATIONS)


def explain_run(
    out: Path,
    config: Path,
    overrides: Mapping[str, Mapping[str, Any]],
    bag: Bag,
    metrics: Mapping[str, Any],
    count: int,
) -> list[dict[str, Any]]:
    """Explain the most and the least confident detections of every detector of a replay.

    Args:
        out: the folder of the replay; `explain/` in it is written.
        config: the parameter file of the replay. overrides: parameters that took precedence, by node.
        bag: the recording.
        metrics: of the replay.
        count: number of detections of each sensor: the most confident one, then the least confident.

    Raises:
        BundleError, ConfigError: a bundle can no longer be opened.
    """
    folder = ExplanationFolder(out / EXPLAIN)
    with Bag(out / "bag") as outputs:
        for sensor in sensors_of(metrics):
            bundle = metrics["bundles"].get(sensor.node)
            if bundle is None or bundle["task"] == CLASSIFY.name or sensor.output not in outputs.topics:
                continue
            runtime = Runtime.open(_bundle(config, overrides, sensor.node), "cpu", threads=1)
            if runtime.sha256 != bundle["sha256"]:
                raise ConfigError(f"{sensor.node}: its bundle is not the one of the replay")
            for number, (stamp_ns, box, name) in enumerate(_chosen(outputs, sensor, count)):
                found = _explained(runtime, bag, sensor, stamp_ns, box, name, f"{_plain(sensor)}_{number}")
                if found is not None:
                    folder.add(found, runtime, sensor.node)
    folder.close()
    return folder.records


def _bundle(config: Path, overrides: Mapping[str, Mapping[str, Any]], path: str) -> str:
    """The bundle that a node of a parameter file runs."""
    node = next(node for node in read_graph(config) if node.path == path)
    component: type[Component] = class_of("perception_rt.component", node.name)
    given = {**node.inherited, **node.parameters, **overrides_of(node, overrides)}
    chosen = {key: value for key, value in given.items() if key == "bundle"}
    return str(resolve(component.PARAMETERS, chosen)["bundle"])


def _chosen(outputs: Bag, sensor: SensorStream, count: int) -> list[tuple[int, np.ndarray, str]]:
    """Return stamp, box and class of the most, then of the least confident detection, one per frame."""
    best: tuple[float, int, np.ndarray, str] | None = None
    weak: list[tuple[float, int, np.ndarray, str]] = []
    for message in outputs.messages([str(sensor.output)]):
        found = DECODERS[message.message_type](message.data)
        scores = found.detections.scores
        if not len(scores):
            continue
        boxes: Any = found.detections
        boxes = boxes.xyxy if sensor.is_camera else boxes.xyzlwh_yaw
        first, last = int(scores.argmax()), int(scores.argmin())
        rows = [
            (float(scores[row]), found.stamp_ns, boxes[row], found.classes[found.detections.labels[row]])
            for row in (first, last)
        ]
        best = rows[0] if best is None or rows[0][0] > best[0] else best
        weak.append(rows[1])
    weak.sort(key=lambda row: row[:2])
    chosen = [] if best is None else [best, *(row for row in weak if row[1] != best[1])]
    return [row[1:] for row in chosen[:count]]


def _explained(
    runtime: Any, bag: Bag, sensor: SensorStream, stamp_ns: int, box: np.ndarray, class_name: str, name: str
) -> Explained | None:
    """The explanation of a published box; None where it is not found again in the recorded message."""
    for frame, message in enumerate(bag.messages([sensor.topic])):
        if header_stamp_ns(message.data) != stamp_ns:
            continue
        data = TASKS[runtime.manifest.task].sensor_data(frame_of(message))
        try:
            probe = Probe(runtime, data)
            target = _same(probe.targets(), box, runtime.manifest.classes, class_name)
            if target is not None:
                return Explained(name, sensor.topic, frame, stamp_ns, explain(probe, target))
        except (ModelError, CodecError):
            return None
    return None


def _same(
    targets: Sequence[Target], box: np.ndarray, classes: Sequence[str], class_name: str
) -> Target | None:
    """The target that is a published box."""
    alike = [
        (float(iou(np.asarray(box, np.float32)[None], target.box[None])[0, 0]), target)
        for target in targets
        if classes[target.label] == class_name
    ]
    overlap, target = max(alike, key=lambda pair: pair[0], default=(0.0, None))
    return target if overlap >= SAME_IOU else None


def _plain(sensor: SensorStream) -> str:
    """A file name of a stream."""
    return f"{sensor.node}{sensor.topic}".strip("/").replace("/", "_")
