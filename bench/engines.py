"""Any detector on every engine: how far it is from its source's runtime, and how long a call takes.

Takes a folder of ONNX files, TorchScript files (`.torchscript`) and weights of torchvision (`MODEL.pth`).
Imports each as `bundle export` does, and times the engines of the bundle in turns on one thread: alone, then
beside a process that keeps each core busy in turn. Prints a table, writes out/bench/engines.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.command import command
from bench.inputs import STREET
from bench.models import alternate, busy_core
from bench.rows import Row, row, write_rows
from perception_rt.model.archive import read_archive
from perception_rt.model.choice import candidates
from perception_rt.model.golden import Outputs
from perception_rt.model.importers.common import Imported
from perception_rt.model.importers.export import save_checked
from perception_rt.model.importers.onnx import import_onnx
from perception_rt.model.importers.torchscript import import_torchscript
from perception_rt.model.importers.torchvision import import_torchvision
from perception_rt.model.runtime import Runtime, open_archive
from perception_rt.types import BundleError, ModelError

OUT = Path("out/bench/engines.json")
IMPORTERS = {
    ".onnx": import_onnx,
    ".torchscript": import_torchscript,
    ".pth": lambda path: import_torchvision(path.stem, str(path)),
}
CALLS, LEAST_CALLS = 40, 5
LONGEST_S = 20.0  # of the calls of one engine; a slow network gets fewer of them
COMPARED = 50  # boxes, where a network finds none in the picture at its own threshold
NEAR_PX = 2.0  # between boxes that are the same


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine of one model.

    Attributes:
        model: file name without its suffix.
        engine: name and precision; empty where the model cannot be imported.
        difference: from the source's runtime: largest of a score, largest of a coordinate in px, and how many
            boxes only one of both has.
        idle, busy: times of the calls, ms.
        auto: whether `auto` chooses it.
        note: why it did not run.
    """

    model: str
    engine: str = ""
    difference: tuple[float, float, int] | None = None
    idle: tuple[float, ...] = ()
    busy: tuple[float, ...] = ()
    auto: bool = False
    note: str = ""


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--picture", type=Path, default=STREET, help="what the networks look at")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"of each engine, at most ({CALLS})")
    return command(lambda: measure_all(parser.parse_args(argv), Console()))


def measure_all(args: argparse.Namespace, console: Console) -> None:
    """Every file of the folder."""
    image = cv2.imread(str(args.picture))
    if image is None:
        raise BundleError(f"--picture={args.picture}: not a picture")
    picture, found = np.ascontiguousarray(image[:, :, ::-1]), []
    files = [path for path in sorted(args.folder.iterdir()) if path.suffix in IMPORTERS]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # a choice of engine that was made before counts for nothing
        for path in files:
            measured = of_file(path, picture, Path(scratch) / "model.pt", args.calls)
            found += measured
            console.print(table_of(measured))
    console.print(table_of(found))
    write_rows(OUT, rows_of(found))
    console.print(f"written: {OUT}")


