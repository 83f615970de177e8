"""Train a network on a folder of labelled data or on the simulator; or score a bundle."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from perception_rt.types import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import
    from perception_rt.train.folder import Prepared
    from perception_rt.train.recipe import Hardware

RECIPES = {
    "camera": "perception_rt.train.camera.task:CAMERA",
    "pillars": "perception_rt.train.pillars.task:PILLARS",
}
RUNS = Path("out", "train")
RUN_FILE = "run.json"
MAX_SEED = 10_000
UNSTORED = ("run", "run_folder", "resume", "command")
EXAMPLES = """\
  perception-rt train camera --data mined/coco/camera_detections.json --weights sim_camera --out mine.pt
  perception-rt train ssdlite320_mobilenet_v3_large --data coco/ --weights ssd.pt --classes car person
  perception-rt train fasterrcnn_resnet50_fpn --data data.yaml --weights coco.pth --precision bf16 --devices 2
  perception-rt train resnet18 --data signs/ --weights resnet18.pt --class-weights balanced --augment colour
  perception-rt train pillars --data kitti/training --weights pillars --classes car=Car,Van pedestrian cyclist
  perception-rt train --resume out/train/mine              go on where a run was interrupted
  perception-rt train --evaluate mine.pt --data val/       score a bundle on labelled data
  perception-rt train camera                               the shipped camera bundle, on the simulator
  perception-rt train pillars --out lidar.pt --seed 1      lidar; other drives and initial weights
  perception-rt train camera --rebuild sim_camera          quantize and score the same weights anew
  perception-rt train --evaluate sim_camera --frames 500   score a bundle on unseen simulated drives
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``perception-rt train``."""
    parser.add_argument(
        "network",
        nargs="?",
        help="camera, pillars, or the name of a detector or classifier of torchvision; without --data the "
        "first two are trained on the simulator",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the bundle to write (out/<its name>.pt)")
    parser.add_argument("--seed", type=int, default=0, help="of data, first weights, order, augmentation (0)")
    parser.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    data = parser.add_argument_group("a folder of labelled data")
    data.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="COCO (.json or its folder), YOLO (data.yaml or its folder), KITTI (folder with label_2; for "
        "pillars with velodyne), what `replay --mine` wrote, or a folder of pictures for each class",
    )
    data.add_argument(
        "--val",
        default="0.2",
        metavar="SHARE|PATH",
        help="what is set apart to score on: a share, the last frames (0.2), or other data",
    )
    data.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME[=FROM,FROM]",
        help="train these, which the labels call FROM; or one file of names (default: all in the data)",
    )
    data.add_argument(
        "--mend",
        action="store_true",
        help="cut boxes at the picture's edge, leave out what does not fit",
    )
    data.add_argument("--weights", metavar="FILE", help="to start from: a bundle (file or name) or a .pth")
    data.add_argument("--epochs", type=int, help="passes over the data (30, and 500 steps at least)")
    data.add_argument("--batch", type=int, help="frames a step, of all devices (default: the network's)")
    data.add_argument("--learning-rate", type=float, metavar="X", help="highest (default: the network's)")
    data.add_argument(
        "--patience",
        type=int,
        default=10,
        metavar="N",
        help="stop after N rounds that are no better; 0 never (10)",
    )
    data.add_argument(
        "--augment",
        nargs="+",
        metavar="NAME",
        help="flip, colour, blur, turn, zoom, crop, or none (default: the network's)",
    )
    data.add_argument(
        "--class-weights",
        nargs="+",
        default=[],
        metavar="NAME=X",
        help="draw frames with a class X times as often; `balanced` draws rare classes more often",
    )
    data.add_argument("--licence", help="SPDX, of the bundle (default: that of --weights)")
    hardware = parser.add_argument_group("hardware")
    hardware.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    hardware.add_argument("--devices", type=int, default=1, metavar="N", help="train on N devices (1)")
    hardware.add_argument("--nodes", type=int, default=1, metavar="N", help="of N machines (1)")
    hardware.add_argument(
        "--strategy", default="auto", metavar="NAME", help="of PyTorch Lightning, e.g. ddp (auto)"
    )
    hardware.add_argument(
        "--precision",
        choices=("auto", "32", "bf16", "16"),
        default="auto",
        help="of training: auto (bf16 where it is faster), 32, bf16 or 16 (CUDA)",
    )
    hardware.add_argument(
        "--workers", type=int, metavar="N", help="processes that read data (0 on a CPU, else up to 8)"
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        metavar="DIR",
        help="checkpoints and TensorBoard logs (out/train/<name of --out>)",
    )
    runs.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the run in this folder, by its own options"
    )
    other = parser.add_argument_group("without training")
    other.add_argument(
        "--evaluate",
        metavar="BUNDLE",
        help="score a bundle (a file or a name), on --data or the simulator",
    )
    other.add_argument(
        "--rebuild",
        metavar="BUNDLE",
        help="write the programs of a bundle anew from its weights, score it",
    )
    parser.add_argument("--frames", type=int, help="simulated frames to train or score on")


def run(args: argparse.Namespace) -> int:
    """Train or score; returns the exit status.

    Raises:
        ConfigError: an option or the data cannot be used.
    """
    for name in ("frames", "steps", "epochs", "batch", "devices", "nodes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}={value}: must be >= 1")
    for name in ("patience", "workers"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise ConfigError(f"--{name}={value}: must be >= 0")
    if not 0 <= args.seed < MAX_SEED:
        raise ConfigError(f"--seed={args.seed}: must be in [0, {MAX_SEED})")
    if args.learning_rate is not None and not 0 < args.learning_rate <= 1:
        raise ConfigError(f"--learning-rate={args.learning_rate}: must be above 0, up to 1")
    chosen = [name for name in ("network", "evaluate", "resume") if getattr(args, name)]
    if len(chosen) != 1:
        what = f"--{chosen[1]} cannot be combined with another" if chosen else "name what to train"
        raise ConfigError(f"network={args.network}: {what} (a network, --evaluate or --resume)")
    if args.evaluate:
        _evaluate(args)
        return 0
    if args.resume:
        args = _resumed(args)
    if args.data is not None:
        _train_folder(args)
    else:
        _train_simulator(args)
    return 0


# --- runs ----------------------------------------------------------------------------------------------


def _resumed(args: argparse.Namespace) -> argparse.Namespace:
    """The options of an earlier run; those of the hardware may be others."""
    file = args.resume / RUN_FILE
    try:
        stored = json.loads(file.read_text())["options"]
        old = argparse.Namespace(**vars(args))
        for name, value in stored.items():
            setattr(old, name, Path(value) if name in ("data", "out") and value else value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"--resume={args.resume}: no run that can be resumed: {error}") from error
    for name in ("device", "devices", "nodes", "strategy", "workers"):
        setattr(old, name, getattr(args, name))
    old.run_folder = old.resume = args.resume
    return old


@contextmanager
def _run_folder(args: argparse.Namespace, out: Path, state: dict[str, Any]) -> Iterator[Path]:
    """The folder of a run, with what it takes to resume it; marked as finished where nothing goes wrong.

    Args:
        args: the options.
        out: the bundle that is made.
        state: what must not change before it is resumed.

    Raises:
        ConfigError: it holds another run that is not finished, or the data changed.
    """
    folder = args.run_folder or RUNS / out.stem
    file, first = folder / RUN_FILE, _is_first_process()
    options = {name: value for name, value in vars(args).items() if name not in UNSTORED}
    for name in ("data", "val", "weights"):  # a run may be resumed from another folder
        if options[name] and Path(options[name]).exists():
            options[name] = Path(options[name]).absolute()
    options["out"] = out.absolute()
    record = {"options": options, "state": state, "finished": False}

    def write() -> None:
        if first:
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1, default=str) + "\n")
            partial.replace(file)

    if first and args.resume:
        before = json.loads(file.read_text()).get("state")
        if before != json.loads(json.dumps(state)):
            raise ConfigError(f"--resume={folder}: the data or the weights are no longer those of the run")
    elif first and folder.exists():
        _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write()
    try:
        yield folder
    except KeyboardInterrupt:
        if first:
            Console(stderr=True).print(f"saved; go on with: perception-rt train --resume {folder}")
        raise
    record["finished"] = True
    write()


def _clear(folder: Path) -> None:
    """Make room for another run."""
    file = folder / RUN_FILE
    if not file.is_file() and any(folder.iterdir()):
        raise ConfigError(f"--run={folder}: is not empty, and holds no run")
    if file.is_file() and not json.loads(file.read_text()).get("finished"):
        raise ConfigError(
            f"--run={folder}: holds an unfinished run: --resume {folder}, take another --run, or remove it"
        )
    shutil.rmtree(folder)


def _is_first_process() -> bool:
    from perception_rt.train.fit import is_first_process

    return is_first_process()


def _hardware(args: argparse.Namespace) -> Hardware:
    import os

    from perception_rt.model.runtime import resolve_device
    from perception_rt.train.recipe import Hardware

    device = resolve_device(args.device)
    if args.devices > 1 and device.index is not None:
        raise ConfigError(f"--device={args.device}: is one device, --devices={args.devices}")
    workers = args.workers
    if workers is None:  # on a CPU they would take the cores of the training
        workers = 0 if device.type == "cpu" or args.data is None else min(8, (os.cpu_count() or 1) - 1)
    return Hardware(str(device), args.devices, args.nodes, args.strategy, args.precision, workers)


def _out(args: argparse.Namespace, name: str) -> Path:
    out = args.out or Path("out", f"{name}.pt")
    if out.is_dir():
        raise ConfigError(f"--out={out}: is a folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


# --- a folder of labelled data -------------------------------------------------------------------------


def _train_folder(args: argparse.Namespace) -> None:
    from perception_rt.train.folder import FolderSettings, prepare, train_folder

    settings = FolderSettings(
        network=args.network,
        data=str(args.data),
        validation=args.val,
        classes=tuple(args.classes),
        mend=args.mend,
        weights=args.weights,
        seed=args.seed,
        batch=args.batch,
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        steps=args.steps,
        patience=args.patience,
        augmentations=None if args.augment is None else tuple(args.augment),
        class_weights=tuple(args.class_weights),
        licence=args.licence,
    )
    hardware, out = _hardware(args), _out(args, args.network)
    hardware.plugin()
    with _progress() as report:
        prepared = prepare(settings, report)
    if _is_first_process():
        _print_data(prepared)
    state = {
        "recipe": asdict(prepared.recipe),
        "data": prepared.samples.record()["sha256"],
        "weights": None if prepared.weights is None else prepared.weights.record,
    }
    with _run_folder(args, out, state) as folder, _progress() as report:
        manifest = train_folder(
            prepared, settings, out, hardware, report, folder, resume=args.resume is not None
        )
    if manifest is not None:
        _print_result(out, manifest)


def _print_data(prepared: Prepared) -> None:
    samples = prepared.samples
    table = Table(title=f"{samples.form}: {len(samples.frames)} frames, {len(samples.validation)} set apart")
    for title in ("class", "objects", "set apart"):
        table.add_column(title, justify="left" if title == "class" else "right")
    counts = zip(samples.counts(samples.labels), samples.counts(samples.validation_labels), strict=True)
    for name, pair in zip(samples.classes, counts, strict=True):
        table.add_row(name, *map(str, pair))
    console = Console()
    console.print(table)
    if samples.left_out:
        left_out = ", ".join(f"{name} {count}" for name, count in sorted(samples.left_out.items()))
        console.print(f"left out: {left_out}")
    absent = [name for name in getattr(prepared.weights, "classes", ()) if name not in samples.classes]
    absent = [name for name in absent if name not in prepared.trainee.names(())]
    if absent and len(absent) <= 20:
        console.print(f"classes of the weights that the data lack; they are forgotten: {', '.join(absent)}")
    recipe = prepared.recipe
    console.print(f"{recipe.steps} steps of {recipe.batch}, {recipe.rounds} rounds, seed {recipe.seed}")


# --- the simulator -------------------------------------------------------------------------------------


def _train_simulator(args: argparse.Namespace) -> None:
    from perception_rt.model.task import load_object
    from perception_rt.train.task import rebuild_bundle, train_bundle

    if args.network not in RECIPES:
        raise ConfigError(f"network={args.network}: needs --data; on the simulator: {', '.join(RECIPES)}")
    if args.weights:
        raise ConfigError(f"--weights={args.weights}: start from these with --data; or --rebuild the bundle")
    task = load_object(RECIPES[args.network])
    chosen = {"seed": args.seed, "frames": args.frames, "steps": args.steps}
    recipe = replace(task.recipe, **{key: value for key, value in chosen.items() if value is not None})
    out = _out(args, task.bundle)
    if args.rebuild:
        with _progress() as report:
            manifest = rebuild_bundle(task, args.rebuild, out, args.frames, report)
    else:
        hardware = _hardware(args)
        with _run_folder(args, out, {"recipe": asdict(recipe)}) as folder, _progress() as report:
            manifest = train_bundle(
                task, out, recipe, hardware, report=report, run=folder, resume=args.resume is not None
            )
    _print_result(out, manifest)


# --- scores --------------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> None:
    from perception_rt.model.runtime import Runtime
    from perception_rt.model.task import TASKS, load_object
    from perception_rt.train.task import evaluate

    runtime = Runtime.open(args.evaluate, args.device)
    if args.data is not None:
        from perception_rt.train.folder import evaluate_folder

        with _progress() as report:
            score = evaluate_folder(runtime, args.data, args.classes, args.mend, report)
        _print_score(score)
        return
    recipe = TASKS[runtime.manifest.task].recipe
    if recipe not in RECIPES:
        raise ConfigError(f"--evaluate={args.evaluate}: no recipe scores task {runtime.manifest.task}")
    task = load_object(RECIPES[recipe])
    with _progress() as report:
        score = evaluate(task, runtime, args.frames, report)
    _print_score(score)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """Yield a function of phase, done, total and note that shows a bar for each phase."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int, note: str) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total, note=note)
            progress.update(tasks[phase], completed=done, note=note)

        yield report


