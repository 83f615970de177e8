"""Replay a recording through a graph of components."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from perception_rt.component.component import Component
from perception_rt.component.detector import BATCH_WAIT_MS, DetectorComponent
from perception_rt.component.graph import GraphNode
from perception_rt.replay.bag import Bag, BagMessage, Damage
from perception_rt.replay.live import Live
from perception_rt.replay.lockstep.graph import check_overrides, overrides_of, replayable_nodes
from perception_rt.replay.lockstep.health import SensorWatch
from perception_rt.replay.lockstep.host import LockstepHost
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.reading import ReadAhead, read
from perception_rt.replay.lockstep.recorder import Recorder
from perception_rt.replay.lockstep.router import Router
from perception_rt.replay.lockstep.timing import Inference
from perception_rt.replay.lockstep.worker import LockstepWorker
from perception_rt.replay.time_base import AUTO, choose_time_base
from perception_rt.types import BagError, BundleError, ConfigError

AHEAD_NS, AHEAD_BYTES = 200_000_000, 32_000_000
"""How far ahead detectors may compute: by log time, ns, and by size of the messages, bytes."""
VIEWER_S = 30.0  # how long to wait for a live viewer to connect before the start
DRAIN_NS = 10**9  # time after the last message, as in `perception-rt up`
MAX_GAP_S = 60.0


class Gap(NamedTuple):
    """A time without messages that was skipped: where it begins, and how much, ns."""

    after_ns: int
    skipped_ns: int


@dataclass(frozen=True)
class Run:
    """What to replay.

    Attributes:
        nodes: of the graph. inference: its duration in virtual time.
        overrides: parameters that take precedence over the graph's, by node name ("" for all nodes).
        remaps: new topic name by old name.
        speed: maximum replay speed, for a live viewer; None for as fast as possible.
        time: the clock to follow; see `choose_time_base`.
        max_gap_s: longer times without a message are skipped, and the nodes restart after them.
    """

    nodes: Sequence[GraphNode]
    inference: Inference
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remaps: Mapping[str, str] = field(default_factory=dict)
    speed: float | None = None
    time: str = AUTO
    max_gap_s: float = MAX_GAP_S


def replay(
    run: Run,
    bag: Bag,
    folder: Path,
    live: Live | None = None,
    progress: Callable[[float], None] = lambda done_s: None,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Replay a recording, and write `bag/` and `ledger.csv` to a folder.

    Args:
        run: what to replay. bag: opened with `salvage`. folder: must exist; empty after `begin`.
        live: viewer that shows the messages; None for no viewer.
        progress: called with the position in the recording, s.
        begin: called after recording and graph were checked, before anything is written.

    Returns:
        The content of metrics.json, without scores.

    Raises:
        BagError: the recording has no readable message. ConfigError, BundleError: the graph is not valid.
    """
    return _Replay(run, bag, folder, live).run(progress, begin)


