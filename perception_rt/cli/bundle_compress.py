"""`perception-rt bundle compress`: convert a bundle to int8 or fp16 and compare it with fp32."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
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
        "--precision", choices=("int8", "fp16"), default="int8", help="precision of the weights (int8)"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of mAP50, or without labels of agreement with fp32, from 0 to 100; more is refused (1.0)",
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
    if not 0 <= args.max_loss <= 100:
        raise ConfigError(f"--max-loss={args.max_loss:g}: must be from 0 to 100")
    archive = read_archive(resolve_bundle(args.bundle))
    plain = compress.onnx_runtime(archive)
    frames, measure, count = _data(archive, args)
    with frame_bar("calibrate", len(frames)) as on_frame:
        feeds = compress.network_inputs(plain, frames, on_frame)
    new = compress.compressed(archive, args.precision, feeds)
    small = compress.onnx_runtime(new, args.precision)
    with frame_bar("compare", count * 2) as on_frame:
        accuracy = measure(plain, small, on_frame)
    loss = accuracy["loss"]
    if loss > args.max_loss:
        raise BundleError(
            f"{args.bundle}: {args.precision} loses {loss:.2f} points of {accuracy['measure']}, more than "
            f"--max-loss={args.max_loss:g}: nothing is written"
        )
    took = _latency(plain, small, frames[0])
    sizes = [compress.program_size(archive, "fp32"), compress.program_size(new, args.precision)]
    record = {
        "precision": args.precision,
        "of": archive.manifest.sha256,
        **accuracy,
        "evaluated_frames": count,
        "calibration_frames": len(frames),
        "max_loss": args.max_loss,
        "size_mb": [round(size, 4) for size in sizes],
        "latency_ms": [round(ms, 3) for ms in took],
        "command": _command(args),
    }
    compress.write_compressed(args.out, new, record)
    print(
        f"{args.out}: {args.precision}, {accuracy['measure']} {accuracy['before']:.4f} -> "
        f"{accuracy['after']:.4f} on {count} frames; {sizes[0]:.2f} -> {sizes[1]:.2f} MB; "
        f"{took[0]:.1f} -> {took[1]:.1f} ms on one thread"
    )
    return 0


Measure = Callable[[Any, Any, Callable[[], None]], dict[str, Any]]


def _data(archive: Any, args: argparse.Namespace) -> tuple[list[np.ndarray], Measure, int]:
    """Return frames to calibrate on, a function to compare two runtimes on the others, and their number.

    Raises:
        ConfigError: there are fewer than two frames.
    """
    from perception_rt.cli.bench import frames_of, labelled_of
    from perception_rt.model.task import TASKS

    task = TASKS[archive.manifest.task]
    labelled = labelled_of(archive, args.data, args.labels, args.frames)
    if labelled is not None and labelled.count >= 2:
        first, second = _halves(labelled)
        step = -(-first.count // CALIBRATION_FRAMES)
        frames = [task.sensor_data(frame) for frame in islice(first.frames(), 0, None, step)]

        def average_precision(plain: Any, small: Any, on_frame: Callable[[], None]) -> dict[str, Any]:
            return _precision(plain, small, second, task.sensor_data, on_frame)

        if frames:
            return frames, average_precision, second.count
    found = frames_of(archive, args.data, min(args.frames, UNLABELLED_FRAMES))
    if len(found) < 2:
        raise ConfigError(f"--data={args.data}: one {task.golden_origin}: compression needs two at least")
    middle = min(len(found) // 2, CALIBRATION_FRAMES)

    def agreement(plain: Any, small: Any, on_frame: Callable[[], None]) -> dict[str, Any]:
        return agreement_of(plain, small, found[middle:], on_frame)

    return found[:middle], agreement, len(found) - middle


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


def _precision(
    plain: Any, small: Any, labelled: Any, data_of: Callable[[Any], np.ndarray], on_frame: Callable[[], None]
) -> dict[str, Any]:
    """Return the mean average precision of both at IoU 0.5 on labelled frames.

    Raises:
        ConfigError: no label is of a class of the bundle.
    """
    from perception_rt.cli.bench_labels import average_precision

    before, after = (average_precision(one, labelled, data_of, on_frame) for one in (plain, small))
    if before is None or after is None:
        raise ConfigError("the labels hold no object of a class of this bundle")
    return _accuracy("map50", before, after)


def agreement_of(
    plain: Any, small: Any, frames: Sequence[np.ndarray], on_frame: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Compare the boxes of a compressed network with the original ones, at the bundle's thresholds.

    Args:
        plain, small: runtimes.
        frames: inputs.
        on_frame: called after each run.

    Returns:
        ``after``: 2 M / (K + L) of K and L boxes, M of them matched (same class, IoU 0.5); ``before`` is 1.
        ``score_difference``: the mean of the matched ones. Of networks that label pixels ``after`` is the
        part with the same label, of the pixels that either of them labels.

    Raises:
        ConfigError: the original network finds nothing in these frames.
    """
    from perception_rt.model.compress import matched_scores
    from perception_rt.model.segmenter import SegmenterRuntime

    if isinstance(plain, SegmenterRuntime):
        return _agreement_of_pixels(plain, small, frames, on_frame)
    boxes, pairs = [0, 0], []
    for frame in frames:
        answers = []
        for place, runtime in enumerate((plain, small)):
            answers.append(runtime(frame)[:3])
            boxes[place] += len(answers[-1][1])
            on_frame()
        pairs.append(matched_scores(*answers))
    if not boxes[0]:
        raise ConfigError(
            "the network finds nothing in these frames: they cannot show what compression loses"
        )
    matched = np.concatenate(pairs)
    difference = float(np.abs(matched[:, 0] - matched[:, 1]).mean()) if len(matched) else None
    accuracy = _accuracy("agreement", 1.0, 2 * len(matched) / sum(boxes))
    return {**accuracy, "boxes": boxes, "score_difference": difference and round(difference, 5)}


def _agreement_of_pixels(
    plain: Any, small: Any, frames: Sequence[np.ndarray], on_frame: Callable[[], None]
) -> dict[str, Any]:
    from perception_rt.types.segmentation import UNLABELLED

    same = labelled = 0
    for frame in frames:
        maps = []
        for runtime in (plain, small):
            maps.append(runtime(frame)[4])
            on_frame()
        either = (maps[0] != UNLABELLED) | (maps[1] != UNLABELLED)
        labelled += int(either.sum())
        same += int((maps[0] == maps[1])[either].sum())
    if not labelled:
        raise ConfigError(
            "the network labels nothing in these frames: they cannot show what compression loses"
        )
    return _accuracy("agreement", 1.0, same / labelled)


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
    words += ["--precision", args.precision, "--data", args.data.name]
    if args.labels:
        words += ["--labels", args.labels if args.labels.startswith("/") else args.labels.rsplit("/", 1)[-1]]
    words += ["--frames", str(args.frames), "--max-loss", f"{args.max_loss:g}", "--out", args.out.name]
    return shlex.join(words)
