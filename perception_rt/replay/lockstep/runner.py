"""Running a graph over a recording."""

from __future__ import annotations

import importlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_rt.component.component import Component
from perception_rt.component.detector import Detector
from perception_rt.component.graph import GraphNode
from perception_rt.replay.bag import Bag, BagMessage, Damage
from perception_rt.replay.live import Live
from perception_rt.replay.lockstep.host import LockstepHost
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.reading import ReadAhead, read
from perception_rt.replay.lockstep.recorder import Recorder
from perception_rt.replay.lockstep.router import FOR_PEOPLE, Router
from perception_rt.replay.lockstep.timing import Inference
from perception_rt.types import BagError, ConfigError

SOURCES = ("bag_player", "drive_simulator")
"""Nodes of a graph whose part the recording plays."""
AHEAD_NS, AHEAD_BYTES = 200_000_000, 32_000_000
"""How far detectors look ahead."""
VIEWER_S = 30.0  # for somebody to look, before it begins
DRAIN_NS = 10**9  # after the last message, as `perception-rt up` goes on after the last played one


@dataclass(frozen=True)
class Run:
    """What to replay.

    Attributes:
        nodes: of the graph. inference: how long it takes.
        overrides: by node name (absolute or not; "" for all), parameters that win over the graph's.
        remaps: topics by the names that they stand for.
        speed: of the recording's own at most, as for people who look; None for as fast as the machine goes.
    """

    nodes: Sequence[GraphNode]
    inference: Inference
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remaps: Mapping[str, str] = field(default_factory=dict)
    speed: float | None = None


def replay(
    run: Run,
    bag: Bag,
    folder: Path,
    live: Live | None = None,
    progress: Callable[[float], None] = lambda done_s: None,
) -> dict[str, Any]:
    """Replay a recording into a folder: `bag/` and `ledger.csv`.

    Args:
        run: what to do. bag: opened with `salvage`. folder: is there, and empty.
        live: shown to people while it runs.
        progress: told how much of the recording is done, s.

    Returns:
        What metrics.json holds, without scores.

    Raises:
        BagError: nothing can be read of the recording. ConfigError, BundleError: the graph cannot be made.
    """
    # A measured time must not be that of two things at once.
    source = nullcontext(read(bag)) if run.inference.timing is None else ReadAhead(bag)
    with source as items:
        return _Replay(run, bag, folder, live).run(items, progress)


