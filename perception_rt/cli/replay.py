"""Replay rosbag2 recordings through the nodes' own code in virtual time; score, compare and report.

Runs without ROS. With `--inference fixed:MS` two runs write identical files. Exit codes: 0 success; 1 a
comparison or a budget failed; 2 the input cannot be used; 3 replayed, but part of the recording could not be
read or a topic that a node subscribes to is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perception_rt.cli.overrides import parse_parameters, parse_remaps
from perception_rt.types import ConfigError

if TYPE_CHECKING:
    from perception_rt.replay.session import ReplayResult, Session

LONGEST_GAP_S = 1e9
MOST_EXPLAINED = 20  # of each sensor: one takes seconds to a minute
STEADY_S, STEADY = 2.0, 0.05
"""Played time, s, and share of the recording after which its speed is measured: the first calls are slow."""
JUDGED_S, JUDGED, SURE_S, SURE = 2.0, 0.1, 10.0, 0.3
"""The whole time is forecast from the first time and share on, or from the second time or share on."""
LINES, BOXES, TRUTH, COMPARE = 0.02, 0.12, 0.4, 0.2
"""Times of a report without and with detectors, scores, and a comparison, in shares of that of playing."""
PAGE, PICTURES = 35.0, 25.0
"""Time of the report's page, and of the pictures of a detector, in units of `ruler_s`."""
EXAMPLES = """\
  perception-rt replay drive1 --config config/kitti.yaml --out out/replay
  perception-rt replay drive1 --config my_car.yaml -p camera_detector:bundle:=mine.pt --out out/mine
  perception-rt replay drive1 --config my_car.yaml --inference fixed:20 --out out/new --compare golden
  perception-rt replay drive1 --config my_car.yaml --out out/r --budget age_p99=60 --budget 'ap50>=0.6'
  perception-rt replay drive1 --config my_car.yaml --truth /ground_truth --truth labels/ --out out/scored
  perception-rt replay drives/ --config my_car.yaml --jobs 4 --out out/all
  perception-rt replay drive1 --config my_car.yaml --live foxglove --out out/seen"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `replay`."""
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="BAG", help="a rosbag2, or a folder of rosbag2 recordings"
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="ROS parameter file of the nodes"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--inference",
        default="measured",
        metavar="HOW",
        help="inference time: measured (here; default), fixed:MS, or trace:FILE (a ledger.csv)",
    )
    parser.add_argument(
        *("-p", "--param"),
        action="append",
        default=[],
        metavar="[NODE:]NAME:=VALUE",
        help="override a parameter",
    )
    parser.add_argument(
        *("-r", "--remap"),
        action="append",
        default=[],
        metavar="FROM:=TO",
        help="remap a topic; repeatable",
    )
    parser.add_argument(
        "--time",
        default="auto",
        metavar="HOW",
        help="clock: log (log times), stamps (each topic by its stamps), or auto (log times, moved by one "
        "offset where the stamps are of another clock; default)",
    )
    parser.add_argument(
        "--max-gap",
        type=float,
        metavar="S",
        help="skip longer gaps between messages, s (60)",
    )
    parser.add_argument("--no-report", action="store_true", help="do not write report.html and report.png")
    parser.add_argument(
        "--explain",
        type=int,
        metavar="N",
        help="heat maps of N detections of each sensor in the report: the highest score, then the lowest",
    )
    parser.add_argument("--open", action="store_true", help="open the report in the browser")
    judging = parser.add_argument_group("scores, comparison, budgets")
    judging.add_argument(
        "--truth",
        action="append",
        default=[],
        metavar="SOURCE",
        help="ground truth: a topic of the bag, KITTI labels (folder or file), or a MOT gt.txt; repeatable",
    )
    judging.add_argument(
        "--compare", type=Path, metavar="GOLDEN", help="compare with the folder of an earlier replay"
    )
    judging.add_argument(
        "--tolerance", type=float, metavar="T", help="absolute and relative tolerance of the comparison"
    )
    judging.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="field that may differ; repeatable",
    )
    judging.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="[STREAM:]METRIC=LIMIT",
        help="a limit that must hold, like age_p99=60 (ms); repeatable",
    )
    judging.add_argument(
        "--mine",
        type=int,
        metavar="N",
        help="write the N moments with the largest disagreement between sensors, or faults, to OUT/mined",
    )
    live = parser.add_argument_group("live view")
    live.add_argument("--live", metavar="VIEWER", help="foxglove[:[HOST:]PORT] or rerun[:FILE.rrd|HOST:PORT]")
    live.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="playback speed, in multiples of the recording's (1 with --live)",
    )
    many = parser.add_argument_group("many bags")
    many.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel bags (1)")
    many.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on Ray: address of a cluster (default: this machine)",
    )
    parser.add_argument("--progress", choices=("bar", "json", "none"), default="bar", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Replay; returns the exit code."""
    began_s = time.monotonic()
    from perception_rt.replay.batch import find_bags

    if args.open and args.no_report:
        raise ConfigError("--open: there is no report with --no-report")
    bags = find_bags(args.bags, skip=args.out)
    if len(bags) == 1 and bags[0] in args.bags and args.ray is None:
        return _replay_one(args, bags[0], began_s)
    return _replay_many(args, bags)


def _session(args: argparse.Namespace, bag: Path) -> Session:
    from perception_rt.replay.budget import parse_budget
    from perception_rt.replay.compare import VOLATILE, Tolerance
    from perception_rt.replay.lockstep.runner import MAX_GAP_S
    from perception_rt.replay.session import Session
    from perception_rt.replay.time_base import TIMES

    if args.speed is not None and not args.speed > 0:
        raise ConfigError(f"--speed={args.speed}: must be above 0")
    if args.explain is not None and not 1 <= args.explain <= MOST_EXPLAINED:
        raise ConfigError(f"--explain={args.explain}: must be from 1 to {MOST_EXPLAINED}")
    if args.time not in TIMES:
        raise ConfigError(f"--time={args.time}: must be one of {', '.join(TIMES)}")
    if args.max_gap is not None and not 0 < args.max_gap <= LONGEST_GAP_S:
        raise ConfigError(f"--max-gap={args.max_gap}: must be above 0 and at most {LONGEST_GAP_S:g}")
    return Session(
        bag=bag,
        config=args.config,
        out=args.out,
        inference=args.inference,
        overrides=parse_parameters(args.param),
        remaps=parse_remaps(args.remap),
        speed=args.speed if args.speed or not args.live else 1.0,
        time=args.time,
        max_gap_s=MAX_GAP_S if args.max_gap is None else args.max_gap,
        truths=args.truth,
        golden=args.compare,
        tolerance=None if args.tolerance is None else Tolerance(args.tolerance, args.tolerance),
        volatile=(*VOLATILE, *args.ignore),
        budgets=[parse_budget(text, scored=bool(args.truth)) for text in args.budget],
        report=not args.no_report,
        explain=args.explain or 0,
        arguments=_arguments(args),
    )


def _arguments(args: argparse.Namespace) -> dict[str, object]:
    """Return the arguments that determine the outcome of a replay, for run.json."""
    names = (
        *("config", "inference", "param", "remap", "time", "max_gap"),
        *("truth", "compare", "tolerance", "ignore", "budget"),
    )
    return {name: str(value) if isinstance(value := getattr(args, name), Path) else value for name in names}


def _replay_one(args: argparse.Namespace, bag: Path, began_s: float) -> int:
    from perception_rt.replay.mine import check_count, mine
    from perception_rt.replay.session import run_session

    check_count(args.mine)
    session = _session(args, bag)
    viewer = None
    with ExitStack() as stack:
        if args.live:
            from perception_rt.replay.live import open_live

            viewer = stack.enter_context(closing(open_live(args.live)))
            print(viewer.where, flush=True)
        try:
            forecast = Forecast(began_s, session)
            progress = stack.enter_context(_progress(args.progress, bag.name, forecast))
            outcome = run_session(session, viewer, progress)
            moments = mine(args.out, bag, outcome.metrics, args.mine) if args.mine else []
        except OSError as error:  # usually a full disk
            raise ConfigError(f"--out={args.out}: {error}") from error
    if args.progress != "json":
        _print_result(outcome, args, time.monotonic() - began_s)
        if args.mine:
            print(f"{len(moments)} moments in {args.out / 'mined'}")
    if args.open:
        _open(args.out / "report.html")
    return outcome.code


def _replay_many(args: argparse.Namespace, bags: list[Path]) -> int:
    from rich.console import Console

    from perception_rt.replay.batch import BatchPlan, batch_table, exit_code, merge_runs, run_batch
    from perception_rt.replay.report import write_index
    from perception_rt.replay.summary import metrics_table

    if args.live:
        raise ConfigError(f"--live={args.live}: shows one recording, not {len(bags)}")
    _session(args, bags[0])  # report bad arguments once, before any bag is started
    outcomes = run_batch(
        bags, args.out, lambda name: _arguments_of_one(args, name), BatchPlan(args.jobs, args.ray)
    )
    console = Console()
    if any(outcome.state != "failed" for outcome in outcomes):
        console.print(metrics_table(merge_runs(args.out, outcomes)))
    write_index(args.out, [args.out / outcome.name for outcome in outcomes])
    console.print(batch_table(outcomes))
    console.print(args.out / "index.html", markup=False, highlight=False, soft_wrap=True)
    if args.open:
        _open(args.out / "index.html")
    return exit_code(outcomes)


def _open(page: Path) -> None:
    """Open a page in the browser, or print that there is none."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser found: open {page} yourself", file=sys.stderr)