def _print_result(out: Path, manifest: Any) -> None:
    score, seconds = manifest.provenance["score"], manifest.provenance["training"]["seconds"]
    _print_score(score)
    Console().print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, trained in {seconds / 60:.1f} min, scored by "
        f"{score['program']}"
    )


COLUMNS = (
    ("AP50", "ap50"),
    ("AP50:95", "ap50_95"),
    ("AP70", "ap70"),
    ("AP 2 m", "ap_2m"),
    ("accuracy", "accuracy"),
)


def _print_score(score: dict[str, Any]) -> None:
    """Print a row for each class and the mean; simulated clouds have a column for each range band."""
    if "bands" in score:
        parts = {f"AP, BEV IoU {score['iou']:g}": score, **score["bands"]}
        columns = [(title, part, "ap", "map") for title, part in parts.items()]
    else:
        columns = [(title, score, key, key) for title, key in COLUMNS if key in score]
    title = f"{score['frames']} frames"
    if "seeds" in score:
        first, last = score["seeds"]
        title = f"{score['frames']} unseen frames, drives {first} to {last}"
    table = Table(title=title)
    table.add_column("class")
    for name in (*(column[0] for column in columns), "truths"):
        table.add_column(name, justify="right")
    for name, row in score["per_class"].items():
        figures = (part["per_class"].get(name, {}).get(key, math.nan) for _, part, key, _ in columns)
        table.add_row(name, *map(_figure, figures), str(row["truths"]))
    if score["per_class"]:
        table.add_section()
        means = (_figure(part[key]) for _, part, _, key in columns)
        table.add_row("mean", *means, str(sum(row["truths"] for row in score["per_class"].values())))
    Console().print(table)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
