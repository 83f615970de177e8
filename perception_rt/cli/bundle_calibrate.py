"""`perception-rt bundle calibrate`: calibrate the scores of a bundle to probabilities."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perception_rt.cli.bench_labels import add_labels_argument
from perception_rt.types.errors import BundleError, ConfigError

LOWEST_SCORE = 0.05  # of the fitted detections: lower ones are nearly all wrong
MOST_FRAMES = 100_000


class JudgedFrames(NamedTuple):
    """Detections of some frames: (D,) scores of the network, and whether each is correct at IoU 0.5."""

    frames: int
    scores: np.ndarray
    hits: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from perception_rt.model.calibration import METHODS

    parser.add_argument("bundle", metavar="BUNDLE", help="bundle file, or name of a shipped bundle")
    add_data_arguments(parser)
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="auto",
        help="calibration method; auto chooses by the number of detections (auto)",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--data`, `--labels`, `--frames` and `--out`."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="a recording, or a folder of pictures"
    )
    add_labels_argument(parser)
    parser.add_argument("--frames", type=int, default=1000, help="maximum number of labelled frames (1000)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle to write")


def run(args: argparse.Namespace) -> int:
    """Fit on one half of the data, measure on the other, write the bundle.

    Raises:
        BundleError: too few detections, or the error does not decrease on the held-out data.
        ConfigError: the data has no labels.
    """
    from perception_rt.model.runtime import Runtime

    check_data(args)
    runtime = Runtime.open(args.bundle, "cpu", threads=1, engine="reference")
    manifest = runtime.manifest
    if manifest.schema_version == 1 or manifest.calibration is not None:
        why = "of format 1: export it again" if manifest.schema_version == 1 else "calibrated already"
        raise BundleError(f"{args.bundle}: is {why}")
    if not runtime.has_boxes:
        raise BundleError(f"{args.bundle}: answers no boxes (task {manifest.task}), which labels could judge")
    labelled = labelled_data(runtime, args)
    with frame_bar("calibrate", labelled.count) as on_frame:
        halves = _judged_halves(runtime, labelled, on_frame)
    written = calibrate(args.bundle, halves, args.method, args.data.name, args.out)
    record = written.calibration.record
    print(
        f"{args.out}: {record['method']}, expected calibration error {record['ece_before']:.4f} -> "
        f"{record['ece_after']:.4f} on {record['detections']} detections in {record['frames']} frames left "
        f"out; score_threshold {manifest.score_threshold:g} is now {written.score_threshold:g}: the same "
        "boxes"
    )
    return 0


def check_data(args: argparse.Namespace) -> None:
    """Check that the data can be read and the output written, before anything runs.

    Raises:
        ConfigError: names the option.
    """
    if not 1 <= args.frames <= MOST_FRAMES:
        raise ConfigError(f"--frames={args.frames}: must be from 1 to {MOST_FRAMES}")
    if not args.data.exists():
        raise ConfigError(f"--data={args.data}: no such file or folder")
    if not args.out.parent.is_dir():
        raise ConfigError(f"--out={args.out}: its folder does not exist")


def labelled_data(runtime: Any, args: argparse.Namespace) -> Any:
    """Return the `LabelledFrames` of `--data`.

    Raises:
        ConfigError: there are none.
    """
    from perception_rt.cli.bench import labelled_of

    labelled = labelled_of(runtime, args.data, args.labels, args.frames)
    if labelled is None or not labelled.count:
        raise ConfigError(
            f"--data={args.data}: holds no labelled frames of this bundle's kind (see --labels)"
        )
    return labelled


def calibrate(bundle: str | Path, halves: list[JudgedFrames], method: str, data: str, out: Path) -> Any:
    """Write a calibrated copy of a bundle; its thresholds are adapted to give the same boxes.

    Args:
        bundle: file or name of the bundle.
        halves: frames to fit, and frames to measure.
        method: one of `perception_rt.model.calibration.METHODS`.
        data: name of the data, for the record.
        out: the bundle to write.

    Returns:
        Its manifest. `calibration.record` has the expected calibration error on the second half before and
        after, over the detections above the bundle's threshold.

    Raises:
        BundleError: too few detections in one of the halves, or the error does not decrease.
    """
    from perception_rt.model.archive import read_archive, write_archive
    from perception_rt.model.calibration import MIN_DETECTIONS, fit_calibration
    from perception_rt.model.manifest import bundle_sha256
    from perception_rt.model.runtime import resolve_bundle
    from perception_rt.replay.score.confidence import calibration as error_of

    archive = read_archive(resolve_bundle(bundle))
    manifest = archive.manifest
    fit, left_out = halves
    fitted = fit_calibration(fit.scores, fit.hits, method)
    answered = left_out.scores >= manifest.score_threshold
    scores, hits = left_out.scores[answered], left_out.hits[answered]
    if len(scores) < MIN_DETECTIONS:
        raise BundleError(
            f"{len(scores)} detections in the frames left out: the measured error needs {MIN_DETECTIONS}: "
            "give more labelled data"
        )
    before, after = (error_of(column, hits) for column in (scores, fitted(scores)))
    assert before is not None
    assert after is not None
    if after["ece"] >= before["ece"]:
        raise BundleError(
            f"{bundle}: the expected calibration error on the frames left out does not fall "
            f"({before['ece']:.4f} -> {after['ece']:.4f}): nothing is written"
        )
    record = {
        **fitted.record,
        "ece_before": round(before["ece"], 5),
        "ece_after": round(after["ece"], 5),
        "detections": len(scores),
        "frames": left_out.frames,
        "fitted_detections": len(fit.scores),
        "fitted_frames": fit.frames,
        "data": data,
        "of": manifest.sha256,
    }

    def moved(threshold: float) -> float:
        return round(float(fitted(threshold)), 6)

    manifest = replace(
        manifest,
        calibration=replace(fitted, record=record),
        score_threshold=moved(manifest.score_threshold),
        score_thresholds={name: moved(value) for name, value in manifest.score_thresholds.items()},
    )
    manifest = replace(manifest, sha256=bundle_sha256(manifest, archive.members))
    write_archive(out, manifest, archive.members)
    return manifest


def _judged_halves(runtime: Any, labelled: Any, on_frame: Callable[[], None]) -> list[JudgedFrames]:
    """Return the first and the second half of the frames; similar neighbours stay together."""
    from perception_rt.cli.bench_labels import scored_scenes
    from perception_rt.model.task import TASKS
    from perception_rt.replay.score.counting import precision_of

    data_of = TASKS[runtime.manifest.task].sensor_data
    scenes, classes = scored_scenes(runtime, labelled, data_of, on_frame, LOWEST_SCORE)
    middle = len(scenes) // 2
    judged = []
    for half in (scenes[:middle], scenes[middle:]):
        precision = precision_of(half, classes, labelled.truth.flat)
        judged.append(JudgedFrames(len(half), precision.confidences, precision.hits))
    return judged


@contextmanager
def frame_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar; yield a function to call after each frame."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
