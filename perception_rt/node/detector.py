"""What detector nodes share: bundle, worker, ledger, diagnostics, swap; the sensor is the subclass's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.task import Future
from std_srvs.srv import Trigger

from perception_rt.model.runtime import Runtime
from perception_rt.node.parameters import Parameter
from perception_rt.node.qos import AdaptiveSubscription
from perception_rt.node.shell import PerceptionNode, status
from perception_rt.node.streams import StreamReport
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.realtime.scheduler import FixedRateScheduler
from perception_rt.realtime.worker import Worker
from perception_rt.types import BundleError

DRAIN_S = 0.3  # for the frame in hand, when the node is deactivated
WORKER_STOP_S = 0.5

DETECTOR_PARAMETERS = (
    Parameter("device", "auto", "auto, cpu, cuda or cuda:N; auto takes CUDA where it is."),
    Parameter("half", False, "Compute in fp16 (CUDA only)."),
    Parameter("threads", 0, "Threads of the model on a CPU; 0: all cores but one.", (0, 256)),
    Parameter("rate_hz", 30.0, "Inference rate, phase-locked to arrivals.", (0.1, 1000.0), live=True),
    Parameter("score_threshold", -1.0, "Least score; negative: the bundle's.", (-1.0, 1.0), live=True),
    Parameter("max_age_ms", 0.0, "Older frames are late at their turn; 0: no limit.", (0.0, 6e5), live=True),
    Parameter("batch_wait_ms", 10.0, "How long a sensor waits for the others of its batch.", (0.0, 1000.0)),
    Parameter(
        "reliability",
        "best_effort",
        "QoS asked of publishers; adapts to what they offer.",
        choices=("best_effort", "reliable"),
    ),
)


class DetectorNode(PerceptionNode):
    """Receives on the executor's thread, infers and publishes on one worker thread."""

    TASK: ClassVar[str]

    runtime: Runtime | None = None

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._worker: Worker | None = None
        self._pipeline: FramePipeline | None = None
        self._subscriptions_in: dict[str, AdaptiveSubscription] = {}
        self._gate = threading.Lock()  # nothing is received once the mailbox was emptied for good
        self._reports: dict[str, StreamReport] = {}
        self._swapping = threading.Lock()
        self.create_service(Trigger, "~/swap_bundle", self._on_swap)

    # What a sensor's node fills in.

    def inputs(self) -> dict[str, tuple[type, Callable]]:
        """By topic as in the parameters: the message type and the parser of its serialized bytes."""
        raise NotImplementedError

    def open_outputs(self, streams: list[str]) -> None:
        """Create the publishers of these (resolved) topics."""
        raise NotImplementedError

    def warm_up(self, runtime: Runtime) -> None:
        """Make the first real frame as fast as any."""
        raise NotImplementedError

    def infer(self, frames: list) -> list:
        """Frames to results; raises ModelError."""
        raise NotImplementedError

    def publish(self, stream: str, frame: Any, result: Any) -> None:
        """Publish one result."""
        raise NotImplementedError

    def publish_extras(self, stream: str, frame: Any, result: Any) -> None:
        """Publish what is for people, after the result is out."""

    def stream_values(self, stream: str) -> dict[str, object]:
        """What else the diagnostics of a stream tell."""
        return {}

    def use(self, runtime: Runtime) -> None:
        """Take `runtime` from the next frame on."""
        self.runtime = runtime

    # Lifecycle.

    def setup(self) -> None:
        """Load, verify and warm up on the worker's thread; then wire the topics."""
        inputs = {self.resolve_topic_name(topic): way for topic, way in self.inputs().items()}
        self._scheduler = FixedRateScheduler(self.values["rate_hz"])
        self._pipeline = FramePipeline(
            {stream: parser for stream, (_, parser) in inputs.items()},
            lambda frames: self.infer(frames),
            self.publish,
            self.publish_extras,
            clock=self,
            complain=self.complain,
            max_age_ms=self.values["max_age_ms"],
        )
        mailbox: Mailbox = Mailbox(list(inputs), round(self.values["batch_wait_ms"] * 1e6))
        steady = self.get_parameter("use_sim_time").value is False
        self._worker = Worker(self._pipeline.process, self._scheduler, mailbox, self, steady)
        self.use(self._worker.call(self._open).result())
        self.open_outputs(list(inputs))
        for stream, (message_type, _) in inputs.items():
            subscription = AdaptiveSubscription(
                self,
                message_type,
                stream,
                lambda data, stream=stream: self._receive(stream, data),
                self.values["reliability"],
            )
            self._subscriptions_in[stream] = subscription
            account = self._pipeline.accounts[stream]
            self._reports[stream] = StreamReport(f"{self.get_name()}: {stream}", account, subscription)
        self.get_logger().info(
            f"{self.runtime.manifest.name} on {self.runtime.device}, {self._scheduler.rate_hz:g} Hz: "
            + ", ".join(inputs)
        )

    def stop(self) -> None:
        """Take back what waits; the frame in hand is published if it is done soon, else given up."""
        if self._worker is None:
            return
        reason = "the node was deactivated"
        with self._gate:
            waiting = self._worker.clear()
        self._pipeline.abandon(waiting, reason)
        if not self._worker.drain(DRAIN_S):
            self._pipeline.give_up(reason)

    def teardown(self) -> None:
        """Unsubscribe, end the worker, drop the model."""
        for subscription in self._subscriptions_in.values():
            subscription.close()
        self._subscriptions_in, self._reports = {}, {}
        if self._worker is not None and not self._worker.stop(WORKER_STOP_S):
            self.get_logger().warning("the model still computes; the result of its last frame is not used")
        self.close_outputs()
        self._worker = self._pipeline = self.runtime = None

    def on_parameters(self) -> None:
        """Rate, thresholds and limits change between two frames."""
        self._scheduler.rate_hz = self.values["rate_hz"]
        self._pipeline.max_age_ms = self.values["max_age_ms"]

    # The way of a frame.

    def threshold(self, name: str) -> float | None:
        """The parameter `<name>_threshold`; None where it leaves the choice to the bundle."""
        value = self.values[f"{name}_threshold"]
        return None if value < 0 else value

    def _receive(self, stream: str, data: bytes) -> None:
        with self._gate:
            if self.active:
                self._pipeline.receive(stream, data, self._worker.put)

    # Bundle.

    def _open(self) -> Runtime:
        """Load, verify and warm up the bundle that the parameters name."""
        name = self.get_parameter("bundle").value
        runtime = Runtime.open(
            name,
            device=self.values["device"],
            half=self.values["half"],
            threads=self.values["threads"] or max(1, len(os.sched_getaffinity(0)) - 1),
        )
        if runtime.manifest.task != self.TASK:
            raise BundleError(f"{name}: task is {runtime.manifest.task}, this node needs {self.TASK}")
        self.warm_up(runtime)
        return runtime

    async def _on_swap(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load and verify the bundle of `bundle` beside the running one; on failure that one stays."""
        if self._worker is None:
            response.message = "the node is not configured: `bundle` will be loaded when it is"
        elif not self._swapping.acquire(blocking=False):
            response.message = "another swap is under way: call again when it has ended"
        else:
            done = Future(executor=self.executor)
            threading.Thread(target=self._swap, args=(self._worker, done), name="swap", daemon=True).start()
            response.success, response.message = await done
        return response

    def _swap(self, worker: Worker, done: Future) -> None:
        name = self.get_parameter("bundle").value
        try:
            runtime = self._open()
            worker.call(lambda: self.use(runtime)).result()
            outcome = (True, f"{name} {runtime.sha256[:12]} runs")
        except CancelledError:
            outcome = (
                False,
                "the node was cleaned up meanwhile: `bundle` will be loaded when it is configured",
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the old bundle goes on and the caller is told
            self.get_logger().error(f"swap to {name} failed, the running bundle stays: {error}")
            outcome = (False, f"{error} (the running bundle stays)")
        finally:
            self._swapping.release()
        done.set_result(outcome)

    # Diagnostics.

    def every_second(self) -> None:
        """Let subscriptions adapt."""
        for subscription in self._subscriptions_in.values():
            subscription.every_second()

    def diagnostics(self) -> list[DiagnosticStatus]:
        """One status for the node and one for each stream."""
        # Held here, as another thread may be configuring or cleaning up.
        runtime, reports = self.runtime, self._reports
        if not self._configured or runtime is None:
            return []
        scheduler = self._scheduler
        whole = {
            "bundle": runtime.manifest.name,
            "bundle_sha256": runtime.sha256,
            "device": str(runtime.device),
            "rate_hz_asked": float(scheduler.rate_hz),
            "ticks_empty": scheduler.empty,
            "ticks_skipped": scheduler.skipped,
            "deadline_misses": scheduler.deadline_misses,
        }
        device = str(runtime.device)
        state = "running" if self.active else "inactive"
        now = self.now_ns()
        return [
            status(self.get_name(), DiagnosticStatus.OK, state, device, whole),
            *(report.make(now, device, self.stream_values(stream)) for stream, report in reports.items()),
        ]
