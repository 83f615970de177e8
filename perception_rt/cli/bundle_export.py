"""`perception-rt bundle export`: convert the output of a training tool to a bundle."""

from __future__ import annotations

import argparse
import json
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_rt.model.specs import RESIZES, resize_rule
from perception_rt.types.errors import BagError, BundleError, ConfigError

if TYPE_CHECKING:
    import numpy as np

    from perception_rt.model.importers.common import Imported

BEV_CLUSTER_OPTIONS = {
    "min_range": "minimum range, m; nearer points belong to the own vehicle",
    "max_range": "maximum range, m",
    "ground_slope": "maximum slope of the ground beyond the vehicle's own tilt, m per m",
    "gap": "minimum gap between points of two objects at the sensor, m",
    "gap_per_m": "growth of the gap with range, m per m",
    "car_length": "typical length of a car, m",
    "car_width": "typical width of a car, m",
}
PRESET_OPTIONS = ("resize", "filter", "order", "scale", "mean", "std", "pad")
CHECK_PICTURE = (
    "a picture with such objects, to compare the bundle with the source's own runtime (default: a rendered "
    "street)"
)
CHECK_CLOUD = (
    "a cloud with such objects, float32 x y z intensity like KITTI's .bin, as golden input (default: "
    "a simulated street)"
)
MAX_PICTURE = 64 << 20  # bytes of a check picture
MAX_CLOUD = 16 << 20  # bytes of a check cloud
STREET_SEED, STREET_SIZE, STREET_TIME_S = 7, (1280, 720), 12.0  # of the rendered check picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of each source."""
    from perception_rt.model.importers import other_importers

    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    onnx = sources.add_parser("onnx", help="an ONNX detector, classifier or segmenter")
    onnx.add_argument("file", type=Path, metavar="FILE", help="the .onnx file")
    script = sources.add_parser("torchscript", help="a TorchScript file: a network, or a whole detector")
    script.add_argument("file", type=Path, metavar="FILE", help="a file written by torch.jit.save")
    script.add_argument(
        "--contract",
        action="store_true",
        help="the module returns boxes, scores and labels itself; no decoder",
    )
    vision = sources.add_parser(
        "torchvision", help="a torchvision detector, classifier or segmenter, by name"
    )
    vision.add_argument("model", metavar="NAME", help="e.g. ssdlite320_mobilenet_v3_large")
    vision.add_argument(
        "--weights",
        metavar="W",
        help="a .pth state dict, or a torchvision name like DEFAULT (default: random weights)",
    )
    vision.add_argument("--seed", type=int, default=0, help="seed of random weights (default 0)")
    pcdet = sources.add_parser("openpcdet", help="a PointPillar or CenterPoint checkpoint of OpenPCDet")
    pcdet.add_argument(
        "--config", type=Path, required=True, metavar="YAML", help="training config, in its folder"
    )
    mmdet = sources.add_parser("mmdet3d", help="a PointPillars or CenterPoint checkpoint of mmdetection3d")
    mmdet.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="training config, .py (read as data, not executed), .json or .yaml (default: the one in the "
        "checkpoint)",
    )
    mmdet.add_argument(
        "--mmdet3d-version",
        metavar="X.Y",
        help="version used for training, if the files do not state it: 1.0 changed boxes and yaw",
    )
    for source in (pcdet, mmdet):
        source.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the trained .pth")
        source.add_argument(
            "--intensity",
            choices=("unused", "unit", "byte"),
            help="intensity of the training clouds: 0 to 1 or 0 to 255 (default: by the data set)",
        )
    for source in (onnx, script):
        _add_network_options(source)
    for source in (onnx, script, vision):
        _add_class_options(source)
    for source in (pcdet, mmdet):
        _add_class_options(source, CHECK_CLOUD)
    cluster = sources.add_parser("bev_cluster", help="lidar detection by geometry, without training")
    for name, text in BEV_CLUSTER_OPTIONS.items():
        cluster.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    cluster.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="result rows of `make accuracy` to store in the manifest",
    )
    cluster.set_defaults(licence="Apache-2.0")
    others = [sources.add_parser(name, help="importer of another package") for name in other_importers()]
    for other in others:
        other.add_argument("file", type=Path, metavar="FILE")
        other.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", type=_pair)
        _add_class_options(other)
    for source in (onnx, script, vision, pcdet, mmdet, cluster, *others):
        _add_common_options(source, source is not cluster)


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decoder",
        default="auto",
        metavar="NAME",
        help="auto (default): by the file's metadata, output names, then output shapes; or "
        "classifier, detr, fastestdet, nanodet, paddle, picodet, rfdetr, rtdetr, semantic, ssd, yolov5, "
        "yolov5seg, yolov8, yolov8seg, yolox; sets the following options and the thresholds to its "
        "authors' values",
    )
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="output to use of a multi-task network, such as the drivable area beside a detector",
    )
    parser.add_argument(
        "--input-size", type=int, nargs=2, metavar=("H", "W"), help="px, if the file does not fix it"
    )
    parser.add_argument(
        "--resize", type=_resize, metavar="RULE", help=f"{', '.join(RESIZES)}, crop_N or shorter_N"
    )
    parser.add_argument("--filter", choices=("area", "bilinear", "antialias", "bicubic"))
    parser.add_argument("--order", choices=("rgb", "bgr"), help="channel order of the network")
    parser.add_argument("--pad", type=float, help="grey level of the letterbox padding")
    parser.add_argument("--scale", type=float, help="factor of the grey levels, before --mean is subtracted")
    parser.add_argument("--mean", type=float, nargs=3, metavar=("C0", "C1", "C2"))
    parser.add_argument(
        "--std", type=float, nargs=3, metavar=("C0", "C1", "C2"), help="divisor after --mean is subtracted"
    )


