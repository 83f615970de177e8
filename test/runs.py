"""Folders as a replay writes them, small and made by hand, for tests of what reads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from perception_rt.codec import DetectionEncoder
from perception_rt.codec.diagnostics import encode_diagnostics
from perception_rt.realtime.ledger import Outcome
from perception_rt.types import Detections2D
from perception_rt.types.status import Level, Status
from test.drives import START_NS, typestore

DETECTIONS, DIAGNOSTICS, CHATTER = "/camera_detector/detections", "/diagnostics", "/chatter"
STREAM = "/camera_detector: /camera/image_raw"
TYPES = {
    DETECTIONS: "vision_msgs/msg/Detection2DArray",
    DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
    CHATTER: "std_msgs/msg/String",
}
COLUMNS = (
    *("node", "topic", "number", "arrival_ns", "stamp_ns"),
    *("wait_ms", "decode_ms", "infer_ms", "publish_ms"),
    *("ended_ns", "age_ms", "outcome", "reason"),
)
PERIOD_NS = 100_000_000

Message = tuple[str, int, bytes]  # topic; log time, ns; serialized


def detections(stamp_ns: int, x: float = 100.0, count: int = 1) -> bytes:
    """`count` boxes whose left edge is `x`."""
    boxes = np.array([[x + 50 * i, 20, x + 50 * i + 40, 60] for i in range(count)], np.float32).reshape(-1, 4)
    found = Detections2D(boxes, np.full(count, 0.9, np.float32), np.zeros(count, np.int64))
    return bytes(DetectionEncoder(["car"]).encode(found, stamp_ns, "camera"))


def diagnostics(stamp_ns: int, device: str = "cpu", received: int = 1) -> bytes:
    """One status of one node."""
    values = {"device": device, "received": received}
    return encode_diagnostics([Status("/camera_detector", Level.OK, "running", device, values)], stamp_ns)


def chatter(text: str) -> bytes:
    """A message without a header."""
    store = typestore()
    return bytes(store.serialize_cdr(store.types[TYPES[CHATTER]](data=text), TYPES[CHATTER]))


def messages(count: int = 5, age_ns: int = 20_000_000) -> list[Message]:
    """A short run: every frame answered `age_ns` after its stamp, and something of each other topic."""
    rows: list[Message] = []
    for number in range(count):
        stamp_ns = START_NS + number * PERIOD_NS
        rows.append((DETECTIONS, stamp_ns + age_ns, detections(stamp_ns, 100.0 + number)))
        rows.append((CHATTER, stamp_ns + age_ns + 1, chatter(f"frame {number}")))
    rows.append((DIAGNOSTICS, stamp_ns + age_ns + 2, diagnostics(stamp_ns + age_ns + 2, received=count)))
    return rows


def ledger_row(number: int, outcome: str = "published", age_ms: float = 20.0, reason: str = "") -> dict:
    """One message of STREAM."""
    stamp_ns = START_NS + number * PERIOD_NS
    row = dict.fromkeys(COLUMNS, "") | {"node": STREAM.split(": ")[0], "topic": STREAM.split(": ")[1]}
    row |= {"number": number, "arrival_ns": stamp_ns + 5_000_000, "stamp_ns": stamp_ns, "outcome": outcome}
    row |= {"ended_ns": stamp_ns + round(age_ms * 1e6), "reason": reason}
    if outcome == "published":
        row |= {"age_ms": age_ms, "wait_ms": 1.0, "decode_ms": 2.0, "infer_ms": age_ms - 4, "publish_ms": 1.0}
    return row


def metrics_of(rows: Sequence[dict], scores: dict | None = None) -> dict:
    """The metrics of a run with these rows in its ledger."""
    ages = sorted(row["age_ms"] for row in rows if row["outcome"] == "published")
    states = {outcome.value: sum(row["outcome"] == outcome.value for row in rows) for outcome in Outcome}
    quantiles = (
        {"p50": ages[len(ages) // 2], "p90": ages[-1], "p99": ages[-1], "max": ages[-1]} if ages else None
    )
    stage = {"p50": 1.0, "p99": 2.0, "max": 3.0}
    node, topic = STREAM.split(": ")
    stream = {"node": node, "topic": topic, "received": len(rows), "states": states, "reasons": {}}
    stream |= {"rate_hz": 10.0, "age_ms": quantiles}
    stream |= {"stages_ms": dict.fromkeys(("wait", "decode", "infer", "publish"), stage)}
    duration_s = round((len(rows) - 1) * PERIOD_NS / 1e9, 3)
    topics = {topic: {"type": "sensor_msgs/msg/Image", "messages": len(rows), "used_by": [node]}}
    bag = {"duration_s": duration_s, "messages": len(rows), "topics": topics, "missing_topics": {}}
    bag |= {"unreadable": {"messages": 0, "reasons": {}}, "faults": {}}
    output = {"type": TYPES[DETECTIONS], "node": node, "messages": states["published"], "sha256": "0" * 64}
    bundle = {"name": "sim_camera", "task": "detect2d", "sha256": "1" * 64, "classes": ["car"]}
    return {
        "format": 1,
        "streams": {STREAM: stream},
        "bag": bag,
        "bundles": {node: bundle},
        "outputs": {DETECTIONS: output},
        "scores": scores or {},
    }


def write_run(
    folder: Path,
    content: Sequence[Message] | None = None,
    rows: Sequence[dict] | None = None,
    scores: dict | None = None,
) -> Path:
    """Write bag, ledger and metrics; by default those of `messages()`."""
    rows = [ledger_row(number) for number in range(5)] if rows is None else rows
    folder.mkdir(parents=True)
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for topic, log_ns, data in messages() if content is None else content:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, TYPES[topic], typestore=typestore())
            writer.write(connections[topic], log_ns, data)
    with (folder / "ledger.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "metrics.json").write_text(json.dumps(metrics_of(rows, scores)))
    return folder
