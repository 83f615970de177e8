"""`perception-rt bundle explain`: which pixels or points made a detection."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perception_rt.types.errors import BagError, ConfigError
from perception_rt.types.folders import is_hidden

MOST_CALLS = 100_000


class ChosenFrame(NamedTuple):
    """A frame to explain: what the runtime takes, its file or topic, number and stamp."""

    data: np.ndarray
    source: str
    number: int
    stamp_ns: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a file, or the name of a shipped bundle")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help="a picture or a cloud (.bin as KITTI's), or a folder of them",
    )
    source.add_argument("--bag", type=Path, metavar="BAG", help="a recording")
    parser.add_argument("--topic", help="of the recording (default: the first one that fits the bundle)")
    parser.add_argument(
        "--frame", type=int, action="append", metavar="N", help="counted from 0; repeatable (default 0)"
    )
    parser.add_argument(
        "--detection",
        type=int,
        action="append",
        metavar="K",
        help="counted from 0, by falling score; of a network of pixels the class that covers most first; "
        "repeatable (default 0)",
    )
    parser.add_argument(
        "--method",
        default="rise",
        metavar="NAME",
        help="rise (default): random masks, with any engine; gradients: integrated gradients; cam: gradient "
        "times activation; both of images and by captum",
    )
    parser.add_argument("--calls", type=int, metavar="N", help="of the network by rise (400; of clouds 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks and of the check's parts (0)")
    parser.add_argument("--engine", default="auto", help="of the bundle (auto)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/explain"),
        metavar="FOLDER",
        help="for the pictures (out/explain)",
    )


def run(args: argparse.Namespace) -> int:
    """Explain every chosen detection; write pictures and explain.json, print the checks.

    Raises:
        BundleError: the bundle cannot be read. BagError: nor the recording.
        ConfigError: an option is out of bounds, or there is no such frame or detection.
    """
    _check(args)
    warnings.simplefilter("ignore")  # what a converted network says concerns its authors
    from perception_rt.model.runtime import Runtime
    from perception_rt.replay.explain import Explained, ExplanationFolder
    from perception_rt.replay.report.explanations import EXPLANATIONS
    from perception_rt.stage.explain.explain import CALLS, METHODS, explain
    from perception_rt.stage.explain.probe import Probe

    if args.method not in METHODS:
        raise ConfigError(f"--method={args.method}: must be one of {', '.join(METHODS)}")
    runtime = Runtime.open(args.bundle, "cpu", threads=1, engine=args.engine)
    frames = list(chosen_frames(args, runtime))
    folder = ExplanationFolder(args.out)
    for frame in frames:
        probe = Probe(runtime, frame.data)
        for number in args.detection or [0]:
            target = probe.target(number)
            calls = args.calls or CALLS[frame.data.ndim == 4]
            with _bar(f"frame {frame.number}", calls if args.method == "rise" else None) as on_call:
                found = explain(probe, target, args.method, args.calls, args.seed, on_call)
            name = f"frame{frame.number:04}_detection{number}"
            record = folder.add(Explained(name, frame.source, frame.number, frame.stamp_ns, found), runtime)
            told = f"{record['class']} {record['score']:.2f}: {record['check']['text']}"
            print(f"{args.out / record['picture']}: {told}")
    folder.close()
    print(f"{args.out / EXPLANATIONS}: {len(folder.records)} explained")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything runs."""
    for name in ("frame", "detection"):
        for value in getattr(args, name) or ():
            if value < 0:
                raise ConfigError(f"--{name}={value}: must be >= 0")
    if args.calls is not None and not 10 <= args.calls <= MOST_CALLS:
        raise ConfigError(f"--calls={args.calls}: must be from 10 to {MOST_CALLS}")
    if args.seed < 0:
        raise ConfigError(f"--seed={args.seed}: must be >= 0")
    if args.topic and args.bag is None:
        raise ConfigError(f"--topic={args.topic}: is for --bag")
    path = args.bag or args.images
    if not path.exists():
        raise ConfigError(f"--{'bag' if args.bag else 'images'}={path}: no such file or folder")
    if args.out.is_file():
        raise ConfigError(f"--out={args.out}: is a file")


def chosen_frames(args: argparse.Namespace, runtime: Any) -> Iterator[ChosenFrame]:
    """The frames of `--frame`.

    Raises:
        ConfigError: there is none of that number, or it cannot be read.
    """
    from perception_rt.model.task import TASKS

    task = TASKS[runtime.manifest.task]
    numbers = list(dict.fromkeys(args.frame or [0]))
    if args.bag is not None:
        yield from _recorded(args, task, numbers)
        return
    flat = len(task.noise_shape) == 4
    files = _files(args.images, flat)
    for number in numbers:
        if number >= len(files):
            what = "pictures" if flat else "clouds (.bin)"
            raise ConfigError(f"--frame={number}: {args.images} holds {len(files)} {what}")
        yield ChosenFrame(_read(files[number], task), files[number].name, number, None)


def _files(path: Path, flat: bool) -> list[Path]:
    from perception_rt.cli.bench import SUFFIXES

    suffixes = SUFFIXES if flat else (".bin",)
    found = (
        [file for file in sorted(path.iterdir()) if not is_hidden(file, path)] if path.is_dir() else [path]
    )
    return [file for file in found if file.suffix.lower() in suffixes]


def _read(file: Path, task: Any) -> np.ndarray:
    """What the runtime takes of a file."""
    if file.suffix.lower() == ".bin":
        from perception_rt.cli.bundle_export import read_cloud

        return read_cloud(file)
    import cv2

    from perception_rt.types import CameraFrame

    image = cv2.imread(str(file))
    if image is None:
        raise ConfigError(f"{file}: not a picture")
    return task.sensor_data(CameraFrame(image, True, 0, ""))


def _recorded(args: argparse.Namespace, task: Any, numbers: list[int]) -> Iterator[ChosenFrame]:
    from perception_rt.replay.bag import Bag, frame_of
    from perception_rt.replay.message_types import header_stamp_ns

    with Bag(args.bag) as bag:
        topics = bag.of_type(*task.sensor_types)
        topic = args.topic or next(iter(topics), None)
        if topic not in topics:
            named = f"--topic={args.topic}: " if args.topic else ""
            has = ", ".join(topics) or "none"
            raise BagError(f"{named}{args.bag}: topics of this bundle's kind: {has}")
        for number in numbers:
            message = next(islice(bag.messages([topic]), number, None), None)
            if message is None:
                raise ConfigError(f"--frame={number}: {topic} has {bag.topics[topic][1]} messages")
            data = task.sensor_data(frame_of(message))
            yield ChosenFrame(data, topic, number, header_stamp_ns(message.data))


def _bar(title: str, total: int | None) -> Any:
    from perception_rt.cli.bundle_calibrate import frame_bar

    return frame_bar(title, total or 1)