class _Replay:
    def __init__(self, run: Run, bag: Bag, folder: Path, live: Live | None) -> None:
        self._run = run
        self._bag = bag
        self._live = live
        self._recorder = Recorder(folder, live)
        self._hosts: list[LockstepHost] = []

    def run(self, items: Iterator[BagMessage | Damage], progress: Callable[[float], None]) -> dict[str, Any]:
        try:
            first = self._begin(items)
            with self._graph(first.log_ns):
                self._play(first, items, progress)
            return self._metrics(first.log_ns)
        finally:
            self._recorder.close()

    def _begin(self, items: Iterator[BagMessage | Damage]) -> BagMessage:
        """The first message."""
        for item in items:
            if isinstance(item, BagMessage):
                return item
            self._recorder.damaged(item)
        reasons = "; ".join(list(self._recorder.reasons)[:3]) or "it holds none"
        raise BagError(f"no message can be read of the recording: {reasons}")

    @contextmanager
    def _graph(self, start_ns: int) -> Iterator[None]:
        """The components, set up and active; taken down afterwards."""
        run = self._run
        self._loop = EventLoop(start_ns)
        kinds = {topic: kind for topic, (kind, _) in self._bag.topics.items()}
        self._router = Router(self._loop, kinds, run.remaps, self._recorder, self._live is not None)
        try:
            for node in run.nodes:
                if node.name not in SOURCES:
                    self._hosts.append(self._host(node))
            if not self._hosts:
                raise ConfigError("the parameter file names no node that takes messages")
            for host in self._hosts:
                host.component.setup()
                self._recorder.account_for(host.path, host.component.accounts, host.now_ns)
            if self._live is not None:
                made = {topic: kind for topic, (_, kind) in self._router.announced.items()}
                self._live.begin({**kinds, **made}, VIEWER_S)
            for host in self._hosts:
                host.activate()
            yield
        finally:
            self._bundles = {
                host.path: host.component.runtime
                for host in self._hosts
                if isinstance(host.component, Detector) and host.component.runtime
            }
            for host in self._hosts:
                host.component.teardown()

    def _host(self, node: GraphNode) -> LockstepHost:
        overrides: dict[str, Any] = {}
        for name in ("", node.name, node.path):
            overrides |= self._run.overrides.get(name, {})
        make = component_class(node.name)
        if issubclass(make, Detector) and self._run.inference.timing is not None:
            # Sums of a parallel operator may depend on its threads; models run beside each other anyway.
            overrides["threads"] = 1
        return LockstepHost(make, node, overrides, self._loop, self._router, self._run.inference.timing)

    def _play(
        self, first: BagMessage, items: Iterator[BagMessage | Damage], progress: Callable[[float], None]
    ) -> None:
        began_s = time.monotonic()
        progress(0.0)
        for item in self._looking_ahead(itertools.chain([first], items)):
            if isinstance(item, Damage):
                self._recorder.damaged(item)
                continue
            done_s = (item.log_ns - first.log_ns) / 1e9
            if self._run.speed is not None:
                time.sleep(max(0.0, began_s + done_s / self._run.speed - time.monotonic()))
            self._loop.run_until(item.log_ns)
            self._take(item)
            progress(done_s)
        self._end()

    def _looking_ahead(self, items: Iterator[BagMessage | Damage]) -> Iterator[BagMessage | Damage]:
        """The same items; detectors are told of theirs a little before."""
        if self._run.inference.timing is None:
            yield from items
            return
        told = {
            (topic, one.message_type): worker
            for host in self._hosts
            for worker in host.workers
            for topic in host.component.accounts
            for one in self._router.subscriptions[topic]
            if not self._router.replaced(topic) and one.node == host.path
        }
        ahead: deque[BagMessage | Damage] = deque()
        held = 0
        for item in items:
            ahead.append(item)
            if isinstance(item, BagMessage):
                held += len(item.data)
                if (item.topic, item.message_type) in told:
                    told[item.topic, item.message_type].anticipate(item.topic, item.data)
            while ahead and (held > AHEAD_BYTES or _span_ns(ahead) > AHEAD_NS):
                first = ahead.popleft()
                held -= len(first.data) if isinstance(first, BagMessage) else 0
                yield first
        yield from ahead

    def _take(self, message: BagMessage) -> None:
        if not self._router.replaced(message.topic):
            self._router.hear(message)

    def _end(self) -> None:
        """Let the nodes finish, as those of a running graph may."""
        workers = [worker for host in self._hosts for worker in host.workers]
        self._loop.run_until(self._loop.now_ns() + DRAIN_NS)
        while any(worker.busy for worker in workers):
            self._loop.step()
        self._loop.run_until(self._loop.now_ns())
        for host in self._hosts:
            host.deactivate()
        self._loop.end_ticks()

    def _metrics(self, start_ns: int) -> dict[str, Any]:
        recorder, router = self._recorder, self._router
        wanted = {topic: [one.node for one in subs] for topic, subs in router.subscriptions.items()}
        return {
            "format": 1,
            "streams": {name: stream.summary() for name, stream in recorder.streams.items()},
            "bag": {
                "duration_s": round(self._bag.duration_s, 9),
                "messages": sum(recorder.read.values()),
                "topics": {
                    topic: {
                        "type": kind,
                        "messages": recorder.read[topic],
                        "used_by": [] if router.replaced(topic) else wanted.get(topic, []),
                    }
                    for topic, (kind, _) in sorted(self._bag.topics.items())
                },
                "missing_topics": router.missing(),
                "unreadable": {"messages": recorder.unreadable, "reasons": dict(recorder.reasons)},
                "faults": dict(recorder.faults),  # that cost no message
            },
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
                if message_type not in FOR_PEOPLE
            },
        }


def _span_ns(items: Sequence[BagMessage | Damage]) -> int:
    """Of log time, between the first and the last message."""
    times = [item.log_ns for item in (items[0], items[-1]) if isinstance(item, BagMessage)]
    return abs(times[-1] - times[0]) if times else 0


def component_class(name: str) -> type[Component]:
    """The component of a node: class CamelCase of module snake_case."""
    module = importlib.import_module(f"perception_rt.component.{name}")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))
