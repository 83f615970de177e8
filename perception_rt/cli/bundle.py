"""Make, check and show model bundles.

A bundle is one file with the network, its pre- and postprocessing, and a manifest. It is also a program: only
open bundles from sources that you trust.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from perception_rt.cli import bundle_calibrate, bundle_compress, bundle_explain, bundle_export, bundle_get

EXAMPLES = """\
  perception-rt bundle get fastestdet
  perception-rt bundle export onnx yolo11n.onnx --out yolo11n.pt
  perception-rt bundle export onnx mine.onnx --decoder rfdetr --classes data.yaml --out mine.pt
  perception-rt bundle export torchscript yolo11n.torchscript --out yolo11n.pt
  perception-rt bundle export torchscript scripted.pt --contract --classes names.txt --out mine.pt
  perception-rt bundle export torchvision ssdlite320_mobilenet_v3_large --weights DEFAULT --out ssd.pt
  perception-rt bundle export bev_cluster --max-range 40 --out near.pt
  perception-rt bundle calibrate yolo11n.pt --data images/val --out calibrated.pt
  perception-rt bundle compress yolo11n.pt --precision int8 --data images/val --out int8.pt
  perception-rt bundle explain yolo11n.pt --images street.jpg --detection 0
  perception-rt bundle explain pillars --bag drive.mcap --frame 10 --out out/explain
  perception-rt bundle verify yolo11n.pt
  perception-rt bundle show sim_camera --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all actions."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    bundle_export.add_arguments(commands.add_parser("export", help="make a bundle"))
    bundle_get.add_arguments(commands.add_parser("get", help="download a pretrained network by name"))
    bundle_calibrate.add_arguments(
        commands.add_parser("calibrate", help="calibrate the scores to probabilities")
    )
    bundle_compress.add_arguments(
        commands.add_parser("compress", help="make it smaller: int8, fp16, pruned, distilled")
    )
    bundle_explain.add_arguments(commands.add_parser("explain", help="show what made a detection"))
    verify = commands.add_parser("verify", help="verify a bundle's manifest, hash and golden answer")
    show = commands.add_parser("show", help="print a bundle's manifest (runs nothing)")
    build = commands.add_parser("compile", help="compile the bundle for this machine (takes minutes)")
    for command in (verify, show, build):
        command.add_argument("bundle", metavar="FILE", help="bundle file, or name of a shipped bundle")
    for command in (verify, build):
        command.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default cpu)")
    build.add_argument("--half", action="store_true", help="compute in fp16 (CUDA only)")
    build.add_argument("--threads", type=int, default=1, help="CPU threads of the compiled program (1)")
    show.add_argument("--json", action="store_true", help="print the whole manifest as JSON")


def run(args: argparse.Namespace) -> int:
    """Run one action.

    Raises:
        BundleError: one line with the reason.
    """
    actions = {
        "export": bundle_export.run,
        "get": bundle_get.run,
        "calibrate": bundle_calibrate.run,
        "compress": bundle_compress.run,
        "explain": bundle_explain.run,
        "verify": _verify,
        "show": _show,
        "compile": _compile,
    }
    return actions[args.action](args)


def _compile(args: argparse.Namespace) -> int:
    """Build the engines that take minutes for this machine; `auto` then tries them too."""
    from perception_rt.model.archive import read_archive
    from perception_rt.model.engine import EngineOptions, engine_names, find_engine
    from perception_rt.model.runtime import resolve_bundle, resolve_device

    archive = read_archive(resolve_bundle(args.bundle))
    options, built = EngineOptions(str(resolve_device(args.device)), args.half, args.threads), 0
    for name in engine_names():
        kind = find_engine(name)
        programs = [entry for entry in archive.manifest.programs if entry.kind in kind.KINDS]
        if not programs or not hasattr(kind, "compile"):
            continue
        if (why := kind.available(options)) is not None:
            print(f"{name}: left out: {why}")
            continue
        for program in programs:
            kind.compile(program, archive.members[program.file], options)
            print(f"{name}: {program.file} is compiled")
            built += 1
    print(f"{args.bundle}: {built} compiled")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from perception_rt.model import bundle

    manifest = bundle.verify(args.bundle, args.device)
    noise = "; its golden input is noise" if manifest.golden.origin == "noise" else ""
    if len({"".join(row[i : i + 2]) for row in manifest.golden.cells for i in range(0, len(row), 2)}) == 1:
        noise += "; its golden label map has one class"
    print(f"{args.bundle}: ok ({manifest.name} {manifest.version}, sha256 {manifest.sha256[:12]}{noise})")
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
    fields["golden"] = f"{golden['origin']}, shape {golden['shape']}, {len(golden['scores'])} detections"
    if golden["cells"]:
        fields["golden"] += f", {len(golden['cells'])} x {len(golden['cells'][0]) // 2} cells of labels"
    fields["programs"] = "; ".join(
        f"{program.kind} {program.precision} {program.file}" for program in manifest.programs
    )
    if manifest.calibration is not None:
        fields["calibration"] = fields["calibration"]["record"]
    for group in ("input", "decoder", "calibration", "provenance"):
        if fields[group] is not None:
            fields[group] = ", ".join(f"{key} {json.dumps(value)}" for key, value in fields[group].items())
    for name, value in fields.items():
        print(f"{name:16} {value}")
    return 0
