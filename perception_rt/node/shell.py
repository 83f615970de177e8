"""The base of all nodes: lifecycle with guarded transitions, parameters, diagnostics at 1 Hz."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from perception_rt.codec.diagnostics import encode_diagnostics
from perception_rt.component.parameters import NODE_PARAMETERS, Parameter
from perception_rt.node import parameters
from perception_rt.node.smooth_clock import SmoothClock
from perception_rt.realtime.cores import lock_memory, parse_cores, schedule_thread, scheduled
from perception_rt.types import ConfigError, PerceptionError
from perception_rt.types.status import Level, Status

DIAGNOSTICS_PERIOD_S = 1.0
FINAL_DIAGNOSTICS_S = 0.3  # for the last diagnostics to reach their subscribers
SET_BACK_NS = 1_000_000_000  # step back of the system's clock that is a new beginning, as for `StampOrder`


class PerceptionNode(LifecycleNode):
    """A lifecycle node; a subclass implements four steps and the diagnostics.

    `setup` loads, verifies and warms up; `start` only enables; `stop` and `teardown` undo them. A step that
    raises is logged with its traceback and undone, and the transition fails. A callback that raises is logged
    and counted on /diagnostics, and the node goes on.
    """

    PARAMETERS: ClassVar[Sequence[Parameter]] = ()

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._smooth = SmoothClock(self.get_clock())  # type: ignore[arg-type]  # a ROSClock, as for every node
        self.callback_errors = 0
        self._last_callback_error = ""
        self._reported_errors = 0
        backward = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            backward, post_callback=self.guard(lambda _: self.on_clock_reset())
        )
        self._system_lead_ns = _system_lead_ns()
        self._table = (*NODE_PARAMETERS, *self.PARAMETERS)
        self._configuring = False  # from the reading of the parameters to the end of `setup`
        self._configured = False
        self.active = False
        self.spin_thread: int | None = None  # native id of the thread that spins the node
        self.companions: frozenset[str] = frozenset()  # names of the nodes of the same process
        self.finished = threading.Event()  # set by nodes that finish by themselves
        self.exit_code = 0  # with which the process has to end, once it is not 0
        self.values: dict[str, Any] = {}
        parameters.declare(self, self._table)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Wall time: diagnostics must continue while simulated time stands still.
        wall = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self.guard(self._on_second), clock=wall)

    # Subclasses implement these.

    def setup(self) -> None:
        """Acquire resources according to `self.values`; any exception fails the transition."""

    def start(self) -> None:
        """Enable; must be quick."""

    def stop(self) -> None:
        """Disable; must be quick."""

    def teardown(self) -> None:
        """Release every resource; also called after a failed `setup`, so any of them may be missing."""

    def check_values(self, values: dict[str, Any]) -> None:
        """Check live parameters beyond their bounds, before they are set; raises ConfigError."""

    def on_parameters(self) -> None:
        """Apply changed live parameters; `self.values` is up to date."""

    def every_second(self) -> None:
        """Called at 1 Hz while active, before the diagnostics."""

    def pending(self) -> int:
        """Return the number of messages that the node has not finished."""
        return 0

    def finishing(self) -> bool:
        """Return whether the node writes what would be lost if the process ended now."""
        return False

    def on_clock_reset(self) -> None:
        """Called, also while inactive, when time was set back or simulated time was switched on or off.

        Simulated time counts at any step, the system's clock at one of more than a second.
        """

    def diagnostics(self) -> list[Status]:
        """Return the diagnostics to publish at 1 Hz."""
        return []

    # Subclasses use these.

    def now_ns(self) -> int:
        """Return ROS time, ns: the clock of stamps and ages."""
        return self._smooth.now_ns()

    def steady(self) -> bool:
        """Return False under simulated time."""
        return self.get_parameter("use_sim_time").value is False

    def guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return the callback with its exceptions logged and counted instead of raised."""

        @wraps(callback)
        def guarded(*args: Any) -> None:
            try:
                callback(*args)
            except Exception as error:  # noqa: BLE001 - one callback must not end the node
                self.count_error(error)

        # rclpy asks for the signature of a timer's callback at every call: found once, it costs a tenth.
        guarded.__signature__ = signature(callback)  # type: ignore[attr-defined]
        return guarded

    def count_error(self, error: Exception) -> None:
        """Log and count an exception of a callback."""
        self.callback_errors += 1
        self._last_callback_error = f"{type(error).__name__}: {error}"
        text = "".join(traceback.format_exception(error))
        self.get_logger().error(f"a callback raised: {text}", throttle_duration_sec=1.0)

    def warn(self, stream: str, error: Exception) -> None:
        """Log a refused message, at most once a second; unexpected errors with their traceback."""
        unexpected = not isinstance(error, PerceptionError)
        text = "".join(traceback.format_exception(error)) if unexpected else str(error)
        self.get_logger().warning(f"{stream}: {text}", throttle_duration_sec=1.0)

    # Lifecycle.

    def autostart(self) -> bool:
        """Configure and activate if the parameter `autostart` is set; return False if that failed."""
        if not self.get_parameter("autostart").value:
            return True
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def shut_down(self) -> None:
        """Deactivate and clean up from any state, and publish the diagnostics a last time."""
        if self.active:
            self.trigger_deactivate()
        self.publish_diagnostics()
        self._diagnostics_publisher.wait_for_all_acked(Duration(seconds=FINAL_DIAGNOSTICS_S))
        if self._configured:
            self.trigger_cleanup()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and check the parameters, then `setup`."""

        def configure() -> None:
            self._configuring = True  # first: a parameter that is set after it was read would not be used
            try:
                self.values = parameters.read(self, self._table)
                with self._scheduled():
                    self.setup()
                self._configured = True
            finally:
                self._configuring = False

        return self._attempt("configure", configure, self.teardown)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable."""

        def activate() -> None:
            super(PerceptionNode, self).on_activate(state)  # enables lifecycle publishers
            self.start()
            self.active = True

        return self._attempt("activate", activate, self.stop)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Disable."""

        def deactivate() -> None:
            self.active = False
            self.stop()
            super(PerceptionNode, self).on_deactivate(state)

        return self._attempt("deactivate", deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""

        def cleanup() -> None:
            self._configured = False
            self.teardown()

        return self._attempt("clean up", cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Disable and release everything, from any state."""

        def shutdown() -> None:
            if self.active:
                self.active = False
                self.stop()
            self._configured = False
            self.teardown()

        return self._attempt("shut down", shutdown)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured, so that the node can be configured again."""
        self.active = self._configured = False
        return self._attempt("recover", self.teardown)

    def _scheduled(self) -> AbstractContextManager[None]:
        """Apply CPU cores, priority and locked memory; threads started in the context inherit them."""
        cores, priority = parse_cores(self.values["cpu_affinity"]), self.values["thread_priority"]
        refused = [lock_memory()] if self.values["lock_memory"] else []
        if self.spin_thread is not None:
            refused += schedule_thread(self.spin_thread, cores, max(priority - 1, min(priority, 1)))
        for reason in filter(None, refused):
            self.get_logger().warning(reason)
        return scheduled(cores, priority, self.get_logger().warning)

    def _attempt(
        self, transition: str, step: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        """Run a step. rclpy would swallow its exception, so log it here, undo the step, and fail."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - any failure must fail the transition, not the process
            trace = "" if isinstance(error, PerceptionError) else f"\n{traceback.format_exc()}"
            self.get_logger().error(f"cannot {transition}: {error}{trace}")
            if undo is not None:
                self._attempt(f"undo {transition}", undo)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Destroy the state machine too: LifecycleNode leaves it, and it keeps the DDS participant alive."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # Parameters and diagnostics.

    def _check_parameters(self, changes: list) -> Any:
        result = parameters.check_set(self._table, changes, self._configured, self._configuring)
        if result.successful and self._configured:
            try:
                self.check_values({**self.values, **{change.name: change.value for change in changes}})
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return result

    def _take_parameters(self, changes: list) -> None:
        if self._configured:
            self.values = parameters.read(self, self._table)
            self.on_parameters()

    def _on_second(self) -> None:
        self._watch_system_clock()
        if self.active:
            self.every_second()
        self.publish_diagnostics()

    def _watch_system_clock(self) -> None:
        """Start over after a step of the system's clock: rcl reports the jumps of simulated time only."""
        before, self._system_lead_ns = self._system_lead_ns, _system_lead_ns()
        if self.steady() and before - self._system_lead_ns > SET_BACK_NS:
            self.on_clock_reset()

    def publish_diagnostics(self) -> None:
        """Publish the diagnostics now."""
        statuses = self._with_errors(self.diagnostics())
        if statuses:
            self._diagnostics_publisher.publish(encode_diagnostics(statuses, self.now_ns()))

    def _with_errors(self, statuses: list[Status]) -> list[Status]:
        """Add the callback errors to the node's status, the first one; warn while there are new errors."""
        count, before = self.callback_errors, self._reported_errors
        self._reported_errors = count
        if not count:
            return statuses
        values = {"callback_errors": count, "last_callback_error": self._last_callback_error}
        first = statuses[0] if statuses else Status(self.get_name(), Level.OK, "not configured", "", {})
        changes: dict[str, Any] = {"values": {**first.values, **values}}
        if count > before:
            changes |= {"level": max(first.level, Level.WARN)}
            changes |= {"message": f"a callback raised {self._last_callback_error}"}
        return [replace(first, **changes), *statuses[1:]]


def _system_lead_ns() -> int:
    """Return how far the system's clock is ahead of the monotonic one, ns; only a step changes it much."""
    return time.time_ns() - time.monotonic_ns()
