"""The base of detector nodes, whose bundle can be swapped while they run."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from perception_rt.component.component import InferenceWorker
from perception_rt.component.detector import DetectorComponent, allowed_folders
from perception_rt.node import parameters
from perception_rt.node.host import ComponentNode
from perception_rt.node.run import release_memory
from perception_rt.realtime.cores import use_normal_priority
from perception_rt.types import BundleError
from perception_rt.types.status import Status

SWAP_DEPTH = (
    1000  # queue size of service calls: with the default of 10, DDS drops further calls without an answer
)
REFUSAL_PERIOD_S = 0.02  # between two: a client keeps 10 unread answers, and several come in one slice


class DetectorNode(ComponentNode):
    """The node of a `DetectorComponent`."""

    component: DetectorComponent | None
    _folders: tuple[str, ...] = ()

    def __init__(self, node_name: str = "", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        values = parameters.read(self, self._table)
        with suppress(BundleError):  # set at configure
            self._folders = allowed_folders(values)
        self.add_on_set_parameters_callback(self._keep_folders)
        self._swapping = threading.Lock()
        # One thread for all swaps: malloc gives a new one another arena, and each of up to 8 for a core keeps
        # the space of a bundle, which malloc_trim leaves at the end of an arena (glibc; not of the main one).
        # Its thread inherits the priority of the node's: a load must not compete with the model that runs.
        self._loader = ThreadPoolExecutor(1, "swap", initializer=use_normal_priority)
        self._refused: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._refusing = threading.Lock()
        self._pacing = False
        qos = QoSProfile(depth=SWAP_DEPTH)
        self.create_service(Trigger, "~/swap_bundle", self._on_swap, qos_profile=qos)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Pause or resume; a paused node accepts no frames. Cleanup ends the pause."""
        component = self.component
        if component is None or not self._configured:
            response.message = "the node is not configured: there is nothing to pause"
            return response
        component.watchdog.paused = request.data
        response.success, response.message = True, "paused" if request.data else "running"
        self.publish_diagnostics()
        return response

    def setup(self) -> None:
        """Create the component with the bundle folders that were set at start."""
        if self._folders:
            self.values = {**self.values, "bundle_folders": self._folders}
        super().setup()
        release_memory()  # the memory of the engine trial
        cpu_ms, cores = self._cpu_need()
        self.get_logger().info(f"{cpu_ms:.1f} ms of processor time for each inference: {cores:.2f} cores")

    def _cpu_need(self) -> tuple[float, float]:
        """Return the processor time of an inference, ms, and the number of cores that all streams need."""
        detector = self.component
        if detector is None or detector.pipeline is None:
            return 0.0, 0.0
        streams = len(detector.pipeline.stats)
        return detector.cpu_ms, detector.cpu_ms * detector.scheduler.rate_hz * streams / 1e3

    def diagnostics(self) -> list[Status]:
        """Return the component's diagnostics and the measured processor load, which a replay lacks."""
        statuses = super().diagnostics()
        if not statuses:
            return []
        cpu_ms, cores = self._cpu_need()
        need = {"cpu_ms_per_inference": cpu_ms, "cores_needed": cores}
        return [replace(statuses[0], values={**statuses[0].values, **need}), *statuses[1:]]

    def _keep_folders(self, changes: list) -> SetParametersResult:
        fixed = any(change.name == "bundle_folders" for change in changes)
        return SetParametersResult(successful=not fixed, reason="bundle_folders is set at start" * fixed)

    async def _on_swap(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load and verify the bundle of `bundle`; keep the running one if that fails."""
        component = self.component
        if component is None or not self._configured or component.worker is None:
            response.message = "the node is not configured: `bundle` will be loaded when it is"
        elif not self._swapping.acquire(blocking=False):
            await self._paced()
            response.message = "another swap is running: call again when it has ended"
        else:
            done: Future = Future(executor=self.executor)
            swap = (component, component.worker, done)
            self._loader.submit(self._swap, *swap)
            answer: Any = await done
            response.success, response.message = answer
        return response

    def _paced(self) -> Future:
        """Return a future for the time at which this call may be refused: one after the other."""
        turn: Future = Future(executor=self.executor)
        self._refused.put(turn)
        with self._refusing:
            if not self._pacing:
                self._pacing = True
                threading.Thread(target=self._pace, name="refuse", daemon=True).start()
        return turn

    def _pace(self) -> None:
        while True:
            with self._refusing:
                if self._refused.empty():
                    self._pacing = False
                    return
            self._refused.get().set_result(None)
            time.sleep(REFUSAL_PERIOD_S)

    def _swap(self, detector: DetectorComponent, worker: InferenceWorker, done: Future) -> None:
        name = detector.values["bundle"]
        outcome = (False, "the swap ended without a result (the running bundle stays)")
        try:
            runtime = detector.open()
            worker.call(partial(detector.use, runtime)).result()
            outcome = (True, f"{name} {runtime.sha256[:12]} runs")
        except CancelledError:
            outcome = (
                False,
                "the node was cleaned up meanwhile: `bundle` will be loaded when it is configured",
            )
        except Exception as error:  # noqa: BLE001 - after any failure the running bundle stays
            self.get_logger().error(f"swap to {name} failed, the running bundle stays: {error}")
            outcome = (False, f"{error} (the running bundle stays)")
        finally:
            release_memory()
            self._swapping.release()
            done.set_result(outcome)