def _arguments_of_one(args: argparse.Namespace, name: str) -> list[str]:
    """Return the command line for one of many bags; its golden run has the bag's name."""
    given = ["--config", str(args.config), "--inference", args.inference, "--time", args.time]
    for option in ("param", "remap", "truth", "ignore", "budget"):
        given += [word for value in getattr(args, option) for word in (f"--{option}", value)]
    if args.compare:
        given += ["--compare", str(args.compare / name)]
    for option in ("tolerance", "speed", "max_gap", "mine", "explain"):
        if getattr(args, option) is not None:
            given += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    return given + ["--no-report"] * args.no_report


class Forecast:
    """Forecasts how long a replay takes in all, from what it measured on this machine so far.

    Args:
        began_s: when the command began, s of `time.monotonic`. session: what is replayed.
    """

    def __init__(self, began_s: float, session: Session) -> None:
        self._began_s, self._session = began_s, session
        self._first_s = 0.0
        self._steady: tuple[float, float] | None = None  # time, and position in the recording, s
        self._report: tuple[float, float] | None = None

    def update(self, done_s: float, total_s: float, now_s: float) -> float | None:
        """Return the whole time, s; None while too little is played.

        Args:
            done_s, total_s: position in the recording, and its length, s. now_s: of `time.monotonic`.
        """
        self._first_s = self._first_s or now_s
        played_s, session = now_s - self._first_s, self._session
        if self._steady is None:
            if played_s >= STEADY_S or done_s >= STEADY * total_s:
                self._steady = now_s, done_s
            return None
        early = played_s < JUDGED_S or done_s < JUDGED * total_s
        since_s, from_s = self._steady
        if (early and played_s < SURE_S and done_s < SURE * total_s) or done_s <= from_s:
            return None
        if self._report is None:
            self._report = _report_time(session) if session.report else (0.0, 0.0)
        play_s = played_s + max(total_s - done_s, 0.0) * (now_s - since_s) / (done_s - from_s)
        share = self._report[0] + TRUTH * bool(session.truths) + COMPARE * (session.golden is not None)
        return self._first_s - self._began_s + play_s * (1 + share) + self._report[1]