def of_file(path: Path, picture: np.ndarray, bundle: Path, most: int) -> list[Measured]:
    """Import a file and measure each engine of its bundle."""
    try:
        imported = IMPORTERS[path.suffix](path)
        save_checked(bundle, imported, picture, name="model")
        auto = Runtime.open(bundle, "cpu", threads=1).choice
    except BundleError as error:
        return [Measured(path.stem, note=str(error).splitlines()[0])]
    source, threshold = source_answer(imported, picture)
    archive, found, runtimes = read_archive(bundle), [], {}
    for choice in candidates(archive, "auto", auto.options):
        name, program = f"{choice.engine}_{choice.program.precision}", choice.program
        entry = Measured(path.stem, name, auto=(choice.engine, program) == (auto.engine, auto.program))
        try:
            runtime = open_archive(archive, torch.device("cpu"), False, 1, program, choice.engine)
            mine = runtime(picture[None], score_threshold=threshold)
        except (BundleError, ModelError) as error:
            found.append(replace(entry, note=str(error)))
            continue
        found.append(replace(entry, difference=difference(source, mine)))
        runtimes[name] = runtime
    torch.set_num_threads(1)
    once = max(alternate(runtimes, picture[None], 1).values())[0] / 1e3
    calls = int(np.clip(LONGEST_S / once, LEAST_CALLS, most))
    idle = alternate(runtimes, picture[None], calls)
    busy: dict[str, list[float]] = {name: [] for name in runtimes}
    for core in sorted(os.sched_getaffinity(0)):
        with busy_core(core):
            for name, times in alternate(runtimes, picture[None], calls // 2 + 1).items():
                busy[name] += times
    return [
        replace(entry, idle=tuple(idle.get(entry.engine, ())), busy=tuple(busy.get(entry.engine, ())))
        for entry in found
    ]


def source_answer(imported: Imported, picture: np.ndarray) -> tuple[Outputs, float]:
    """What the source's runtime finds in the picture, and the lowest score of it."""
    assert imported.reference is not None  # each of IMPORTERS has one
    threshold = imported.score_threshold
    answer = imported.reference(picture, threshold)
    if not len(answer[1]):  # as by random weights
        scores = np.sort(imported.reference(picture, 0.0)[1])[-COMPARED:]
        threshold = float(scores[0]) if len(scores) else 0.0
        answer = imported.reference(picture, threshold)
    return answer, threshold


def difference(source: Outputs, mine: Outputs) -> tuple[float, float, int]:
    """Compare boxes of the same class that are near; see `Measured`."""
    boxes, scores, labels = (column.copy() for column in mine[:3])
    of_score = of_box = 0.0
    matched = 0
    for box, score, label in zip(*source[:3], strict=True):
        apart = np.where(labels == label, np.abs(boxes - box).max(1, initial=0), np.inf)
        if not len(apart) or apart.min() > NEAR_PX:
            continue
        nearest = int(apart.argmin())
        of_score, of_box = max(of_score, abs(scores[nearest] - score)), max(of_box, apart[nearest])
        labels[nearest], matched = -1, matched + 1
    return float(of_score), float(of_box), len(source[1]) + len(scores) - 2 * matched


def auto_to_best(measured: Sequence[Measured]) -> float | None:
    """Time of the engine that `auto` chose as a ratio of the fastest's."""
    p50 = {entry.engine: float(np.median(entry.idle)) for entry in measured if entry.idle}
    chosen = [p50[entry.engine] for entry in measured if entry.auto and entry.engine in p50]
    return chosen[0] / min(p50.values()) if chosen else None


def rows_of(found: Sequence[Measured]) -> list[Row]:
    """The result rows of every model."""
    rows = []
    for model, group in groupby(found, key=lambda entry: entry.model):
        measured = list(group)
        for entry in measured:
            stem = f"models/{model}/{entry.engine or 'imported'}"
            score, box, alone = entry.difference or (None, None, None)
            rows += [
                row(f"{stem}/score_difference", score, "score"),
                row(f"{stem}/box_difference", box, "px"),
                row(f"{stem}/boxes_of_one_alone", alone, "boxes"),
            ]
            for what, times in (("idle", entry.idle), ("busy", entry.busy)):
                for percent in (50, 99):
                    value = float(np.percentile(times, percent)) if times else None
                    rows.append(row(f"{stem}/{what}_ms_p{percent}", value, "ms"))
        rows.append(row(f"models/{model}/auto_to_best", auto_to_best(measured), "ratio", "<= 1.10"))
    return rows


def table_of(found: Sequence[Measured]) -> Table:
    """A line for each engine of each model; the one that `auto` chooses is marked."""
    table = Table(pad_edge=False)
    for heading in ("model", "engine", "differs by", "idle p50/p99 ms", "busy p50/p99 ms", ""):
        table.add_column(heading, overflow="fold")
    for model, group in groupby(found, key=lambda entry: entry.model):
        measured = list(group)
        table.add_section()
        for entry in measured:
            apart, note = "-", entry.note
            if entry.difference is not None:
                score, box, alone = entry.difference
                apart = f"{score:.0e}, {box:.0e} px" + (f", {alone} boxes" if alone else "")
            if entry.auto:
                note = f"auto, {auto_to_best(measured) or 0:.2f} of the best"
            table.add_row(model, entry.engine, apart, spread(entry.idle), spread(entry.busy), note)
    return table


def spread(times: Sequence[float]) -> str:
    """Return p50 and p99 as shown in the table."""
    return "/".join(f"{np.percentile(times, percent):.1f}" for percent in (50, 99)) if times else "-"


if __name__ == "__main__":
    sys.exit(main())
