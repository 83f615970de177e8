"""A small replay's folder for tests: real detectors on a recording, the formats as the replay writes them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from perception_rt.codec import Detection3DEncoder, DetectionEncoder
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.vehicle import pose_covariance
from perception_rt.model.runtime import Runtime
from perception_rt.realtime.ledger import Outcome
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.report.ledger import STAGES
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.tracking.object_tracking import ObjectTracking3D, boxes_of
from test.drives import typestore

COLUMNS = (
    "node", "topic", "number", "arrival_ns", "stamp_ns", "wait_ms", "decode_ms", "infer_ms", "publish_ms",
    "ended_ns", "age_ms", "outcome", "reason",
)  # fmt: skip
CAMERA, LIDAR, TRACKER = "/camera_detector", "/lidar_detector", "/object_tracker"
ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
BUNDLES = {CAMERA: "sim_camera", LIDAR: "bev_cluster"}
Output = tuple[str, str, str, int, bytes]  # node, topic, type, log time in ns, message


def make_run(folder: Path, bag: Path, image: str, points: str) -> Path:
    """Detect and track in every second message of a recording, and record all outcomes.

    Args:
        folder: of the run; made here. bag: the recording. image, points: its topics.
    """
    folder.mkdir(parents=True)
    rows: list[dict] = []
    with Bag(bag) as recording:
        outputs = sorted(_outputs(recording, image, points, rows), key=lambda output: output[3])
        topics, duration_s = recording.topics, recording.duration_s
    _write_bag(folder / "bag", outputs)
    write_ledger(folder / "ledger.csv", rows)
    used = {image: [CAMERA], points: [LIDAR]}
    metrics = {
        "format": 1,
        "streams": streams_of(rows),
        "bag": {
            "duration_s": duration_s,
            "messages": sum(count for _, count in topics.values()),
            "topics": {
                t: {"type": k, "messages": n, "used_by": used.get(t, [])} for t, (k, n) in topics.items()
            },
            "missing_topics": {},
            "unreadable": {"messages": 0, "reasons": {}},
            "faults": {},
        },
        "bundles": {node: _bundle(name) for node, name in BUNDLES.items()},
        "outputs": _described(outputs),
        "scores": {},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def _bundle(name: str) -> dict:
    manifest = Runtime.open(name, device="cpu").manifest
    told = {"name": name, "task": manifest.task, "sha256": manifest.sha256}
    return told | {"classes": list(manifest.classes)}


def _outputs(recording: Bag, image: str, points: str, rows: list[dict]) -> Iterator[Output]:
    """Run the detectors and the tracker; a row of the ledger for every message."""
    cameras, lidars = (Runtime.open(BUNDLES[node], device="cpu") for node in (CAMERA, LIDAR))
    tracking = ObjectTracking3D(3.0, 0.5, odometry=False)
    counts: Counter[str] = Counter()
    for message in recording.messages([image, points]):
        frame, number = frame_of(message), counts[message.topic]
        counts[message.topic] += 1
        node = CAMERA if message.topic == image else LIDAR
        if number % 4 == 3:
            rows.append(
                row(node, message.topic, number, message.log_ns, frame.stamp_ns, Outcome.SUPERSEDED, None)
            )
            continue
        published_ns = message.log_ns + 20_000_000 + number * 1_000_000
        rows.append(
            row(node, message.topic, number, message.log_ns, frame.stamp_ns, Outcome.PUBLISHED, published_ns)
        )
        if node == CAMERA:
            found = detect2d(cameras, [frame])[0]
            data = DetectionEncoder(cameras.manifest.classes).encode(found, frame.stamp_ns, frame.frame_id)
            yield CAMERA, f"{CAMERA}/detections", ARRAY_2D, published_ns, data
            continue
        found, classes = detect3d(lidars, frame), lidars.manifest.classes
        data = Detection3DEncoder(classes).encode(found, frame.stamp_ns, frame.frame_id)
        yield LIDAR, f"{LIDAR}/detections", ARRAY_3D, published_ns, data
        named = NamedDetections(frame.stamp_ns, frame.frame_id, found, [""] * len(found), tuple(classes))
        yield from _tracked(tracking, named, published_ns + 2_000_000)


def _tracked(tracking: ObjectTracking3D, message: NamedDetections, published_ns: int) -> Iterator[Output]:
    tracks, predictions = tracking.update(message, None)
    encoder, stamp_ns, frame_id = (
        Detection3DEncoder(tracking.classes.slots),
        message.stamp_ns,
        message.frame_id,
    )
    ids = [str(id_) for id_ in tracks.ids]
    found = message.detections[:0].__class__(tracks.xyzlwh_yaw, tracks.scores, tracks.labels)
    yield TRACKER, f"{TRACKER}/tracks", ARRAY_3D, published_ns, encoder.encode(found, stamp_ns, frame_id, ids)
    ahead, stamps, covariances = boxes_of(predictions, tracks)
    repeated = [id_ for id_ in ids for _ in predictions.stamps_ns]
    data = encoder.encode(
        ahead,
        stamp_ns,
        frame_id,
        repeated,
        covariances=pose_covariance(covariances),
        stamps_ns=stamps.tolist(),
    )
    yield TRACKER, f"{TRACKER}/predictions", ARRAY_3D, published_ns, data


def row(
    node: str,
    topic: str,
    number: int,
    arrival_ns: int,
    stamp_ns: int | None,
    outcome: Outcome,
    published_ns: int | None,
) -> dict:
    """A row of the ledger; what has no publish time is lost 40 ms after it came."""
    made = dict.fromkeys(COLUMNS, "") | {
        "node": node,
        "topic": topic,
        "number": number,
        "arrival_ns": arrival_ns,
        "stamp_ns": "" if stamp_ns is None else stamp_ns,
        "ended_ns": arrival_ns + 40_000_000 if published_ns is None else published_ns,
        "outcome": outcome.value,
        "reason": "" if published_ns is not None else f"message {number + 1} came before its turn",
    }
    if published_ns is not None:
        took = (published_ns - arrival_ns) / 1e6
        made |= {
            f"{name}_ms": round(took * share, 3)
            for name, share in zip(STAGES, (0.1, 0.1, 0.7, 0.1), strict=True)
        }
        made["age_ms"] = round((published_ns - stamp_ns) / 1e6, 3)
    return made


def write_ledger(path: Path, rows: list[dict]) -> None:
    """A ledger.csv, in order of ending."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda made: made["ended_ns"] or 0))


