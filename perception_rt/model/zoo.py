"""Pretrained networks by name: their download addresses, and how they become bundles.

The hash of a file is checked before anything parses it. Files and bundles are kept in the user's cache
folder. An interrupted download resumes.
"""

from __future__ import annotations

import http
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception_rt.model.engine.cache import cache_folder
from perception_rt.model.importers.common import sha256_of
from perception_rt.types.errors import BundleError

TIMEOUT_S = 30.0  # without a byte from the server
MAX_BYTES = 4 << 30
_BLOCK = 1 << 18


class ZooEntry(NamedTuple):
    """A published file of weights.

    Attributes:
        name: name of the bundle.
        url: address of the file.
        sha256: hash of the file, or its first 8 digits as in torchvision's file names.
        size: bytes; None if the publisher does not state it.
        licence: SPDX identifier of the weights.
        homepage: project of the authors.
        note: one line about the network.
        decoder: decoder of an ONNX file; empty for torchvision weights.
        model, weights: torchvision's builder and the name of the weights.
    """

    name: str
    url: str
    sha256: str
    size: int | None
    licence: str
    homepage: str
    note: str
    decoder: str = ""
    model: str = ""
    weights: str = ""


_RAW = "https://raw.githubusercontent.com"
ZOO = {
    entry.name: entry
    for entry in (
        ZooEntry(
            "fastestdet",
            f"{_RAW}/dog-qiuqiu/FastestDet/50473cd155cb088aa4a99e64ff6a4b3c24fa07e1/example/onnx-runtime/FastestDet.onnx",
            "31cb14c017fce347cb4c846ec62fdf00d76bb3beecdf4be21e7116ac67feb880",
            998_169,
            "BSD-3-Clause",
            "https://github.com/dog-qiuqiu/FastestDet",
            "80 COCO classes, 352x352, mAP50 25.3 %, 0.24 M parameters",
            "fastestdet",
        ),
        ZooEntry(
            "yolox_nano",
            "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
            "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
            3_660_092,
            "Apache-2.0",
            "https://github.com/Megvii-BaseDetection/YOLOX",
            "80 COCO classes, 416x416, AP 25.8 %, 0.91 M parameters",
            "yolox",
        ),
        ZooEntry(
            "deimv2_femto",
            f"{_RAW}/Kazuhito00/DEIMv2-ONNX-Sample/f88d4382abca74edb26ed4c7f46190ac40da0ea5/model/deimv2_hgnetv2_femto_coco.onnx",
            "c6ad358f750132b891165e034c2ba507abefc5ebe1c1d2732a0acbcacc47e52c",
            4_116_144,
            "Apache-2.0",
            "https://github.com/Intellindust-AI-Lab/DEIMv2",
            "80 COCO classes, 416x416, AP 31.0 %, 0.96 M parameters",
            "rtdetr",
        ),
    )
}


def find_entry(name: str) -> ZooEntry:
    """Return the entry of a name: a key of `ZOO`, or torchvision weights.

    Args:
        name: for torchvision ``SSDLite320_MobileNet_V3_Large_Weights.COCO_V1``, as torchvision calls its
            weights, or ``ssdlite320_mobilenet_v3_large`` for a model's default weights. The bundle has the
            model's name, and for other weights than the default ones theirs too.

    Raises:
        BundleError: the name is not known.
    """
    if name in ZOO:
        return ZOO[name]
    import torchvision  # takes 1.7 s, and only its own weights need it

    models = torchvision.models
    if name in models.list_models():
        weights = models.get_model_weights(name).DEFAULT
    else:
        try:
            weights = models.get_weight(name)
        except (ValueError, KeyError):
            known = f"{', '.join(ZOO)}, or torchvision's models and weights"
            raise BundleError(f"{name}: not a known network; known are {known}") from None
    if "categories" not in weights.meta:
        raise BundleError(f"{name}: torchvision's {weights} have no classes")
    model = next(one for one in models.list_models() if models.get_model_weights(one) is type(weights))
    file = weights.url.rpartition("/")[2]
    default = weights == models.get_model_weights(model).DEFAULT
    swag = "SWAG" in weights.meta.get("license", "")  # the one licence that torchvision states: Meta's own
    return ZooEntry(
        model if default else f"{model}_{weights.name.lower()}",
        weights.url,
        file.rpartition("-")[2].partition(".")[0],
        None,
        "CC-BY-NC-4.0" if swag else "BSD-3-Clause",
        "https://pytorch.org/vision",
        f"torchvision {weights}, {len(weights.meta['categories'])} classes",
        model=model,
        weights=weights.name,
    )


