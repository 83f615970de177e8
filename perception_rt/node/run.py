"""Run nodes: process set-up, executor, signals, shutdown."""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import rclpy
from rclpy._rclpy_pybind11 import RCLError, RCLInvalidROSArgsError, UnknownROSArgsError
from rclpy.context import Context
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from perception_rt.component.graph import GraphNode, class_of
from perception_rt.component.parameters import Parameter, check_names
from perception_rt.node.shared_memory import clean_shared_memory, shortage
from perception_rt.node.shell import PerceptionNode
from perception_rt.node.transport import transport_environment
from perception_rt.types import ConfigError

SPIN_S = 0.1  # period at which the main thread checks for a stop
SLICE_S = 0.1  # of spinning: then stops are seen, and coroutines go on; each leaks 32 bytes in EventsExecutor
DRAIN_S = 1.0  # idle time after the last played message, until no more messages are expected
DRAINED_S = 15.0  # maximum time for the graph to answer the last messages
MAX_FAILURES = 200  # failed slices in a row within a second, until the executor counts as broken
FAILED = 70  # exit code, EX_SOFTWARE of sysexits.h
REFUSED = (RCLError, RCLInvalidROSArgsError, UnknownROSArgsError)  # by rcl: arguments, or keys of SROS 2
SWITCH_S = 0.001  # after which a thread that waits for the interpreter gets it
END_S = 1.5  # maximum time from a signal to the end of the process
FINISH_S = 3.0  # more for a node that is writing a file; launch and `up` kill after 5 s


def keep_large_blocks() -> None:
    """Let malloc keep blocks of message size instead of returning them to the kernel after each message.

    Saves some 2000 page faults per 720p image. Does nothing if the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20)):
            mallopt(option, value)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


def release_memory() -> None:
    """Return freed memory of a released model to the kernel. Takes some ms, so not for every message.

    With `keep_large_blocks`, malloc keeps up to 1 GB per arena, so each swap of a bundle would add memory.
    malloc_trim does not return the free end of arenas other than the main one, so load models on the same
    thread each time. Does nothing if the C library has no malloc_trim.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def make_executor(context: Context | None = None) -> Executor:
    """Return the fastest executor of this rclpy: events (Kilted and later), else single-threaded."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def spin(
    executor: Executor,
    stop: threading.Event,
    context: Context | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> None:
    """Spin until `stop` is set or the context ends; `EventsExecutor.spin()` would hang, so in slices.

    Args:
        executor: with its nodes.
        stop: ends it.
        context: of the nodes.
        on_error: called with an exception of a callback, and spinning goes on; None raises it.

    Raises:
        RuntimeError: `MAX_FAILURES` slices in a row failed within a second: the executor is broken.
    """
    failures, since_s = 0, 0.0
    while not stop.is_set() and rclpy.ok(context=context):
        try:
            # `spin_once` sets everything up again for each callback, some 80 µs.
            executor.spin_until_future_complete(Future(), timeout_sec=SLICE_S)
            failures = 0
        except ExternalShutdownException:
            return
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)
            now_s = time.monotonic()
            failures, since_s = (
                (1, now_s) if not failures or now_s - since_s > 1.0 else (failures + 1, since_s)
            )
            if failures >= MAX_FAILURES:
                raise RuntimeError(f"the executor failed {failures} times within a second") from error


@contextmanager
def spinning_node(name: str, domain_id: int | None = None, args: list[str] | None = None) -> Iterator[Node]:
    """Spin a node on a thread and in a context of its own during the `with` block.

    Args:
        name: of the node.
        domain_id: None for the environment's.
        args: ROS arguments; None for those of the process.
    """
    context, stop = Context(), threading.Event()
    rclpy.init(args=args, context=context, domain_id=domain_id)
    node = rclpy.create_node(name, context=context)
    executor = make_executor(context)
    executor.add_node(node)
    thread = threading.Thread(target=spin, args=(executor, stop, context))
    thread.start()
    try:
        yield node
    finally:
        stop.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


class Graph:
    """Several nodes in one process, each with an executor and a thread of its own.

    Attributes:
        failed: set when an executor ended by itself; the log has the reason.
    """

    def __init__(self, nodes: Sequence[PerceptionNode], context: Context | None = None) -> None:
        self.nodes = list(nodes)
        self.failed = threading.Event()
        self._context = context
        self._stop = threading.Event()
        self._executors: list[Executor] = []
        self._threads: list[threading.Thread] = []
        names = frozenset(node.get_name() for node in self.nodes)
        for node in self.nodes:
            node.companions = names
            executor = make_executor(context)
            executor.add_node(node)
            self._executors.append(executor)
            self._threads.append(
                threading.Thread(target=self._spin, args=(executor, node), name=node.get_name())
            )

    @property
    def exit_code(self) -> int:
        """The code with which the process has to end; 0 while every node works."""
        return FAILED if self.failed.is_set() else max(node.exit_code for node in self.nodes)

    def _spin(self, executor: Executor, node: PerceptionNode) -> None:
        try:
            spin(executor, self._stop, self._context, node.count_error)
        except BaseException as error:  # noqa: BLE001 - a node without executor receives nothing: the process must end
            node.get_logger().fatal(f"the executor ended: {error}")
            self.failed.set()

    def start(self) -> bool:
        """Spin every node and activate it; return False if one failed (the log has the reason)."""
        for node, thread in zip(self.nodes, self._threads, strict=True):
            thread.start()
            node.spin_thread = thread.native_id
        up = [node.autostart() for node in self.nodes]  # all nodes, so that every failure is logged
        return all(up)

    def end(self) -> None:
        """Stop spinning, then shut every node down and destroy it."""
        self._stop.set()  # first: no callback runs while publishers and timers are destroyed
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for node in self.nodes:
            node.shut_down()
        for executor, node in zip(self._executors, self.nodes, strict=True):
            executor.remove_node(node)
            executor.shutdown()
            node.destroy_node()


def check_names_of(
    graph: Sequence[GraphNode], own: Sequence[GraphNode], overrides: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse names in wildcard entries (`/**`) and overrides that no node of a graph declares.

    Other nodes' classes, which may import torch, are read only for a name that the own nodes lack.

    Args:
        graph: all nodes of a parameter file.
        own: those of this process; overrides of other nodes are left to their processes.
        overrides: values by node name ("" for all) and name.

    Raises:
        ConfigError: lists the names, each with the nearest ones that exist.
    """

    def check(nodes: Sequence[GraphNode], names: Iterable[str], where: str) -> None:
        try:
            check_names(_declared([node for node in nodes if node in own]), names)
        except ConfigError:
            try:
                check_names(_declared(nodes), names)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error

    check(graph, dict.fromkeys(name for node in graph for name in node.inherited), "/**")
    for name, values in overrides.items():
        named = [node for node in graph if name in ("", node.name, node.path)]
        if not named:
            paths = ", ".join(node.path for node in graph)
            raise ConfigError(f"-p {name}:...: no such node; the nodes are {paths}")
        if any(node in own for node in named):
            check(named, values, "-p")