def _add_class_options(parser: argparse.ArgumentParser, check: str = CHECK_PICTURE) -> None:
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names from label 0 on: .txt (one per line), .yaml or .json (a list, index to name, or "
        "either under names); default: those in the file",
    )
    parser.add_argument(
        "--classes-keep", nargs="+", default=[], metavar="NAME", help="classes to keep (default: all)"
    )
    parser.add_argument(
        "--score-thresholds",
        nargs="+",
        default=[],
        type=_threshold,
        metavar="NAME=X",
        help="minimum scores of single classes",
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help=check)


def _add_common_options(parser: argparse.ArgumentParser, images: bool) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="bundle to write")
    parser.add_argument("--score-threshold", type=float, help="default minimum score of the bundle")
    parser.add_argument("--nms-threshold", type=float, help="default IoU threshold of NMS")
    parser.add_argument("--name", help="name of the bundle (default: the file's)")
    parser.add_argument(
        "--bundle-version", default="1", metavar="TEXT", help="version of the bundle (default 1)"
    )
    parser.add_argument("--licence", default="unspecified" if images else "Apache-2.0", help="SPDX")


def _resize(text: str) -> str:
    try:
        return resize_rule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r}: must be KEY=VALUE")
    return key, value


def _threshold(text: str) -> tuple[str, float]:
    from perception_rt.model.class_thresholds import parse_score_threshold

    try:
        return parse_score_threshold(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Import, compare with the source's own runtime, and write.

    Raises:
        BundleError: one line with the reason.
    """
    _check_options(args)
    warnings.simplefilter("ignore")  # warnings of tracing and scripting do not concern the user
    sources = {
        "torchvision": _from_torchvision,
        "onnx": _from_onnx,
        "torchscript": _from_torchscript,
        "bev_cluster": _from_bev_cluster,
        "openpcdet": _from_openpcdet,
        "mmdet3d": _from_mmdet3d,
    }
    imported: Imported = sources.get(args.source, _from_other)(args)
    for note in imported.notes:
        print(note)
    from perception_rt.model.importers.export import save_checked

    clouds = args.source in ("bev_cluster", "openpcdet", "mmdet3d")
    plain = args.source == "bev_cluster"  # it has no weights and no classes to choose
    report = save_checked(
        args.out,
        imported,
        None if clouds else read_picture(args.check),
        cloud=read_cloud(None if plain else args.check) if clouds else None,
        name=args.name or args.out.stem,
        version=args.bundle_version,
        licence=args.licence,
        score_thresholds=None if plain else dict(args.score_thresholds),
        classes_keep=() if plain else args.classes_keep,
    )
    for line in report.lines:
        print(line)
    for warning in report.warnings:
        print(f"warning: {warning}")
    size, manifest = args.out.stat().st_size / 1e6, report.manifest
    print(
        f"{args.out}: {size:.2f} MB, {len(manifest.classes)} classes, sha256 {manifest.sha256[:12]}, verified"
    )
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse invalid options before anything is loaded."""
    if not args.out.parent.is_dir():
        raise BundleError(f"{args.out}: no folder {args.out.parent}")
    if args.out.is_dir():
        raise BundleError(f"{args.out}: is a folder")
    for name in ("score_threshold", "nms_threshold"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise BundleError(f"{name}={value}: must be in [0, 1]")
    size = getattr(args, "input_size", None)
    if size and not all(1 <= side <= 16384 for side in size):
        raise BundleError(f"input_size={tuple(size)}: must be from 1 to 16384 px")


def read_picture(path: Path | None) -> np.ndarray:
    """Return the check picture (H, W, 3) uint8 RGB: a file, or a rendered street."""
    import cv2
    import numpy as np

    if path is None:
        from perception_rt.sim.drive import Drive

        return Drive(STREET_SEED, STREET_SIZE).sample(STREET_TIME_S).image
    try:
        if path.stat().st_size > MAX_PICTURE:
            raise BundleError(f"check={str(path)!r}: over {MAX_PICTURE} bytes")
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise BundleError(f"check={str(path)!r}: cannot be read: {error}") from error
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        raise BundleError(f"check={str(path)!r}: not a picture")
    if max(picture.shape) > 4096:  # the golden input is this picture
        raise BundleError(f"check={str(path)!r}: {picture.shape[1]}x{picture.shape[0]} px: at most 4096")
    return np.ascontiguousarray(picture[..., ::-1])


def read_cloud(path: Path | None) -> np.ndarray:
    """Return the check cloud (N, 4) float32: a file of whole points, or a simulated street."""
    import numpy as np

    if path is None:
        from perception_rt.sim.drive import Drive

        return Drive(STREET_SEED, STREET_SIZE).lidar(STREET_TIME_S).points
    from perception_rt.replay.kitti import read_velodyne

    what = f"check={str(path)!r}"
    if not path.is_file() or path.stat().st_size > MAX_CLOUD:
        raise BundleError(f"{what}: {f'over {MAX_CLOUD} bytes' if path.is_file() else 'no such file'}")
    try:
        points = read_velodyne(path)
    except BagError as error:
        raise BundleError(f"{what}: {error}") from error
    if not len(points) or not np.isfinite(points).all():
        raise BundleError(f"{what}: {'holds NaN or infinity' if len(points) else 'holds no points'}")
    return points


def _classes(args: argparse.Namespace) -> list[str] | None:
    from perception_rt.model.importers.common import read_class_names

    return None if args.classes is None else read_class_names(args.classes)


def _thresholds(args: argparse.Namespace) -> dict[str, float | None]:
    return {"score_threshold": args.score_threshold, "nms_threshold": args.nms_threshold}


def _network_options(args: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(args, name) for name in PRESET_OPTIONS} | _thresholds(args)
    options["input_size"] = tuple(args.input_size) if args.input_size else None
    options["output"] = args.output
    return options


def _from_onnx(args: argparse.Namespace) -> Imported:
    from perception_rt.model.importers.onnx_file import parse_model

    classes = _classes(args)
    parse_model(args.file)  # refuse files that are not ONNX before torch is loaded
    from perception_rt.model.importers.onnx import import_onnx

    return import_onnx(args.file, args.decoder, classes, **_network_options(args))


def _from_torchscript(args: argparse.Namespace) -> Imported:
    classes, options = _classes(args), _network_options(args)
    if not zipfile.is_zipfile(args.file):  # refused before torch is loaded
        raise BundleError(f"{args.file}: {'not TorchScript' if args.file.is_file() else 'no such file'}")
    from perception_rt.model.importers.torchscript import import_torchscript

    return import_torchscript(args.file, args.decoder, classes, contract=args.contract, **options)


def _from_torchvision(args: argparse.Namespace) -> Imported:
    from perception_rt.model.importers.torchvision import import_torchvision

    return import_torchvision(args.model, args.weights, _classes(args), args.seed, **_thresholds(args))


def _from_bev_cluster(args: argparse.Namespace) -> Imported:
    from perception_rt.model.importers.bev_cluster import import_bev_cluster

    given = {name: getattr(args, name) for name in BEV_CLUSTER_OPTIONS} | _thresholds(args)
    parameters = {name: value for name, value in given.items() if value is not None}
    return import_bev_cluster(parameters, _read_scores(args.scores))


def _from_openpcdet(args: argparse.Namespace) -> Imported:
    from perception_rt.model.importers.openpcdet import import_openpcdet

    return import_openpcdet(args.checkpoint, args.config, _classes(args), args.intensity, **_thresholds(args))


def _from_mmdet3d(args: argparse.Namespace) -> Imported:
    from perception_rt.model.importers.mmdet3d import import_mmdet3d

    return import_mmdet3d(
        args.checkpoint,
        args.config,
        _classes(args),
        args.intensity,
        args.mmdet3d_version,
        **_thresholds(args),
    )


def _from_other(args: argparse.Namespace) -> Imported:
    from perception_rt.model.importers import run_other

    imported = run_other(args.source, args.file, dict(args.option))
    given = {name: value for name, value in _thresholds(args).items() if value is not None}
    for name, value in given.items():
        setattr(imported, name, value)
    if names := _classes(args):
        imported.classes = tuple(names)
    return imported


def _read_scores(path: Path | None) -> dict[str, float]:
    """Return the values of result rows, by name."""
    if path is None:
        return {}
    try:
        rows = json.loads(path.read_text())["rows"]
        return {row["name"]: row["value"] for row in rows if row["name"].startswith("lidar/bev_cluster/")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"scores={str(path)!r}: holds no result rows: {error}") from error
