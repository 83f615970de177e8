"""`perception-rt bundle compress`: int8, fp16, pruning, distillation; compared with the network in fp32."""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from perception_rt.types.errors import BundleError, ConfigError

CALIBRATION_FRAMES = 64  # that determine the ranges of int8
UNLABELLED_FRAMES = 100  # kept in memory
TIMED_CALLS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from perception_rt.cli.bundle_calibrate import add_data_arguments

    parser.add_argument("bundle", metavar="BUNDLE", help="bundle file, or name of a shipped bundle")
    parser.add_argument(
        "--precision",
        choices=("int8", "fp16", "fp32"),
        help="precision of the weights (int8; fp32 of a narrower network)",
    )
    narrower = parser.add_argument_group("a narrower network, of `train camera` or `train pillars`")
    narrower.add_argument(
        "--prune",
        type=float,
        metavar="FRACTION",
        help="remove this part of the channels of each layer, the least important ones, and fine-tune",
    )
    narrower.add_argument(
        "--distill",
        type=float,
        metavar="WIDTH",
        help="train a new network with this part of the channels on the simulator; BUNDLE is its teacher",
    )
    narrower.add_argument(
        "--train",
        type=Path,
        metavar="PATH",
        help="labelled data to fine-tune on, as of `train --data`; not those of --data (the simulator)",
    )
    narrower.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="of the training (the recipe's; after --prune a quarter of them)",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of mAP50, or of agreement with fp32 where there are no labels, or no boxes that they could "
        "judge; from 0 to 100; more is refused (1.0)",
    )


def run(args: argparse.Namespace) -> int:
    """Compress with the first half of the data, measure on the second, and write the bundle.

    Raises:
        BundleError: the network cannot be compressed, or loses too much accuracy.
        ConfigError: the data has no pictures or clouds.
    """
    from perception_rt.cli.bundle_calibrate import check_data, frame_bar
    from perception_rt.model import compress
    from perception_rt.model.archive import read_archive
    from perception_rt.model.runtime import resolve_bundle

    check_data(args)
    _check(args)
    precision = args.precision or "int8"
    archive = whole = read_archive(resolve_bundle(args.bundle))
    plain = compress.onnx_runtime(archive)
    frames, compare, count = _data(plain, archive, args)
    narrower: dict[str, Any] = {}
    if _fraction(args) is not None:
        precision = args.precision or "fp32"
        archive, narrower = _shrunk(archive, args)
    feeds = []
    if precision == "int8":
        with frame_bar("calibrate", len(frames)) as on_frame:
            feeds = compress.network_inputs(compress.onnx_runtime(archive), frames, on_frame)
    new = compress.compressed(archive, precision, feeds)
    small = compress.onnx_runtime(new, precision)
    with frame_bar("compare", count) as on_frame:
        accuracy = compare(small, on_frame)
    loss = accuracy["loss"]
    if loss > args.max_loss:
        raise BundleError(
            f"{args.bundle}: {_title(args, precision)} loses {loss:.2f} points of {accuracy['measure']}, "
            f"more than --max-loss={args.max_loss:g}: nothing is written"
        )
    took = _latency(plain, small, frames[0])
    sizes = [compress.program_size(whole, "fp32"), compress.program_size(new, precision)]
    record = {
        "precision": precision,
        "of": whole.manifest.sha256,
        **narrower,
        **accuracy,
        "evaluated_frames": count,
        "calibration_frames": len(feeds),
        "max_loss": args.max_loss,
        "size_mb": [round(size, 4) for size in sizes],
        "latency_ms": [round(ms, 3) for ms in took],
        "command": _command(args),
    }
    compress.write_compressed(args.out, new, record)
    print(
        f"{args.out}: {_title(args, precision)}, {accuracy['measure']} {accuracy['before']:.4f} -> "
        f"{accuracy['after']:.4f} on {count} frames; {sizes[0]:.2f} -> {sizes[1]:.2f} MB; "
        f"{took[0]:.1f} -> {took[1]:.1f} ms on one thread"
    )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        ConfigError: names the option.
    """
    if not 0 <= args.max_loss <= 100:
        raise ConfigError(f"--max-loss={args.max_loss:g}: must be from 0 to 100")
    if args.prune is not None and args.distill is not None:
        raise ConfigError(f"--distill={args.distill:g}: cannot be combined with --prune")
    for name in ("prune", "distill"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"--{name}={value:g}: must be above 0 and below 1")
    if _fraction(args) is None:
        if args.precision == "fp32":
            raise ConfigError("--precision=fp32: is for a narrower network (--prune, --distill)")
        for name in ("train", "steps"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name}={getattr(args, name)}: is for --prune and --distill")
    if args.steps is not None and args.steps < 1:
        raise ConfigError(f"--steps={args.steps}: must be >= 1")
    if args.train is not None:
        measured, learned = args.data.resolve(), args.train.resolve()
        if measured == learned or measured in learned.parents or learned in measured.parents:
            raise ConfigError(f"--train={args.train}: accuracy is measured on these data (--data)")


def _fraction(args: argparse.Namespace) -> float | None:
    """Return the part of the channels to remove; None if the network stays as wide as it is."""
    return 1 - args.distill if args.distill is not None else args.prune


def _title(args: argparse.Namespace, precision: str) -> str:
    """Return what was done, for messages."""
    ways = (("pruned by", args.prune), ("distilled to", args.distill))
    return ", ".join([*(f"{way} {value:g}" for way, value in ways if value is not None), precision])


def _shrunk(archive: Any, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return the bundle with a narrower network that was trained, and its record.

    Raises:
        BundleError, ConfigError: see `perception_rt.train.shrink.shrink`.
    """
    from perception_rt.cli.train import RECIPES
    from perception_rt.cli.train_report import progress
    from perception_rt.cli.train_run import is_first_process
    from perception_rt.model.archive import read_archive
    from perception_rt.model.runtime import resolve_device
    from perception_rt.model.task import TASKS, load_object

    manifest, fraction = archive.manifest, _fraction(args)
    network = TASKS[manifest.task].recipe
    if network not in RECIPES:
        raise BundleError(f"{args.bundle}: no recipe trains a narrower network for task {manifest.task}")
    if manifest.calibration is not None:
        raise BundleError(f"{args.bundle}: is calibrated: make the plain bundle narrower, then calibrate it")
    is_first_process()  # tells what to install where PyTorch Lightning is missing
    from perception_rt.train.recipe import Hardware
    from perception_rt.train.shrink import ShrinkSettings, shrink

    assert fraction is not None
    data = None if args.train is None else str(args.train)
    settings = ShrinkSettings(network, fraction, args.distill is not None, data, args.steps)
    hardware = Hardware(str(resolve_device("auto")))
    with tempfile.TemporaryDirectory() as folder, progress() as report:
        path = Path(folder) / args.out.name
        record = shrink(
            load_object(RECIPES[network]), archive.path, manifest, settings, path, hardware, report
        )
        made = read_archive(path)
    way = {"pruned": args.prune} if args.distill is None else {"distilled": args.distill}
    return replace(made, path=archive.path, manifest=replace(made.manifest, name=manifest.name)), {
        **way,
        **record,
    }