def _report_time(session: Session) -> tuple[float, float]:
    """Return the time of a report, as a share of the time of playing, and what does not depend on it, s."""
    from perception_rt.component.graph import SENSORS, read_graph

    detectors = sum(node.name in SENSORS for node in read_graph(session.config))
    return BOXES if detectors else LINES, (PAGE + PICTURES * detectors) * ruler_s()


def ruler_s() -> float:
    """Return how long some pictures take to encode here and now, s, which tells the speed of this machine."""
    import cv2
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 255, (480, 720, 3), np.uint8)
    times = []
    for _ in range(3):
        began_s = time.perf_counter()
        for _ in range(4):
            cv2.imencode(".jpg", picture)
        times.append(time.perf_counter() - began_s)
    return min(times)  # the detectors compute meanwhile


@contextmanager
def _progress(how: str, title: str, forecast: Forecast) -> Iterator[Callable[[float, float], None]]:
    """Yield a function of the seconds done and in total, shown as a bar or as lines of JSON."""
    if how == "none":
        yield lambda done_s, total_s: None
    elif how == "json":
        from perception_rt.replay.batch import ProgressLines

        lines: list[ProgressLines] = []

        def write_line(done_s: float, total_s: float) -> None:
            if not lines:
                lines.append(ProgressLines(total_s, sys.stderr))
            lines[0](done_s)

        yield write_line
    else:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(title, total=None, note="loading")
            told: list[float] = []

            def show(done_s: float, total_s: float) -> None:
                whole_s = forecast.update(done_s, total_s, time.monotonic())
                note = f"{done_s:.0f} of {total_s:.0f} s"
                if whole_s is not None:
                    text = f"about {whole_s:.{whole_s < 10:d}f} s in all"
                    note += f", {text}"
                    if not told:
                        told.append(whole_s)
                        bar.console.print(text, highlight=False)
                bar.update(task, completed=done_s, total=total_s, note=note)

            yield show