def zoo_bundle(name: str) -> Path | None:
    """Return the bundle of a network that `get_bundle` made earlier; None without one."""
    path = cache_folder() / "zoo" / f"{name}.pt"
    return path if path.is_file() else None


def get_bundle(
    entry: ZooEntry,
    source: Path | None = None,
    out: Path | None = None,
    picture: np.ndarray | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Download a network, check its hash, and make a bundle that agrees with the source's own runtime.

    Args:
        entry: the network.
        source: a file that was downloaded before; nothing is downloaded.
        out: the bundle to write; None for the cache folder, in which `resolve_bundle` finds it by name.
        picture: (H, W, 3) uint8 RGB with objects, for the bundle's golden output; None for noise.
        progress: called with the received and the expected bytes.

    Returns:
        The bundle.

    Raises:
        BundleError: there is no connection or no disk space, the file is not the expected one, or the export
            fails.
    """
    from perception_rt.model.importers.export import save_checked

    folder = cache_folder() / "zoo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be created: {error.strerror}") from error
    target = out or folder / f"{entry.name}.pt"
    file = _checked(entry, source) if source else download(entry, folder, progress)
    if entry.model:
        from perception_rt.model.importers.torchvision import import_torchvision

        imported = import_torchvision(entry.model, str(file), _torchvision_classes(entry))
    else:
        from perception_rt.model.importers.onnx import import_onnx

        imported = import_onnx(file, entry.decoder)
    imported.provenance |= {"homepage": entry.homepage, "url": entry.url}
    save_checked(target, imported, picture, name=entry.name, licence=entry.licence)
    return target


def _torchvision_classes(entry: ZooEntry) -> list[str]:
    import torchvision

    return list(torchvision.models.get_model_weights(entry.model)[entry.weights].meta["categories"])


def download(
    entry: ZooEntry, folder: Path, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Return the file of an entry in `folder`: download the missing part, and check its hash.

    Proxies are taken from the usual environment variables.

    Raises:
        BundleError: there is no connection or no disk space, or the file has another size or hash.
    """
    path = folder / (entry.url.rpartition("/")[2] or entry.name)
    if path.is_file() and _matches(path, entry):
        return path
    part = path.with_name(path.name + ".part")
    try:
        _receive(entry, part, progress)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", None) or error
        raise BundleError(
            f"{entry.name}: {entry.url} cannot be downloaded: {why}; "
            f"download it elsewhere and run `perception-rt bundle get {entry.name} --from FILE`"
        ) from error
    except OSError as error:
        raise BundleError(f"{part}: cannot be written: {error.strerror or error}") from error
    if not _matches(part, entry):
        found = sha256_of(part)
        part.unlink()
        raise BundleError(
            f"{entry.name}: {entry.url} is another file: sha256 {found[:16]}, expected {entry.sha256[:16]}"
        )
    os.replace(part, path)
    return path


def _checked(entry: ZooEntry, file: Path) -> Path:
    if not file.is_file():
        raise BundleError(f"{file}: no such file")
    if not _matches(file, entry):
        found, expected = sha256_of(file)[:16], entry.sha256[:16]
        raise BundleError(f"{file}: is another file than {entry.name}: sha256 {found}, expected {expected}")
    return file


def _receive(entry: ZooEntry, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Append the missing bytes to `part`; start again if the server cannot resume."""
    limit = entry.size or MAX_BYTES
    have = part.stat().st_size if part.is_file() else 0
    if have > limit:
        part.unlink()
        have = 0
    if have == entry.size:
        return
    headers = {"User-Agent": "perception_rt"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        request = urllib.request.Request(entry.url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # no part of this file
        _receive(entry, part, progress)
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else entry.size
        if total is not None and total > limit:
            raise BundleError(f"{entry.name}: the server sends {total} bytes, expected at most {limit}")
        if total is not None and shutil.disk_usage(part.parent).free < total - have:
            raise BundleError(f"{part.parent}: {(total - have) / 1e6:.1f} MB do not fit on the disk")
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                have += len(block)
                if have > limit:
                    raise BundleError(f"{entry.name}: the server sends more than {limit} bytes")
                file.write(block)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _matches(path: Path, entry: ZooEntry) -> bool:
    if entry.size is not None and path.stat().st_size != entry.size:
        return False
    return sha256_of(path).startswith(entry.sha256)
