"""Train a network on a folder of labelled data or on the simulator; or score a bundle."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from perception_rt.cli.train_report import print_data, print_result, print_score, progress
from perception_rt.cli.train_run import is_first_process, resumed, run_folder
from perception_rt.types import ConfigError

if TYPE_CHECKING:  # torch takes seconds to import
    from perception_rt.train.recipe import Hardware

RECIPES = {
    "camera": "perception_rt.train.camera.task:CAMERA",
    "pillars": "perception_rt.train.pillars.task:PILLARS",
}
MAX_SEED = 10_000
EXAMPLES = """\
  perception-rt train camera --data mined/coco/camera_detections.json --weights sim_camera --out mine.pt
  perception-rt train ssdlite320_mobilenet_v3_large --data coco/ --weights ssd.pt --classes car person
  perception-rt train fasterrcnn_resnet50_fpn --data data.yaml --weights coco.pth --precision bf16 --devices 2
  perception-rt train resnet18 --data signs/ --weights resnet18.pt --class-weights balanced --augment colour
  perception-rt train pillars --data kitti/training --weights pillars --classes car=Car,Van pedestrian cyclist
  perception-rt train --resume out/train/mine              continue an interrupted run
  perception-rt train --evaluate mine.pt --data val/       score a bundle on labelled data
  perception-rt train camera                               the shipped camera bundle, on the simulator
  perception-rt train pillars --out lidar.pt --seed 1      lidar; other drives and initial weights
  perception-rt train camera --teacher sim_camera          learn from its answers, too
  perception-rt train camera --rebuild sim_camera          quantize and score the same weights again
  perception-rt train --evaluate sim_camera --frames 500   score a bundle on unseen simulated drives
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``perception-rt train``."""
    parser.add_argument(
        "network",
        nargs="?",
        help="camera, pillars, or the name of a torchvision detector or classifier; without --data the "
        "first two are trained on the simulator",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="bundle to write (default: out/<its name>.pt)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of data, initial weights, order and augmentation (0)"
    )
    parser.add_argument("--steps", type=int, help="number of training steps (default: the recipe's)")
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
    data.add_argument("--epochs", type=int, help="passes over the data (30, and 1000 steps at least)")
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
    data.add_argument(
        "--retain",
        type=float,
        default=1.0,
        metavar="X",
        help="where classes are added, how strongly the scores of those in --weights are held; 0 not (1)",
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
        "--resume", type=Path, metavar="DIR", help="continue the run in this folder with its own options"
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
        help="write the programs of a bundle again from its weights, and score it",
    )
    parser.add_argument("--frames", type=int, help="simulated frames to train or score on")
    parser.add_argument(
        "--teacher",
        metavar="BUNDLE",
        help="on the simulator: learn from the answers of this bundle of the recipe (a file or a name), too",
    )


def run(args: argparse.Namespace) -> int:
    """Train or score; return the exit status.

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
    if not 0 <= args.retain <= 100:
        raise ConfigError(f"--retain={args.retain}: must be from 0 to 100")
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
        args = resumed(args)
    if args.data is not None:
        if args.teacher:
            raise ConfigError(f"--teacher={args.teacher}: is for training on the simulator, without --data")
        _train_folder(args)
    else:
        _train_simulator(args)
    return 0


def _hardware(args: argparse.Namespace) -> Hardware:
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
        retain=args.retain,
        licence=args.licence,
    )
    hardware, out = _hardware(args), _out(args, args.network)
    hardware.plugin()
    first = is_first_process()
    with progress(first) as report:
        prepared = prepare(settings, report)
    if first:
        print_data(prepared)
    state = {
        "recipe": asdict(prepared.recipe),
        "data": prepared.samples.record()["sha256"],
        "weights": None if prepared.weights is None else prepared.weights.record,
    }
    with run_folder(args, out, state) as folder, progress(first) as report:
        resume = args.resume is not None
        manifest = train_folder(prepared, settings, out, hardware, report, folder, resume, save=first)
    if manifest is not None:
        print_result(out, manifest)


# --- the simulator -------------------------------------------------------------------------------------


def _train_simulator(args: argparse.Namespace) -> None:
    from perception_rt.model.task import load_object
    from perception_rt.train.task import rebuild_bundle, train_bundle

    if args.network not in RECIPES:
        raise ConfigError(f"network={args.network}: needs --data; on the simulator: {', '.join(RECIPES)}")
    if args.weights:
        raise ConfigError(f"--weights={args.weights}: start from these with --data; or --rebuild the bundle")
    if args.devices * args.nodes > 1:
        raise ConfigError(f"--devices={args.devices}: the recipes of the simulator train on one device")
    task = load_object(RECIPES[args.network])
    chosen = {"seed": args.seed, "frames": args.frames, "steps": args.steps}
    recipe = replace(task.recipe, **{key: value for key, value in chosen.items() if value is not None})
    out = _out(args, task.bundle)
    if args.rebuild:
        with progress() as report:
            manifest = rebuild_bundle(task, args.rebuild, out, args.frames, report)
    else:
        hardware = _hardware(args)
        resume = args.resume is not None
        with run_folder(args, out, {"recipe": asdict(recipe)}) as folder, progress() as report:
            manifest = train_bundle(
                task, out, recipe, hardware, None, None, report, folder, resume, teacher=args.teacher
            )
    print_result(out, manifest)


# --- scores --------------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> None:
    from perception_rt.model.runtime import Runtime
    from perception_rt.model.task import TASKS, load_object
    from perception_rt.train.task import evaluate

    runtime = Runtime.open(args.evaluate, args.device)
    if args.data is not None:
        from perception_rt.train.folder import evaluate_folder

        with progress() as report:
            score = evaluate_folder(runtime, args.data, args.classes, args.mend, report)
        print_score(score)
        return
    recipe = TASKS[runtime.manifest.task].recipe
    if recipe not in RECIPES:
        raise ConfigError(f"--evaluate={args.evaluate}: no recipe scores task {runtime.manifest.task}")
    task = load_object(RECIPES[recipe])
    with progress() as report:
        score = evaluate(task, runtime, args.frames, report)
    print_score(score)
