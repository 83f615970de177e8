"""What detectors share: bundle, worker, ledger, diagnostics; the sensor is the subclass's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from perception_rt.component.component import Component, Host, InferenceWorker
from perception_rt.component.parameters import RELIABILITY, Parameter
from perception_rt.component.watchdog import POLL_S, WATCHDOG_PARAMETERS, DetectorWatchdog
from perception_rt.model.class_thresholds import parse_score_threshold
from perception_rt.model.runtime import SHIPPED, Runtime, resolve_bundle
from perception_rt.model.task import Task
from perception_rt.realtime.cores import available_cores
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.realtime.scheduler import FixedRateScheduler
from perception_rt.types import BundleError, ConfigError
from perception_rt.types.status import Level, Status

DRAIN_S = 0.3  # for the frame in hand, when the node is deactivated
WORKER_STOP_S = 0.5

DETECTOR_PARAMETERS = (
    Parameter("device", "auto", "auto, cpu, cuda or cuda:N; auto takes CUDA where it is."),
    Parameter("half", False, "Compute in fp16 (CUDA only)."),
    Parameter(
        "engine",
        "auto",
        "auto: the fastest that gives the golden output; reference: no trial.",
    ),
    Parameter("threads", 0, "Threads of the model on a CPU; 0: all cores but one.", (0, 256)),
    Parameter("rate_hz", 30.0, "Inference rate, phase-locked to arrivals.", (0.1, 1000.0), live=True),
    Parameter("score_threshold", -1.0, "Least score; negative: the bundle's.", (-1.0, 1.0), live=True),
    Parameter("classes", [""], "Only these classes; one empty name: those of the bundle.", live=True),
    Parameter(
        "score_thresholds",
        [""],
        'Least scores of single classes, like ["car=0.4", "person=0.6"], over score_threshold.',
        live=True,
    ),
    Parameter(
        "bundle_folders",
        [""],
        "Bundles are loaded from below these alone, and the shipped ones; empty: that of the first bundle. "
        "Set at start only.",
    ),
    Parameter("max_age_ms", 0.0, "Older frames are late at their turn; 0: no limit.", (0.0, 6e5), live=True),
    Parameter("batch_wait_ms", 10.0, "How long a sensor waits for the others of its batch.", (0.0, 1000.0)),
    RELIABILITY,
    *WATCHDOG_PARAMETERS,
)


def allowed_folders(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders of `bundle_folders`, else that of `bundle`, and `bundle` itself; links are resolved."""
    first = resolve_bundle(values["bundle"]).resolve()
    given = [folder for folder in values["bundle_folders"] if folder] or [str(first.parent)]
    return (*(str(Path(folder).resolve()) for folder in given), str(first))


def check_folder(name: str, folders: Sequence[str]) -> None:
    """Refuse a bundle that lies elsewhere: anyone on the network may set `bundle`, and a bundle is a program.

    Args:
        name: a file, or the bare name of a shipped or downloaded bundle.
        folders: as of `allowed_folders`.

    Raises:
        BundleError: it is a file that is not below one of the folders.
    """
    path = resolve_bundle(name)
    below = (str(SHIPPED.resolve()), *folders)
    if path == Path(name) and not any(path.resolve().is_relative_to(folder) for folder in below):
        raise BundleError(f"bundle={name}: not below bundle_folders={list(folders[:-1])}")


