"""Make, check and show model bundles.

A bundle is one file: the network, everything around it, and a manifest. It is also a program: open only
those whose source you trust.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from perception_rt.types.errors import BundleError

EXAMPLES = """\
  perception-rt bundle export torchvision ssdlite320_mobilenet_v3_large --weights DEFAULT --out ssd.pt
  perception-rt bundle export torchvision fasterrcnn_resnet50_fpn --weights mine.pth --out mine.pt
  perception-rt bundle export onnx FastestDet.onnx --decoder fastestdet --out fastestdet.pt
  perception-rt bundle export onnx mine.onnx --decoder yolov8 --classes names.txt --out mine.pt
  perception-rt bundle export bev_cluster --max-range 40 --out near.pt
  perception-rt bundle verify fastestdet.pt
  perception-rt bundle show sim_camera --json
"""

BEV_CLUSTER_OPTIONS = {
    "min_range": "m; what is nearer belongs to the own vehicle",
    "max_range": "m; what is farther is not looked at",
    "ground_slope": "of the steepest ground, on top of the vehicle's own tilt, m per m",
    "gap": "from which on neighbouring points are two things, at the sensor, m",
    "gap_per_m": "by which the gap grows with range",
    "car_length": "of a usual car, m",
    "car_width": "of a usual car, m",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `export` from its sources, `verify` and `show`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = commands.add_parser("export", help="make a bundle")
    sources = export.add_subparsers(dest="source", required=True, metavar="SOURCE")
    vision = sources.add_parser("torchvision", help="any torchvision detection model, by name")
    vision.add_argument("model", metavar="NAME", help="e.g. ssdlite320_mobilenet_v3_large")
    vision.add_argument(
        "--weights",
        metavar="W",
        help="a .pth state dict, or torchvision's name (DEFAULT); none: random weights",
    )
    vision.add_argument("--seed", type=int, default=0, help="of random weights (default 0)")
    onnx = sources.add_parser("onnx", help="an ONNX detector and the name of its decoder")
    onnx.add_argument("file", type=Path, metavar="FILE", help="the .onnx file")
    _add_onnx_options(onnx)
    for source in (vision, onnx):
        source.add_argument(
            "--classes", type=Path, metavar="FILE", help="class names, one a line, from label 0 on"
        )
        _add_common_options(source)
    cluster = sources.add_parser("bev_cluster", help="lidar detection by geometry alone: nothing is trained")
    for name, text in BEV_CLUSTER_OPTIONS.items():
        cluster.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    cluster.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="rows that `make accuracy` wrote for it, into the manifest",
    )
    _add_common_options(cluster)
    cluster.set_defaults(classes=None, licence="Apache-2.0")
    verify = commands.add_parser(
        "verify", help="hold a bundle to its manifest, its hash and its golden answer"
    )
    show = commands.add_parser("show", help="print a bundle's manifest (runs nothing)")
    for command in (verify, show):
        command.add_argument("bundle", metavar="FILE", help="a file, or the name of a shipped bundle")
    verify.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default cpu)")
    show.add_argument("--json", action="store_true", help="the whole manifest as JSON")


def _add_onnx_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decoder", required=True, help="yolov5, yolov8, detr or fastestdet; sets the options that follow"
    )
    parser.add_argument(
        "--input-size", type=int, nargs=2, metavar=("H", "W"), help="px, where the file leaves it open"
    )
    parser.add_argument("--resize", choices=("stretch", "letterbox"))
    parser.add_argument("--filter", choices=("area", "bilinear"))
    parser.add_argument("--order", choices=("rgb", "bgr"), help="channel order that the network wants")
    parser.add_argument("--scale", type=float, help="grey levels are multiplied by this, then less the mean,")
    parser.add_argument("--mean", type=float, nargs=3, metavar=("C0", "C1", "C2"))
    parser.add_argument("--std", type=float, nargs=3, metavar=("C0", "C1", "C2"), help="then divided by this")


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle to write")
    parser.add_argument("--score-threshold", type=float, help="default lowest score of the bundle")
    parser.add_argument("--nms-threshold", type=float, help="default IoU of NMS")
    parser.add_argument("--name", help="of the bundle (default: the file's)")
    parser.add_argument("--bundle-version", default="1", metavar="TEXT", help="of the bundle (default 1)")
    parser.add_argument("--licence", default="unspecified", help="of the weights, SPDX")


def run(args: argparse.Namespace) -> int:
    """Do what was asked.

    Raises:
        BundleError: one line that says why not.
    """
    return {"export": _export, "verify": _verify, "show": _show}[args.action](args)


def _export(args: argparse.Namespace) -> int:
    from perception_rt.model import bundle

    classes = _read_classes(args.classes)
    thresholds = {"score_threshold": args.score_threshold, "nms_threshold": args.nms_threshold}
    warnings.simplefilter("ignore")  # what tracing and scripting say concerns their authors, not the user
    sources = {"torchvision": _from_torchvision, "onnx": _from_onnx, "bev_cluster": _from_bev_cluster}
    imported = sources[args.source](args, classes, thresholds)
    manifest = bundle.save(
        args.out,
        imported.module,
        name=args.name or args.out.stem,
        version=args.bundle_version,
        classes=imported.classes,
        task="detect3d" if args.source == "bev_cluster" else "detect2d",
        input_spec=imported.input_spec,
        licence=args.licence,
        provenance=imported.provenance,
    )
    bundle.verify(args.out)
    size = args.out.stat().st_size / 1e6
    print(
        f"{args.out}: {size:.2f} MB, {len(manifest.classes)} classes, sha256 {manifest.sha256[:12]}, verified"
    )
    return 0


def _from_torchvision(
    args: argparse.Namespace, classes: list[str] | None, thresholds: dict[str, float | None]
) -> Any:
    from perception_rt.model.importers import import_torchvision

    imported = import_torchvision(args.model, args.weights, classes, args.seed)
    for name, value in thresholds.items():
        if value is not None:
            setattr(imported.module, name, value)
    return imported


def _from_onnx(
    args: argparse.Namespace, classes: list[str] | None, thresholds: dict[str, float | None]
) -> Any:
    from perception_rt.model.importers import import_onnx

    size = tuple(args.input_size) if args.input_size else None
    changes = {name: getattr(args, name) for name in ("resize", "filter", "order", "scale", "mean", "std")}
    return import_onnx(args.file, args.decoder, classes, size, **changes, **thresholds)


def _from_bev_cluster(
    args: argparse.Namespace, classes: list[str] | None, thresholds: dict[str, float | None]
) -> Any:
    from perception_rt.model.importers import import_bev_cluster

    given = {name: getattr(args, name) for name in BEV_CLUSTER_OPTIONS} | thresholds
    parameters = {name: value for name, value in given.items() if value is not None}
    return import_bev_cluster(parameters, _read_scores(args.scores))


def _read_scores(path: Path | None) -> dict[str, float]:
    """The values of result rows, by name."""
    if path is None:
        return {}
    try:
        rows = json.loads(path.read_text())["rows"]
        return {row["name"]: row["value"] for row in rows if row["name"].startswith("lidar/bev_cluster/")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"scores={str(path)!r}: holds no result rows: {error}") from error


def _read_classes(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"classes={str(path)!r}: cannot be read: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise BundleError(f"classes={str(path)!r}: holds no names")
    return names


def _verify(args: argparse.Namespace) -> int:
    from perception_rt.model import bundle

    manifest = bundle.verify(args.bundle, args.device)
    print(f"{args.bundle}: ok ({manifest.name} {manifest.version}, sha256 {manifest.sha256[:12]})")
    return 0


def _show(args: argparse.Namespace) -> int:
    from perception_rt.model.archive import read_manifest
    from perception_rt.model.runtime import resolve_bundle

    manifest = read_manifest(resolve_bundle(args.bundle))
    if args.json:
        print(manifest.to_json())
        return 0
    fields = dataclasses.asdict(manifest)
    golden = fields.pop("golden")
    fields["classes"] = f"{len(manifest.classes)}: {', '.join(manifest.classes)}"
    fields["golden"] = f"seed {golden['seed']}, shape {golden['shape']}, {len(golden['scores'])} detections"
    for group in ("input", "provenance"):
        fields[group] = ", ".join(f"{key} {json.dumps(value)}" for key, value in fields[group].items())
    for name, value in fields.items():
        print(f"{name:16} {value}")
    return 0
