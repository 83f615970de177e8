"""Name what a run lost and what to change, from its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.statistics import ANOTHER_CLOCK_NS

MOSTLY = 0.5
REMEDIES = {
    Outcome.SUPERSEDED.value: "the model is slower than the sensor: lower the rate, or use another bundle",
    Outcome.LATE.value: "raise max_age_ms, or correct the sensor's clock; `--time stamps` orders by stamp",
    Outcome.UNSYNCED.value: "check frames and times of /tf and of the partner topic; "
    "`--time stamps` orders by stamp",
    Outcome.REJECTED.value: "the measurements contradict each other: check units, frames and covariances",
    Outcome.DECODE_ERROR.value: "correct the driver, or remap to another topic",
    Outcome.MODEL_ERROR.value: "check the bundle with `perception-rt bundle verify`",
}


def warnings_of(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a user should know of a run, one line each.

    Args:
        metrics: content of metrics.json.
    """
    bag = metrics["bag"]
    faults = bag.get("clock", {}).get("faults", {})
    yield from (f"{topic}: {fault}" for topic, fault in faults.items())
    if "clock" in bag:
        yield from clock_warnings(bag["clock"])
    for gap in bag.get("gaps", ()):
        told = (
            f"{gap['skipped_ns'] / 1e9:.1f} s without a message skipped, after {gap['after_ns'] / 1e9:.3f} s"
        )
        yield f"{told} (--max-gap)"
    for name, stream in metrics["streams"].items():
        received, published = stream["received"], stream["states"][Outcome.PUBLISHED.value]
        if received and published < MOSTLY * received:
            lost = {o: n for o, n in stream["states"].items() if n and o != Outcome.PUBLISHED.value}
            worst = max(lost, key=lost.__getitem__, default="pending")
            reason = stream["reasons"].get(worst)
            said = f"{worst}: {reason}" if reason else worst
            lost_of = f"{received - published} of {received} messages are lost"
            remedy = faults.get(stream["topic"]) or REMEDIES.get(worst, "see ledger.csv")
            yield f"{name}: {lost_of} ({said}); {remedy}"
    for topic, output in metrics["outputs"].items():
        fed = [s for s in metrics["streams"].values() if s["node"] == output["node"]]
        if not output["messages"] and any(s["states"][Outcome.PUBLISHED.value] for s in fed):
            yield f"{topic}: no message, though {output['node']} received some: see its lines of /diagnostics"


def clock_warnings(clock: Mapping[str, Any]) -> Iterator[str]:
    """Yield the topics whose stamps are of another clock than the log times; `clock` as in metrics.json."""
    for topic, offset_s in clock["offsets_s"].items():
        if abs(offset_s) * 1e9 <= ANOTHER_CLOCK_NS:
            continue
        side = "ahead of" if offset_s > 0 else "behind"
        line = f"{topic}: stamps are {abs(offset_s):.1f} s {side} the log times"
        left_s = offset_s + clock["behind_ns"].get(topic, 0) / 1e9
        if abs(left_s) * 1e9 <= ANOTHER_CLOCK_NS:
            yield f"{line}: the clock follows the stamps"
        elif clock["follows"] == "log":
            yield f"{line}: time `stamps` follows them; correct the sensor's clock"
        else:
            yield f"{line}, those of other topics are not: time `stamps` follows each topic's own"
    for topic, behind_ns in clock["behind_ns"].items():
        offset_s = clock["offsets_s"].get(topic)
        if offset_s is not None and abs(offset_s) * 1e9 <= ANOTHER_CLOCK_NS < abs(behind_ns):
            yield f"{topic}: its stamps follow the log times, unlike most topics': correct a sensor's clock"
