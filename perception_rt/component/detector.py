"""The base of all detectors: bundle, worker, ledger and diagnostics; a subclass adds its sensor."""

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
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.types import BundleError, ConfigError
from perception_rt.types.status import Level, Status

DRAIN_S = 0.3  # for the running frame, when the node is deactivated
WORKER_STOP_S = 0.5
BATCH_PAYS = 0.8  # most time of a batch, of that of its frames one by one, for which they wait for each other
BATCH_WAIT_MS = 10.0

DETECTOR_PARAMETERS = (
    Parameter("device", "auto", "auto, cpu, cuda or cuda:N; auto uses CUDA if it is available."),
    Parameter("half", False, "Compute in fp16 (CUDA only)."),
    Parameter(
        "engine",
        "auto",
        "auto: the fastest engine that reproduces the golden output; reference: the engine of the bundle.",
    ),
    Parameter("threads", 0, "Number of CPU threads of the model; 0: all cores but one.", (0, 256)),
    Parameter("rate_hz", 30.0, "Inference rate, phase-locked to arrivals.", (0.1, 1000.0), live=True),
    Parameter("score_threshold", -1.0, "Minimum score; negative: the bundle's.", (-1.0, 1.0), live=True),
    Parameter("classes", [""], "Classes to publish; one empty name: all of the bundle.", live=True),
    Parameter(
        "score_thresholds",
        [""],
        'Minimum scores by class, like ["car=0.4", "person=0.6"]; they override score_threshold.',
        live=True,
    ),
    Parameter(
        "bundle_folders",
        [""],
        "Folders that bundles may be loaded from, besides the shipped ones; empty: that of the first bundle. "
        "Set at start only.",
    ),
    Parameter("max_age_ms", 0.0, "Maximum age of a frame at inference; 0: no limit.", (0.0, 6e5), live=True),
    Parameter(
        "batch_wait_ms",
        -1.0,
        f"Maximum wait for the other sensors of a batch, ms; negative: {BATCH_WAIT_MS:g} where a batch takes "
        f"at most {BATCH_PAYS:g} of the time of its frames one by one, as measured at configure; else each "
        "frame is run by itself as it arrives.",
        (-1.0, 1000.0),
    ),
    RELIABILITY,
    *WATCHDOG_PARAMETERS,
)


