"""Read and write bundle files: zip archives of a manifest and its members.

Format 2 stores every member uncompressed, so no member is larger than the file. Format 1 is a TorchScript
archive with the manifest among its extra files; both have it at the same place.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from perception_rt.model.manifest import Manifest, Program, bundle_sha256, parse_manifest
from perception_rt.types.errors import BundleError, first_line

MANIFEST_FILE = "extra/manifest.json"
FORMAT1_FILE = "module.pt"
MAX_MANIFEST = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """A bundle in memory.

    Attributes:
        path: the file it was read from.
        manifest: the validated manifest.
        members: by name, the bytes of every member that the manifest names, checked against the hash.
    """

    path: Path
    manifest: Manifest
    members: Mapping[str, bytes]


def write_archive(path: Path, manifest: Manifest, members: Mapping[str, bytes]) -> None:
    """Write a bundle of format 2. Readers see either the old file or the complete new one.

    Raises:
        BundleError: it cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST_FILE: manifest.to_json().encode(), **members}.items():
            # A fixed date: the same bundle is the same file.
            archive.writestr(zipfile.ZipInfo(name), data)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle without loading (so without executing) any of it.

    Raises:
        BundleError: no file, not a bundle, newer schema, invalid field.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            text = _manifest_text(archive, path)
    except BundleError:
        raise
    except Exception as error:  # a damaged zip fails in many ways
        raise BundleError(f"{path}: not a bundle: {first_line(error)}") from error
    try:
        return _with_program(parse_manifest(text))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def read_archive(path: Path) -> Archive:
    """Read a bundle and check its hash (format 1: when its module is loaded).

    Raises:
        BundleError: as `read_manifest`; also if a member is missing, damaged or not listed in the manifest.
    """
    manifest = read_manifest(path)
    if manifest.schema_version == 1:
        return Archive(path, manifest, {FORMAT1_FILE: path.read_bytes()})
    size = path.stat().st_size
    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in manifest.files:
                info = archive.getinfo(name)
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                    raise BundleError(f"{path}: member {name} is compressed: not written by `bundle export`")
                members[name] = archive.read(info)
    except BundleError:
        raise
    except KeyError as error:
        raise BundleError(f"{path}: member {name} is missing") from error
    except Exception as error:
        raise BundleError(f"{path}: member {name} is damaged: {first_line(error)}") from error
    for program in manifest.programs:
        digest = hashlib.sha256(members[program.file]).hexdigest()
        if digest != program.sha256:
            raise BundleError(
                f"{path}: {program.file} has sha256={digest[:12]}..., manifest {program.sha256[:12]}..."
            )
    digest = bundle_sha256(manifest, members)
    if digest != manifest.sha256:
        raise BundleError(
            f"{path}: contents have sha256={digest[:12]}..., manifest {manifest.sha256[:12]}...: "
            "it was changed after it was written"
        )
    return Archive(path, manifest, members)


def _manifest_text(archive: zipfile.ZipFile, path: Path) -> str:
    infos = archive.infolist()
    # TorchScript puts everything into one folder, of any name.
    found = [info for info in infos if f"/{info.filename}".endswith(f"/{MANIFEST_FILE}")]
    if not found:
        names = {info.filename.split("/", 1)[-1] for info in infos}
        if "constants.pkl" in names:
            raise BundleError(
                f"{path}: TorchScript without manifest.json: not a bundle; make one of it with "
                f"`perception-rt bundle export torchscript {path.name}`"
            )
        raise BundleError(f"{path}: not a bundle (weights alone? export them with `bundle export`)")
    if found[0].file_size > MAX_MANIFEST:
        raise BundleError(f"{path}: manifest has {found[0].file_size} bytes, at most {MAX_MANIFEST}")
    return archive.read(found[0]).decode()


def _with_program(manifest: Manifest) -> Manifest:
    """A manifest of format 1 with its module as the one program."""
    if manifest.schema_version > 1:
        return manifest
    return replace(manifest, programs=(Program("torchscript", FORMAT1_FILE, manifest.sha256),))