def _print_result(outcome: ReplayResult, args: argparse.Namespace, whole_s: float) -> None:
    """Print the result as tables and a line; `whole_s` is the total time, s."""
    from rich.console import Console

    from perception_rt.replay.budget import budget_table
    from perception_rt.replay.compare import comparison_table
    from perception_rt.replay.lockstep.router import COMPRESSED, compressed_hint
    from perception_rt.replay.summary import metrics_table

    console = Console()
    console.print(metrics_table(outcome.metrics))
    if outcome.checks:
        console.print(budget_table(outcome.checks))
    if outcome.comparison is not None and not outcome.comparison.same:
        console.print(comparison_table(outcome.comparison))
    bag = outcome.metrics["bag"]
    there = {**bag["topics"], **outcome.metrics["outputs"]}
    for topic, nodes in bag["missing_topics"].items():
        fault = f"of another type, {there[topic]['type']}" if topic in there else "not in the recording"
        if " encoded as " in fault:
            fault += " (convert it: only CDR and ROS 1 messages are read)"
        if fault.endswith(COMPRESSED):
            fault = f"of another type, {compressed_hint(topic)}"
        console.print(f"{fault}: {topic}, wanted by {', '.join(nodes)}", markup=False)
    for reason, count in bag["unreadable"]["reasons"].items():
        console.print(f"could not be read: {count} x {reason}", markup=False)
    for reason in bag["faults"]:
        console.print(f"the recording: {reason} (no message is lost)", markup=False)
    for finding in outcome.run["findings"]:
        console.print(f"warning: {finding}", markup=False, highlight=False, soft_wrap=True)
    run = outcome.run
    left = args.out if args.no_report else args.out / "report.html"
    line = f"{run['bag_s']:.1f} s of recording in {run['wall_s']:.1f} s, {whole_s:.1f} s in all; {left}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