class _Replay:
    def __init__(self, run: Run, bag: Bag, folder: Path, live: Live | None) -> None:
        self._run = run
        self._bag = bag
        self._folder = folder
        self._live = live
        self._recorder = Recorder(live)
        self._hosts: list[LockstepHost] = []
        self._gaps: list[Gap] = []

    def run(self, progress: Callable[[float], None], begin: Callable[[], None]) -> dict[str, Any]:
        with self._graph():
            # A viewer shows every topic; without one, the others cost no time.
            self._topics = topics = [
                topic for topic in self._bag.topics if self._live is not None or self._router.users(topic)
            ]
            self._time_base = choose_time_base(self._bag, topics, self._run.time)
            self._bag.retime(self._time_base.behind_ns)
            # Reading on another thread would distort measured times.
            measured = self._run.inference.timing is None
            source = nullcontext(read(self._bag, topics)) if measured else ReadAhead(self._bag, topics)
            with source as items:
                missed, first = self._first(items)
                self._start_ns = first.log_ns
                self._loop.skip_to(first.log_ns)
                begin()
                with self._recorder.writing(self._folder):
                    self._start()
                    self._play(first.log_ns, itertools.chain(missed, [first], items), progress)
        return self._metrics()

    def _first(self, items: Iterator[BagMessage | Damage]) -> tuple[list[Damage], BagMessage]:
        """Return the damage before the first message, and that message."""
        damage: list[Damage] = []
        for item in items:
            if isinstance(item, BagMessage):
                return damage, item
            damage.append(item)
        reasons = "; ".join(list(dict.fromkeys(item.reason for item in damage))[:3]) or "it has no messages"
        raise BagError(f"no message of the recording can be read: {reasons}")

    @contextmanager
    def _graph(self) -> Iterator[None]:
        """Create and configure the components; stop them at the end."""
        run = self._run
        self._loop = EventLoop(0)
        self._kinds = {topic: kind for topic, (kind, _) in self._bag.topics.items()}
        self._router = Router(self._loop, self._kinds, run.remaps, self._recorder, self._live is not None)
        try:
            check_overrides(run.nodes, run.overrides)
            for node, make in replayable_nodes(run.nodes):
                self._hosts.append(self._host(node, make))
            for host in self._hosts:
                self._set_up(host)
            self._router.check_remaps()
            self._router.check_inputs()
            self._watch = SensorWatch(self._router, self._kinds, [host.component for host in self._hosts])
            yield
        finally:
            self._bundles = {
                host.path: host.component.runtime
                for host in self._hosts
                if isinstance(host.component, DetectorComponent) and host.component.runtime
            }
            for host in self._hosts:
                host.component.teardown()

    def _host(self, node: GraphNode, make: type[Component]) -> LockstepHost:
        overrides, timing = overrides_of(node, self._run.overrides), self._run.inference.timing
        if issubclass(make, DetectorComponent) and timing is not None:
            timing(node.path, 0)  # fails early if the trace lacks the node
            # Sums of a parallel operator may depend on its threads; models run beside each other anyway.
            overrides["threads"] = 1
            # Which engine is the fastest may change from run to run; what the nodes publish must not.
            given = {**node.inherited, **node.parameters, **overrides}
            if given.get("engine", "auto") == "auto":
                overrides["engine"] = "reference"
            # The given time is that of a run, whatever a batch would take here.
            if given.get("batch_wait_ms", -1.0) < 0:
                overrides["batch_wait_ms"] = BATCH_WAIT_MS
        return LockstepHost(make, node, overrides, self._loop, self._router, timing)

    def _set_up(self, host: LockstepHost) -> None:
        try:
            host.component.setup()
        except (ConfigError, BundleError) as error:
            raise type(error)(f"{host.path}: {error}") from error
        self._recorder.add_stream(host.path, host.component.stats, host.now_ns)

    def _start(self) -> None:
        """Wait for a live viewer and activate the components."""
        if self._live is not None:
            made = {topic: kind for topic, (_, kind) in self._router.announced.items()}
            self._live.begin({**self._kinds, **made}, VIEWER_S)
        for host in self._hosts:
            host.activate()

    def _play(
        self, start_ns: int, items: Iterable[BagMessage | Damage], progress: Callable[[float], None]
    ) -> None:
        began_s, skipped_ns = time.monotonic(), 0
        progress(0.0)
        for item in self._with_lookahead(items):
            if isinstance(item, Damage):
                self._recorder.damaged(item)
                continue
            skipped_ns += self._skip_gap(item.log_ns)
            done_s = (item.log_ns - start_ns - skipped_ns) / 1e9
            if self._run.speed is not None:
                time.sleep(max(0.0, began_s + done_s / self._run.speed - time.monotonic()))
            self._loop.run_until(item.log_ns)
            self._take(item)
            progress(done_s)
        self._end()

    def _skip_gap(self, next_ns: int) -> int:
        """Skip a long time without a message, after what the nodes have to do; return how much, ns."""
        after_ns = self._loop.now_ns()
        if next_ns - after_ns <= max(self._run.max_gap_s * 1e9, DRAIN_NS):
            return 0
        self._loop.run_until(after_ns + DRAIN_NS)
        skipped_ns = next_ns - self._loop.now_ns()
        self._loop.skip_to(next_ns)
        for host in self._hosts:  # nothing of before can be continued
            host.component.reset_clock()
        self._gaps.append(Gap(after_ns, skipped_ns))
        return skipped_ns

    def _with_lookahead(self, items: Iterable[BagMessage | Damage]) -> Iterator[BagMessage | Damage]:
        """Yield the same items; pass images and clouds to the detectors ahead of time."""
        if self._run.inference.timing is None:
            yield from items
            return
        workers = self._workers_by_topic()
        ahead: deque[BagMessage | Damage] = deque()
        held = 0
        for item in items:
            ahead.append(item)
            if isinstance(item, Damage):
                continue
            held += len(item.data)
            if not self._router.replaced(item.topic):
                self._router.foresee(item)
            for worker in workers.get((item.topic, item.message_type), ()):
                worker.anticipate(item.topic, item.data)
            while ahead and (
                isinstance(ahead[0], Damage) or held > AHEAD_BYTES or item.log_ns - ahead[0].log_ns > AHEAD_NS
            ):
                first = ahead.popleft()
                held -= len(first.data) if isinstance(first, BagMessage) else 0
                yield first
        yield from ahead

    def _workers_by_topic(self) -> dict[tuple[str, str], list[LockstepWorker]]:
        """Return the workers that process a recorded topic, by its name and message type."""
        found: dict[tuple[str, str], list[LockstepWorker]] = {}
        for host in self._hosts:
            for topic in host.component.stats:
                for one in self._router.subscriptions[topic]:
                    if one.node == host.path and not self._router.replaced(topic):
                        found.setdefault((topic, one.message_type), []).extend(host.workers)
        return found

    def _take(self, message: BagMessage) -> None:
        if not self._router.replaced(message.topic):
            self._router.deliver(message)
            self._watch.take(message)

    def _end(self) -> None:
        """Let the nodes finish their work, then deactivate them."""
        workers = [worker for host in self._hosts for worker in host.workers]
        self._loop.run_until(self._loop.now_ns() + DRAIN_NS)
        while any(worker.busy for worker in workers):
            self._loop.step()
        self._loop.run_until(self._loop.now_ns())
        for host in self._hosts:
            host.deactivate()
        self._loop.end_ticks()

    def _metrics(self) -> dict[str, Any]:
        recorder, router = self._recorder, self._router
        skipped_ns = sum(gap.skipped_ns for gap in self._gaps)
        return {
            "format": 1,
            "streams": {name: stream.summary() for name, stream in recorder.streams.items()},
            "bag": {
                "duration_s": (self._bag.end_ns - self._bag.start_ns - skipped_ns) / 1e9,
                "clock": self._time_base.summary(),
                "gaps": [gap._asdict() for gap in self._gaps],
                "messages": sum(recorder.read.values()),
                "topics": {
                    topic: {
                        "type": kind,
                        "messages": recorder.read[topic] if topic in self._topics else count,
                        "used_by": router.users(topic),
                    }
                    for topic, (kind, count) in sorted(self._bag.topics.items())
                },
                "missing_topics": router.missing(),
                "unreadable": {"messages": recorder.unreadable, "reasons": dict(recorder.reasons)},
                "faults": dict(recorder.faults),  # without loss of a message
            },
            "health": self._watch.metrics(self._start_ns),
            "bundles": {
                path: {
                    "name": runtime.manifest.name,
                    "task": runtime.manifest.task,
                    "sha256": runtime.sha256,
                    "classes": list(runtime.manifest.classes),
                }
                for path, runtime in self._bundles.items()
            },
            "outputs": {
                topic: {
                    "type": message_type,
                    "node": node,
                    "messages": recorder.outputs[topic].count if topic in recorder.outputs else 0,
                    "sha256": recorder.outputs[topic].sha256.hexdigest()
                    if topic in recorder.outputs
                    else None,
                }
                for topic, (node, message_type) in sorted(router.announced.items())
                if topic not in router.visualizations
            },
        }