def allowed_folders(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the folders that bundles may be loaded from, and `bundle` itself, with links resolved."""
    first = resolve_bundle(values["bundle"]).resolve()
    given = [folder for folder in values["bundle_folders"] if folder] or [str(first.parent)]
    return (*(str(Path(folder).resolve()) for folder in given), str(first))


def check_folder(name: str, folders: Sequence[str]) -> None:
    """Refuse a bundle in another folder: anyone on the network may set `bundle`, and a bundle is a program.

    Args:
        name: a file, or the bare name of a shipped or downloaded bundle.
        folders: as of `allowed_folders`.

    Raises:
        BundleError: the file is in none of the folders.
    """
    path = resolve_bundle(name)
    below = (str(SHIPPED.resolve()), *folders)
    if path == Path(name) and not any(path.resolve().is_relative_to(folder) for folder in below):
        raise BundleError(f"bundle={name}: not below bundle_folders={list(folders[:-1])}")


class DetectorComponent(Component):
    """Receives messages on one thread; infers and publishes on a worker thread.

    Attributes:
        TASK: the task of its bundles.
        TOPICS: name of the parameter with the topics of its sensors.
    """

    TASK: ClassVar[Task]
    TOPICS: ClassVar[str]

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        # None before `setup` and after `teardown`.
        self.runtime: Any = None  # the runtime of the task
        self.worker: InferenceWorker = None  # type: ignore[assignment]
        self.pipeline: FramePipeline = None  # type: ignore[assignment]
        self.mailbox: Mailbox = Mailbox(())
        self.scheduler = FairScheduler(values["rate_hz"])
        self.watchdog = DetectorWatchdog(self)
        self.turns = ""  # whether frames run in batches, and why
        self.cpu_ms = 0.0  # processor time of an inference with the latest bundle

    # Subclasses implement these.

    def inputs(self) -> dict[str, tuple[str, Callable]]:
        """Return the message type and the parser of serialized messages, by topic as in the parameters."""
        raise NotImplementedError

    def open_outputs(self, streams: list[str]) -> None:
        """Create the publishers for these (resolved) topics."""
        raise NotImplementedError

    def warm_up(self, runtime: Runtime) -> float:
        """Run the first, slower inferences; return the processor time of one inference, ms."""
        raise NotImplementedError

    def batch_share(self, runtime: Runtime) -> float:
        """Return the time of a frame of each sensor as a batch, as a share of the time one by one."""
        return 1.0

    def infer(self, frames: list) -> list:
        """Run the model on frames; raises ModelError."""
        raise NotImplementedError

    def publish(self, stream: str, frame: Any, result: Any) -> None:
        """Publish one result."""
        raise NotImplementedError

    def publish_extras(self, stream: str, frame: Any, result: Any) -> None:
        """Publish visualizations, after the result is published."""

    def subscribers(self, stream: str) -> int:
        """Return the number of subscriptions of a stream's outputs."""
        raise NotImplementedError

    def stream_values(self, stream: str) -> Mapping[str, object]:
        """Return further diagnostics values of a stream."""
        return {}

    def use(self, runtime: Runtime) -> None:
        """Take `runtime` from the next frame on.

        Raises:
            ConfigError: `classes` or `score_thresholds` do not fit this bundle.
        """
        self._set_class_thresholds(runtime)
        self.runtime = runtime
        wait_ms, share = self.values["batch_wait_ms"], runtime.batch_share
        if wait_ms < 0 and share <= BATCH_PAYS:
            wait_ms = BATCH_WAIT_MS
        self.mailbox.batch_wait_ns = None if wait_ms < 0 else round(wait_ms * 1e6)
        self.turns = "one frame at a time" if wait_ms < 0 else f"batches within {wait_ms:g} ms"
        asked = self.values["batch_wait_ms"] >= 0
        self.turns += " (as set)" if asked else f" (a batch takes {share:.2f} of the time one by one)"

    # Lifecycle.

    def setup(self) -> None:
        """Load, verify and warm up the bundle on the worker's thread; then create the topics."""
        folders = self.values["bundle_folders"]  # a tuple if the node fixed them at its start
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
        self.mailbox = Mailbox(list(inputs))
        self.worker = self.host.make_worker(self.pipeline, self.scheduler, self.mailbox)
        self.use(self.worker.call(self.open).result())
        self.open_outputs(list(inputs))
        for topic, (message_type, _) in wanted.items():  # unresolved: no second remapping
            stream = names[topic]
            receive = partial(self._receive, stream)
            self.listen(message_type, topic, self.pipeline.stats[stream], receive, self.values["reliability"])
        self.host.create_timer(POLL_S, self.watchdog.poll)
        self.host.info(
            f"{self.runtime.manifest.name} on {self.runtime.device}, {self.scheduler.rate_hz:g} Hz, "
            f"{self.runtime.choice}: " + ", ".join(inputs) + (f"; {self.turns}" if len(inputs) > 1 else "")
        )

    def stop(self) -> None:
        """Cancel waiting frames; publish the running frame if it ends soon, else cancel it too."""
        if self.worker is None:
            return
        reason = "the node was deactivated"
        with self.gate:  # no message may arrive after the mailbox was emptied
            waiting = self.worker.clear()
        self.pipeline.cancel_pending(waiting, reason)
        if not self.worker.drain(DRAIN_S):
            self.pipeline.cancel_running(reason)

    def teardown(self) -> None:
        """Stop the worker and release the model."""
        if self.worker is not None and not self.worker.stop(WORKER_STOP_S):
            self.host.info("the model still computes; the result of its last frame is not used")
        self.worker = self.pipeline = self.runtime = None  # type: ignore[assignment]

    def check_parameters(self, values: Mapping[str, Any]) -> None:
        """Check the classes against the running bundle, which `bundle` need not name before a swap.

        Raises:
            ConfigError: a class that the bundle does not have, or a threshold of another form.
        """
        thresholds = _score_thresholds(values)
        try:
            self.runtime.thresholds_of(thresholds, _wanted(values))
        except ConfigError as error:
            if values["bundle"] == self.runtime.source:
                raise
            raise ConfigError(f"{error}; {self.runtime.source} runs until bundle is swapped") from error

    def on_parameters(self) -> None:
        """Rate, thresholds and limits change between two frames."""
        self.scheduler.rate_hz = self.values["rate_hz"]
        self.watchdog.rate_changed()
        self.pipeline.max_age_ms = self.values["max_age_ms"]
        self._set_class_thresholds(self.runtime)

    # Processing of a frame.

    def threshold(self, name: str) -> float | None:
        """Return the parameter `<name>_threshold`; None if the bundle's own applies."""
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
        """Load, verify and warm up the bundle of the parameters, updated by `changes`."""
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
        runtime.batch_share = self.batch_share(runtime)
        return runtime

    # Diagnostics.

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for each stream."""
        runtime, scheduler = self.runtime, self.scheduler
        if runtime is None:
            return []
        whole = {
            "bundle": runtime.manifest.name,
            "bundle_sha256": runtime.sha256,
            "device": str(runtime.device),
            "engine": str(runtime.choice),
            **({"turns": self.turns} if len(self.pipeline.stats) > 1 else {}),
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
    """Return the names in `classes`."""
    return [name for name in values["classes"] if name]


def _score_thresholds(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the minimum scores in `score_thresholds` by class name; raises ConfigError."""
    return dict(parse_score_threshold(text) for text in values["score_thresholds"] if text)