class DetectorComponent(Component):
    """Messages are received on one thread; a worker infers and publishes.

    Attributes:
        TASK: what its bundles do.
        TOPICS: the parameter that names its sensors' topics.
    """

    TASK: ClassVar[Task]
    TOPICS: ClassVar[str]

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        # None before `setup` and after `teardown`.
        self.runtime: Any = None  # the runtime of the task
        self.worker: InferenceWorker = None  # type: ignore[assignment]
        self.pipeline: FramePipeline = None  # type: ignore[assignment]
        self.scheduler = FixedRateScheduler(values["rate_hz"])
        self.watchdog = DetectorWatchdog(self)
        self.cpu_ms = 0.0  # processor time of an inference, of the bundle opened last

    # What a sensor's detector fills in.

    def inputs(self) -> dict[str, tuple[str, Callable]]:
        """By topic as in the parameters: the message type and the parser of its serialized bytes."""
        raise NotImplementedError

    def open_outputs(self, streams: list[str]) -> None:
        """Advertise what comes of these (resolved) topics."""
        raise NotImplementedError

    def warm_up(self, runtime: Runtime) -> float:
        """Make the first real frame as fast as any; returns the processor time of an inference, ms."""
        raise NotImplementedError

    def infer(self, frames: list) -> list:
        """Frames to results; raises ModelError."""
        raise NotImplementedError

    def publish(self, stream: str, frame: Any, result: Any) -> None:
        """Publish one result."""
        raise NotImplementedError

    def publish_extras(self, stream: str, frame: Any, result: Any) -> None:
        """Publish visualizations, after the result is published."""

    def subscribers(self, stream: str) -> int:
        """How many subscriptions the outputs of a stream have."""
        raise NotImplementedError

    def stream_values(self, stream: str) -> Mapping[str, object]:
        """What else the diagnostics of a stream tell."""
        return {}

    def use(self, runtime: Runtime) -> None:
        """Take `runtime` from the next frame on.

        Raises:
            ConfigError: `classes` or `score_thresholds` do not fit this bundle.
        """
        self._set_class_thresholds(runtime)
        self.runtime = runtime

    # Lifecycle.

    def setup(self) -> None:
        """Load, verify and warm up where the worker runs; then wire the topics."""
        folders = self.values["bundle_folders"]  # a tuple where the node settled them at its start
        self._folders = folders if isinstance(folders, tuple) else allowed_folders(self.values)
        wanted = self.inputs()
        names = {topic: self.host.resolve_topic_name(topic) for topic in wanted}
        if len(set(names.values())) != len(names):
            raise ConfigError(f"topics={list(names)}: two of them are one: {list(names.values())}")
        inputs = {names[topic]: way for topic, way in wanted.items()}
        self.pipeline = FramePipeline(
            {stream: parser for stream, (_, parser) in inputs.items()},
            lambda frames: self.infer(frames),
            self.publish,
            self.publish_extras,
            clock=self.host,
            warn=self.host.warn,
            max_age_ms=self.values["max_age_ms"],
            pending=lambda: self.worker.pending(),
        )
        mailbox: Mailbox = Mailbox(list(inputs), round(self.values["batch_wait_ms"] * 1e6))
        self.worker = self.host.make_worker(self.pipeline, self.scheduler, mailbox)
        self.use(self.worker.call(self.open).result())
        self.open_outputs(list(inputs))
        for topic, (message_type, _) in wanted.items():  # as given: a remapped name is not remapped again
            stream = names[topic]
            receive = partial(self._receive, stream)
            self.listen(message_type, topic, self.pipeline.stats[stream], receive, self.values["reliability"])
        self.host.create_timer(POLL_S, self.watchdog.poll)
        self.host.info(
            f"{self.runtime.manifest.name} on {self.runtime.device}, {self.scheduler.rate_hz:g} Hz, "
            f"{self.runtime.choice}: " + ", ".join(inputs)
        )

    def stop(self) -> None:
        """Take back what waits; the frame in hand is published if it is done soon, else given up."""
        if self.worker is None:
            return
        reason = "the node was deactivated"
        with self.gate:  # nothing is received once the mailbox was emptied for good
            waiting = self.worker.clear()
        self.pipeline.cancel_pending(waiting, reason)
        if not self.worker.drain(DRAIN_S):
            self.pipeline.cancel_running(reason)

    def teardown(self) -> None:
        """End the worker, drop the model."""
        if self.worker is not None and not self.worker.stop(WORKER_STOP_S):
            self.host.info("the model still computes; the result of its last frame is not used")
        self.worker = self.pipeline = self.runtime = None  # type: ignore[assignment]

    def check_parameters(self, values: Mapping[str, Any]) -> None:
        """Hold the classes to the running bundle's; those of another bundle are held to it when it is loaded.

        Raises:
            ConfigError: a class that the bundle does not have, or a threshold of another form.
        """
        thresholds = _score_thresholds(values)
        if values["bundle"] == self.runtime.source:
            self.runtime.thresholds_of(thresholds, _wanted(values))

    def on_parameters(self) -> None:
        """Rate, thresholds and limits change between two frames."""
        self.scheduler.rate_hz = self.values["rate_hz"]
        self.watchdog.rate_changed()
        self.pipeline.max_age_ms = self.values["max_age_ms"]
        if self.values["bundle"] == self.runtime.source:
            self._set_class_thresholds(self.runtime)

    # The way of a frame.

    def threshold(self, name: str) -> float | None:
        """The parameter `<name>_threshold`; None where it leaves the choice to the bundle."""
        value = self.values[f"{name}_threshold"]
        return None if value < 0 else value

    def _set_class_thresholds(self, runtime: Runtime) -> None:
        thresholds = runtime.thresholds_of(_score_thresholds(self.values), _wanted(self.values))
        runtime.class_thresholds = thresholds

    def _receive(self, stream: str, data: bytes, entry: Entry) -> None:
        if reason := self.watchdog.refuses(stream):
            self.pipeline.stats[stream].ledger.finish(entry, Outcome.SUPERSEDED, reason)
            return
        self.pipeline.receive(stream, data, entry, self.worker.put)

    # Bundle.

    def open(self, changes: Mapping[str, Any] | None = None) -> Runtime:
        """Load, verify and warm up the bundle that the parameters, or `changes` of them, name."""
        values = {**self.values, **(changes or {})}
        name = values["bundle"]
        check_folder(name, self._folders)
        runtime = Runtime.open(
            name,
            device=values["device"],
            half=values["half"],
            engine=values["engine"],
            threads=values["threads"] or max(1, available_cores() - 1),
        )
        if runtime.manifest.task != self.TASK.name:
            raise BundleError(f"{name}: task is {runtime.manifest.task}, this node needs {self.TASK.name}")
        self.cpu_ms = self.warm_up(runtime)
        return runtime

    # Diagnostics.

    def statuses(self) -> list[Status]:
        """One status for the node and one for each stream."""
        runtime, scheduler = self.runtime, self.scheduler
        if runtime is None:
            return []
        whole = {
            "bundle": runtime.manifest.name,
            "bundle_sha256": runtime.sha256,
            "device": str(runtime.device),
            "engine": str(runtime.choice),
            "rate_hz_asked": float(scheduler.rate_hz),
            "ticks_empty": scheduler.empty,
            "ticks_skipped": scheduler.skipped,
            "deadline_misses": scheduler.deadline_misses,
        }
        device = str(runtime.device)
        level, state = Level.OK, "inactive"
        if self.active:
            level, state = self.watchdog.verdict(self.host.now_ns())
        return [
            Status(self.host.get_name(), level, state, device, whole),
            *self.stream_statuses(device, self.stream_values),
        ]


def _wanted(values: Mapping[str, Any]) -> list[str]:
    """The names in `classes`."""
    return [name for name in values["classes"] if name]


def _score_thresholds(values: Mapping[str, Any]) -> dict[str, float]:
    """The lowest scores in `score_thresholds`, by class name; raises ConfigError."""
    return dict(parse_score_threshold(text) for text in values["score_thresholds"] if text)
