"""`perception-rt bundle get`: a pretrained network by name, as a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a network of --list, or torchvision weights, e.g. RetinaNet_ResNet50_FPN_Weights.COCO_V1",
    )
    parser.add_argument("--list", action="store_true", help="print the networks with size and licence")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="use this downloaded file")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="bundle to write (default: the cache, to be used by name)",
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="IMAGE",
        help="picture for the golden output (default: a rendered street)",
    )


def run(args: argparse.Namespace) -> int:
    """Download, check and export.

    Raises:
        BundleError: one line with the reason.
    """
    from perception_rt.types.errors import BundleError

    if args.list:
        _print_list()
        return 0
    if args.name is None:
        raise BundleError("give a NAME, or --list")
    path = get(args.name, args.source, args.out, args.check)
    print(f"{path}: ready; use it as `bundle: {path if args.out else path.stem}`")
    return 0


def get(name: str, source: Path | None = None, out: Path | None = None, check: Path | None = None) -> Path:
    """Return the bundle of a network by name; print what is downloaded, and show progress.

    Raises:
        BundleError: as `perception_rt.model.zoo.get_bundle`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from perception_rt.cli.bundle_export import read_picture
    from perception_rt.model.zoo import find_entry, get_bundle

    entry = find_entry(name)
    size = f"{entry.size / 1e6:.1f} MB, " if entry.size else ""
    origin = str(source) if source else entry.url
    print(
        f"{entry.name}: {entry.note}\n  {size}licence {entry.licence}, by {entry.homepage}\n  from {origin}"
    )
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=entry.size, visible=source is None)
        return get_bundle(
            entry,
            source,
            out,
            read_picture(check),
            lambda received, total: bar.update(task, completed=received, total=total),
        )


def get_missing(name: str) -> str:
    """Download the pretrained network of a bundle's name if it is not here yet.

    Args:
        name: a file, or the bare name of a shipped or downloaded bundle, or of a network that `get` knows.

    Returns:
        The name by which `resolve_bundle` finds it, which is not that of torchvision's weights.

    Raises:
        BundleError: an unknown bare name, or as `get`.
    """
    from perception_rt.model.runtime import resolve_bundle
    from perception_rt.model.zoo import find_entry, zoo_bundle
    from perception_rt.types.errors import BundleError

    published = "_Weights." in name and not Path(name).exists()
    try:
        if not published:
            resolve_bundle(name)
            return name
        absent = BundleError(f"{name}: no such file, nor weights of torchvision")
    except BundleError as error:
        absent = error
    try:
        own = find_entry(name).name
    except BundleError:
        raise absent from None
    if own == name or zoo_bundle(own) is None:
        get(name)
    return own


def _print_list() -> None:
    from perception_rt.model.zoo import ZOO

    for entry in ZOO.values():
        size = f"{entry.size / 1e6:.1f} MB" if entry.size else ""
        print(f"{entry.name:14} {size:>8}  {entry.licence:13} {entry.note}")
    print("torchvision's weights by their own names: https://pytorch.org/vision/stable/models.html")
