"""One run of the demo: plan, run the graph, score, draw."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from perception_rt.cli.demo.cache import recorded
from perception_rt.cli.demo.folder import clear_results
from perception_rt.cli.demo.plan import (
    TRUE_ODOMETRY,
    DemoPlan,
    DemoStream,
    at_rates,
    plan_bag,
    plan_simulation,
    plan_video,
)
from perception_rt.cli.demo.rates import measure, reduced, sustained
from perception_rt.cli.demo.sensors import SIMULATED
from perception_rt.model.engine.cache import cache_folder
from perception_rt.model.task import DETECT2D, DETECT3D
from perception_rt.node.transport import transport_environment
from perception_rt.replay.summary import summarise, summary_table
from perception_rt.sim import SIM_CLASSES
from perception_rt.types import ConfigError, Detections2D, Detections3D, PerceptionError

if TYPE_CHECKING:
    from perception_rt.node.collector import Collector

BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
BAR_HZ = 4  # of the bar while the graph runs, which needs the processor more


def run_demo(args: argparse.Namespace) -> int:
    """Plan, run, score and draw.

    Raises:
        PerceptionError: an option is invalid, or the graph failed; one line with the reason.
    """
    from perception_rt.cli.demo.pictures import draw  # imports rclpy: only for a valid plan

    console = Console()
    clear_results(args.out)
    if args.video is not None:
        if not args.bundle:
            console.print("sim_camera knows the simulated world only; --bundle takes a detector of your own")
        plan = plan_video(args)
    elif args.bag:
        plan = plan_bag(args)
    else:
        plan = plan_simulation(args)
    os.environ.update(transport_environment())
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if plan.simulated:
        plan, collector = run_simulated(plan, console, args)
    else:
        collector = run_graph(plan, console, args.separate)
    summary = summaries(plan, collector)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(plan, collector, args.out, console)
    console.print(summary_table(summary))
    console.print(f"summary, pictures and films: {args.out}")
    return 0


def run_simulated(asked: DemoPlan, console: Console, args: argparse.Namespace) -> tuple[DemoPlan, Collector]:
    """Run the drive, again at lower rates if the machine did not keep up; return the plan of the last run."""
    if args.rates == "fixed" or not asked.loads:
        plan = rendered(asked, console)
        return plan, run_graph(plan, console, args.separate)
    with console.status("measuring how fast the detectors are here"):
        seconds = measure(asked.loads)
    used: dict[str, float] | None = sustained(asked.asked, seconds)
    each = {name: f"{took * 1e3:.0f} ms a frame" for name, took in seconds.items()}
    while used:
        rates = []
        for name, rate in asked.asked.items():
            lower = f", reduced from {rate:g}" if used[name] < rate else ""
            rates.append(f"{name} {used[name]:g} Hz ({each[name]}{lower})")
        console.print("rates: " + "; ".join(rates), highlight=False, soft_wrap=True)
        plan = rendered(at_rates(asked, used), console)
        collector = run_graph(plan, console, args.separate)
        answered = {
            stream.node: len(answers_of(stream, collector)) / stream.frames
            for stream in plan.streams
            if stream.node in used and stream.frames
        }
        # The detectors alone were timed; fusion, tracks and whatever else runs here take their part, too.
        used = reduced(used, answered)
        each = {name: f"{share:.0%} of the frames answered" for name, share in answered.items()}
    return plan, collector


def rendered(plan: DemoPlan, console: Console) -> DemoPlan:
    """Render the drive in advance, unless it is cached; return the plan that plays it.

    So the simulator uses almost no processor time while the graph runs.
    """
    columns = (*BAR, TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("rendering the drive", total=None, visible=False)
            folder, recording = recorded(
                cache_folder() / "drives",
                plan.course,
                lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
            )
    except (ConfigError, OSError) as error:
        console.print(f"the drive is rendered while it runs: {error}", highlight=False, soft_wrap=True)
        return plan
    override = f"drive_simulator:recording:={json.dumps(str(folder))}"
    return replace(plan, recording=recording, overrides=(*plan.overrides, override))


def run_graph(plan: DemoPlan, console: Console, separate: bool = False) -> Collector:
    """Run `perception-rt up` in its own process and record its messages."""
    from perception_rt.node.collector import Collector

    found = {stream.output: stream for stream in plan.streams if stream.task != "odometry"}
    topics = {output: (stream.task, stream.classes) for output, stream in found.items()}
    if plan.ahead:
        topics[plan.ahead] = (DETECT3D.name, plan.of("object_tracker")[0].classes)
    odometry = {stream.output for stream in plan.streams if stream.task == "odometry"}
    if plan.simulated:
        tasks = {stream.task for stream in plan.streams}
        topics |= {one.truth: (task, SIM_CLASSES) for task, one in SIMULATED.items() if task in tasks}
        odometry |= {TRUE_ODOMETRY} if odometry else set()
    command = [sys.executable, "-m", "perception_rt.cli.main", "up", str(plan.config), "--restarts", "0"]
    command += ["--separate"] * separate
    # Messages published before the collector is discovered would be missing from the results.
    listeners = f"{plan.source}:listeners:={json.dumps([*topics, *sorted(odometry)])}"
    for override in (*plan.overrides, listeners):
        command += ["-p", override]
    tracks_2d = [stream.output for stream in plan.of("object_tracker") if stream.task == DETECT2D.name]
    with Collector(topics, sorted(odometry), tracks_2d) as collector, progress_bar(console) as progress:
        answered = {stream.output: stream for stream in plan.streams if stream.scored}
        bars = {
            output: progress.add_task(stream.name, total=stream.frames) for output, stream in answered.items()
        }

        def show() -> None:
            for output, bar in bars.items():
                progress.update(bar, completed=collector.counts[output])

        graph = subprocess.Popen(command, start_new_session=True)
        try:
            while graph.poll() is None:
                show()
                time.sleep(1 / BAR_HZ)
        finally:
            if graph.poll() is None:
                os.killpg(graph.pid, signal.SIGINT)
                graph.wait(10)
        show()
    if graph.returncode:
        raise PerceptionError(f"the graph ended with status {graph.returncode}; its log is above")
    return collector


def summaries(plan: DemoPlan, collector: Collector) -> dict[str, dict[str, Any]]:
    """Return the summary of every stream, by name."""
    found = {}
    for stream in plan.streams:
        account = collector.statuses.get(stream.status)
        if account is None:
            raise PerceptionError(f"{stream.topic}: no diagnostics came from {stream.node}; its log is above")
        truths = None
        if plan.simulated and stream.scored:
            truths = common_truth(collector.detections[SIMULATED[stream.task].truth], stream)
        found[stream.name] = summarise(
            account, answers_of(stream, collector), truths, stream.classes, stream.task
        )
        asked = plan.asked.get(stream.node)
        if asked:
            found[stream.name] |= {
                "requested_hz": asked,
                "used_hz": float(stream.rate_hz),
                "reduced": bool(stream.rate_hz < asked),
            }
    return found


def answers_of(stream: DemoStream, collector: Collector) -> Mapping[int, Any]:
    """Return the output of a stream by stamp: detections or odometry."""
    return (
        collector.motions[stream.output] if stream.task == "odometry" else collector.detections[stream.output]
    )


def common_truth(
    truths: Mapping[int, Detections2D | Detections3D], stream: DemoStream
) -> dict[int, Detections2D | Detections3D] | None:
    """Return the simulator's truth in a bundle's labels; None if they share no class."""
    classes = stream.classes
    shared = {SIM_CLASSES.index(name): classes.index(name) for name in SIM_CLASSES if name in classes}
    if not shared:
        return None
    relabelled = {}
    for stamp_ns, truth in sorted(truths.items()):
        kept = truth[np.isin(truth.labels, list(shared))]
        if isinstance(kept, Detections3D) and stream.range:
            low, high = np.array(stream.range).reshape(2, 3)[:, :2]
            kept = kept[((kept.xyzlwh_yaw[:, :2] >= low) & (kept.xyzlwh_yaw[:, :2] <= high)).all(1)]
        labels = np.array([shared[label] for label in kept.labels], np.int64)
        boxes = kept.xyzlwh_yaw if isinstance(kept, Detections3D) else kept.xyxy
        relabelled[stamp_ns] = type(kept)(boxes, kept.scores, labels)
    return relabelled


def progress_bar(console: Console) -> Progress:
    """Return a progress bar with counts and time."""
    return Progress(*BAR, TimeElapsedColumn(), console=console, refresh_per_second=BAR_HZ)