def _declared(nodes: Sequence[GraphNode]) -> list[Parameter]:
    """Return the parameters that nodes declare."""
    classes: list[type[PerceptionNode]] = [
        class_of("perception_rt.node", node.name, "Node") for node in nodes
    ]
    return [parameter for node_class in classes for parameter in node_class.PARAMETERS]


def node_factory(spec: GraphNode) -> Callable[[], PerceptionNode]:
    """Return a function that creates the node of one entry of a parameter file.

    Raises:
        ConfigError: the entry sets a parameter that the node does not have.
    """
    node_class: type[PerceptionNode] = class_of("perception_rt.node", spec.name, "Node")
    try:
        check_names(node_class.PARAMETERS, spec.parameters)
    except ConfigError as error:
        raise ConfigError(f"{spec.path}: {error}") from error
    return partial(node_class, namespace=spec.namespace)


def run(
    factories: Sequence[Callable[[], PerceptionNode]],
    args: list[str] | None = None,
    images: bool = True,
) -> NoReturn:
    """Run nodes until SIGINT, SIGTERM or the end of a player; then end the process.

    The exit code is 0, 1 if a node could not be activated, 70 if an executor failed, or 75 if messages no
    longer reach this process (`link`). The interpreter is not finalized: with torch that takes up to a
    second, and crashes while a model still computes.

    Args:
        factories: make the nodes, after rclpy is up.
        args: ROS arguments (`--ros-args ...`), as from a command line.
        images: whether a node sends images or clouds; see `transport_environment`.
    """
    keep_large_blocks()
    # Inference releases the interpreter at each operator and waits for it again. With the usual 5 ms, and a
    # thread of each other node, a forward of 15 ms took 40 ms.
    sys.setswitchinterval(SWITCH_S)
    os.environ.update(transport_environment(images))  # before rclpy.init: DDS reads it once
    clean_shared_memory()
    if little := shortage():
        print(little, file=sys.stderr)
    # Events and locks may deadlock in a signal handler; SimpleQueue does not.
    exit_codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: exit_codes.put(0))
    stop = threading.Event()
    nodes: list[PerceptionNode] = []
    threading.Thread(target=_exit_soon, args=(exit_codes, stop, nodes), daemon=True).start()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        nodes += [factory() for factory in factories]
        graph = Graph(nodes)
    except (ConfigError, *REFUSED) as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        print(kind + " ".join(str(error).split()), file=sys.stderr)
        rclpy.try_shutdown()
        _exit(1)
    up: list[bool] = []
    # On a thread, since loading a model cannot be interrupted.
    bring_up = threading.Thread(target=lambda: up.append(graph.start()), name="bring-up", daemon=True)
    bring_up.start()
    while bring_up.is_alive() and not stop.is_set():
        bring_up.join(SPIN_S)
    while any(up) and not stop.wait(SPIN_S) and rclpy.ok() and not graph.exit_code:
        if any(node.finished.is_set() for node in graph.nodes):
            _drain(graph, stop)
            break
    code = graph.exit_code or (0 if any(up) or stop.is_set() else 1)
    if not (stop.is_set() or rclpy.ok()):
        code = FAILED
    exit_codes.put(code)
    graph.end()
    rclpy.try_shutdown()
    _exit(code)


def _drain(graph: Graph, stop: threading.Event) -> None:
    """Wait until the nodes have answered the last played messages."""
    now_s = time.monotonic()
    end_s, idle_s = now_s + DRAINED_S, now_s
    while now_s < end_s and now_s - idle_s < DRAIN_S and not stop.wait(SPIN_S):
        now_s = time.monotonic()
        if any(node.pending() for node in graph.nodes):
            idle_s = now_s


def _exit_soon(
    exit_codes: queue.SimpleQueue[int], stop: threading.Event, nodes: Sequence[PerceptionNode]
) -> None:
    """End the process soon after the first exit code, as a model cannot be interrupted."""
    code = exit_codes.get()
    stop.set()
    time.sleep(END_S)
    end_s = time.monotonic() + FINISH_S
    while any(node.finishing() for node in nodes) and time.monotonic() < end_s:
        time.sleep(SPIN_S)
    _exit(code)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