def streams_of(rows: list[dict]) -> dict[str, dict]:
    """The streams of metrics.json."""
    found = {}
    for node, topic in sorted({(made["node"], made["topic"]) for made in rows} - {("bag", "")}):
        own = [made for made in rows if (made["node"], made["topic"]) == (node, topic)]
        states = Counter(made["outcome"] for made in own)
        times = {
            name: np.array([made[f"{name}_ms"] for made in own if made[f"{name}_ms"] != ""])
            for name in ("age", *STAGES)
        }
        percentiles = {name: _percentiles(values) for name, values in times.items()}
        found[f"{node}: {topic}"] = {
            "node": node,
            "topic": topic,
            "received": len(own),
            "states": {outcome.value: states[outcome.value] for outcome in Outcome},
            "reasons": {made["outcome"]: made["reason"] for made in own if made["reason"]},
            "rate_hz": 10.0,
            "age_ms": percentiles.pop("age"),
            "stages_ms": percentiles,
        }
    return found


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).round(3).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": float(values.max())}


def _described(outputs: list[Output]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for node, topic, kind, _, data in outputs:
        described = found.setdefault(topic, {"type": kind, "node": node, "messages": 0, "sha256": ""})
        described["messages"] += 1
        described["sha256"] = hashlib.sha256(described["sha256"].encode() + data).hexdigest()
    return found


def _write_bag(folder: Path, outputs: list[Output]) -> None:
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for _, topic, kind, log_ns, data in outputs:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(connections[topic], log_ns, data)