Compare = Callable[[Any, Callable[[], None]], dict[str, Any]]


def _data(plain: Any, archive: Any, args: argparse.Namespace) -> tuple[list[np.ndarray], Compare, int]:
    """Run a bundle on data.

    Returns:
        Frames to calibrate on, a function that compares another runtime on the others, and their number.

    Raises:
        ConfigError: there are fewer than two frames, or nothing in them that accuracy can be measured by.
    """
    from perception_rt.cli.bench import frames_of, labelled_of
    from perception_rt.cli.bench_labels import average_precision
    from perception_rt.cli.bundle_calibrate import frame_bar
    from perception_rt.model.task import TASKS

    task = TASKS[archive.manifest.task]
    labelled = labelled_of(archive, args.data, args.labels, args.frames) if plain.has_boxes else None
    if labelled is not None and labelled.count >= 2:
        first, second = _halves(labelled)
        step = -(-first.count // CALIBRATION_FRAMES)
        frames = [task.sensor_data(frame) for frame in islice(first.frames(), 0, None, step)]

        def precision(runtime: Any, on_frame: Callable[[], None]) -> float:
            found = average_precision(runtime, second, task.sensor_data, on_frame)
            if found is None:
                raise ConfigError("the labels hold no object of a class of this bundle")
            return found

        if frames:
            with frame_bar("measure", second.count) as on_frame:
                before = precision(plain, on_frame)
            return (
                frames,
                lambda small, on_frame: _accuracy("map50", before, precision(small, on_frame)),
                second.count,
            )
    found = frames_of(archive, args.data, min(args.frames, UNLABELLED_FRAMES))
    if len(found) < 2:
        raise ConfigError(f"--data={args.data}: one {task.golden_origin}: compression needs two at least")
    middle = min(len(found) // 2, CALIBRATION_FRAMES)
    rest = found[middle:]
    with frame_bar("measure", len(rest)) as on_frame:
        answers = answers_of(plain, rest, on_frame)
    return found[:middle], lambda small, on_frame: agreement_of(answers, small, rest, on_frame), len(rest)


def _halves(labelled: Any) -> tuple[Any, Any]:
    """Return the first and the second half of labelled frames; similar neighbours stay together."""
    moments = labelled.truth.moments
    middle = len(moments) // 2
    border = (moments[middle - 1].stamp_ns + moments[middle].stamp_ns) / 2

    def part(chosen: Sequence[Any], late: bool) -> Any:
        def frames() -> Iterator[Any]:
            return (frame for frame in labelled.frames() if (frame.stamp_ns > border) == late)

        return replace(
            labelled, frames=frames, count=len(chosen), truth=replace(labelled.truth, moments=chosen)
        )

    return part(moments[:middle], False), part(moments[middle:], True)


Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]
Answers = list[Boxes] | list[np.ndarray]  # or a map of labels for each frame


def answers_of(
    runtime: Any, frames: Sequence[np.ndarray], on_frame: Callable[[], None] = lambda: None
) -> Answers:
    """Return the answers of a network to compare others with.

    Raises:
        ConfigError: it finds nothing in these frames.
    """
    from perception_rt.types.segmentation import UNLABELLED

    answers = []
    for frame in frames:
        answers.append(_answer(runtime, frame))
        on_frame()
    if not any(len(one[1]) if isinstance(one, tuple) else (one != UNLABELLED).any() for one in answers):
        raise ConfigError(
            "the network finds nothing in these frames: they cannot show what compression loses"
        )
    return answers


def _answer(runtime: Any, frame: np.ndarray) -> Any:
    """Return what is compared: the label of every pixel, a classifier's best class, or all boxes."""
    from perception_rt.model.runtime import ClassifierRuntime

    found = runtime(frame)
    if len(found) > 4:
        return found[4]
    rows = slice(1 if isinstance(runtime, ClassifierRuntime) else None)
    return tuple(column[rows] for column in found[:3])


def agreement_of(
    answers: Answers,
    small: Any,
    frames: Sequence[np.ndarray],
    on_frame: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Compare the boxes of a compressed network with the original ones, at the bundle's thresholds.

    Args:
        answers: of the original network.
        small: runtime.
        frames: inputs.
        on_frame: called after each run.

    Returns:
        ``after``: 2 M / (K + L) of K and L boxes, M of them matched (same class, IoU 0.5); ``before`` is 1.
        ``score_difference``: the mean of the matched ones. Of networks that label pixels ``after`` is the
        part with the same label, of the pixels that either of them labels; of classifiers, the part of the
        frames with the same best class.
    """
    from perception_rt.model.compress import matched_scores
    from perception_rt.types.segmentation import UNLABELLED

    boxes, pairs, same, labelled = [0, 0], [np.zeros((0, 2))], 0, 0
    for before, frame in zip(answers, frames, strict=True):
        if isinstance(before, tuple):
            after = _answer(small, frame)
            boxes = [boxes[0] + len(before[1]), boxes[1] + len(after[1])]
            pairs.append(matched_scores(before, after))
        else:
            after = _answer(small, frame)
            either = (before != UNLABELLED) | (after != UNLABELLED)
            labelled += int(either.sum())
            same += int((before == after)[either].sum())
        on_frame()
    if labelled:
        return _accuracy("agreement", 1.0, same / labelled)
    matched = np.concatenate(pairs)
    difference = float(np.abs(matched[:, 0] - matched[:, 1]).mean()) if len(matched) else None
    accuracy = _accuracy("agreement", 1.0, 2 * len(matched) / sum(boxes))
    return {**accuracy, "boxes": boxes, "score_difference": difference and round(difference, 5)}


def _accuracy(measure: str, before: float, after: float) -> dict[str, Any]:
    """Return both values, and the loss in percentage points."""
    points = round(100 * (before - after), 3)
    return {"measure": measure, "before": round(before, 5), "after": round(after, 5), "loss": points}


def _latency(plain: Any, small: Any, frame: np.ndarray) -> tuple[float, float]:
    """Return the median time of a call of both in ms, called in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_CALLS + 1):
        for runtime, taken in zip((plain, small), times, strict=True):
            started = time.perf_counter()
            runtime(frame)
            taken.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times[0][1:])), float(np.median(times[1][1:]))


def _command(args: argparse.Namespace) -> str:
    """Return the command to repeat this, with file names only."""
    words = ["perception-rt", "bundle", "compress", args.bundle.rsplit("/", 1)[-1]]
    for name in ("precision", "prune", "distill", "steps"):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    if args.train:
        words += ["--train", args.train.name]
    words += ["--data", args.data.name]
    if args.labels:
        words += ["--labels", args.labels if args.labels.startswith("/") else args.labels.rsplit("/", 1)[-1]]
    words += ["--frames", str(args.frames), "--max-loss", f"{args.max_loss:g}", "--out", args.out.name]
    return shlex.join(words)
