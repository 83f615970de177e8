"""Save, load and verify bundles: one file with a manifest, programs, and the code around them.

Opening a bundle runs the code inside it. Open only bundles from sources you trust. The
hash in the manifest detects damage and mix-ups, but does not protect against a malicious author.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_rt.model.archive import Archive, read_archive, write_archive
from perception_rt.model.golden import (
    Outputs,
    encode_golden,
    finds_something,
    golden_difference,
    golden_input,
    make_golden,
)
from perception_rt.model.manifest import (
    DecoderSpec,
    Golden,
    InputSpec,
    Manifest,
    Program,
    bundle_sha256,
    parse_manifest,
)
from perception_rt.model.runtime import open_archive, resolve_bundle, resolve_device
from perception_rt.model.specs import CloudSpec
from perception_rt.model.task import DETECT2D, find_task
from perception_rt.model.torchscript import (
    check_finite,
    load_module,
    module_bytes,
    module_sha256,
    script_module,
)
from perception_rt.types.errors import BundleError

MODULE_FILE = "module.pt"
DECODER_FILE = "decoder.pt"
ENCODER_FILE = "encoder.pt"
SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2"}


@dataclass(frozen=True, slots=True)
class ProgramSource:
    """A network to put into a bundle.

    Attributes:
        kind, inputs, outputs, precision, any_batch: as of `Program`.
        data: of the file.
        optional: if True and the output differs from the golden one, the program is left out and
            ``provenance.left_out`` gives the reason; if False, nothing is written.
    """

    kind: str
    data: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: str = "fp32"
    any_batch: bool = False
    optional: bool = False


def save(
    path: str | Path,
    module: torch.nn.Module,
    *,
    name: str,
    classes: Sequence[str],
    input_spec: InputSpec,
    licence: str,
    version: str = "1",
    task: str = DETECT2D.name,
    provenance: Mapping[str, Any] | None = None,
    golden_seed: int = 0,
    golden: np.ndarray | None = None,
    score_thresholds: Mapping[str, float] | None = None,
    classes_keep: Sequence[str] = (),
) -> Manifest:
    """Script a module that maps sensor data to boxes, and write it as a bundle; a failure writes nothing.

    Args:
        path: the file to write; its folder must exist.
        module: takes ``(images, bgr, score_threshold, nms_threshold)`` as `Detector` does, or, for task
            ``detect3d``, ``(points, score_threshold, nms_threshold)``, and returns what `ImageRuntime` or
            `CloudRuntime` document. It has the float attributes ``score_threshold`` and ``nms_threshold``:
            the defaults of the bundle.
        name: name of the bundle.
        classes: class names, by label.
        input_spec: how images reach the network, or what clouds it takes.
        licence: of the weights.
        version: of the bundle.
        task: a key of `perception_rt.model.task.TASKS`.
        provenance: where the weights come from, JSON values.
        golden_seed: of the golden input where `golden` is None: noise.
        golden: a picture (1, H, W, 3) uint8 RGB or a cloud (N, 4) float32 with objects that the module finds.
        score_thresholds: by class name, lowest scores that differ.
        classes_keep: the classes to return; empty for all.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: the module cannot be scripted, detects nothing in the golden input, or a field is
            invalid.
    """
    find_task(task)
    scripted = script_module(copy.deepcopy(module).to("cpu"))
    check_finite(scripted, f"module {name}")
    thresholds = _threshold(scripted, "score_threshold"), _threshold(scripted, "nms_threshold")
    manifest = _manifest(name, version, task, input_spec, classes, thresholds, provenance, licence)
    manifest = replace(
        manifest, score_thresholds=dict(score_thresholds or {}), classes_keep=tuple(classes_keep)
    )
    program = ProgramSource("torchscript", module_bytes(scripted), (), ())
    return _write(path, manifest, [program], {}, golden, golden_seed, None)


def save_network(
    path: str | Path,
    programs: Sequence[ProgramSource],
    *,
    decoder: DecoderSpec | torch.nn.Module,
    name: str,
    classes: Sequence[str],
    input_spec: InputSpec,
    licence: str,
    score_threshold: float,
    nms_threshold: float,
    golden: np.ndarray | None = None,
    expected: Outputs | None = None,
    encoder: torch.nn.Module | None = None,
    score_thresholds: Mapping[str, float] | None = None,
    classes_keep: Sequence[str] = (),
    max_detections: int = 300,
    version: str = "1",
    task: str = DETECT2D.name,
    provenance: Mapping[str, Any] | None = None,
    golden_seed: int = 0,
) -> Manifest:
    """Write a network in one or several forms with the code around it; a failure writes nothing.

    Args:
        path: the file to write; its folder must exist.
        programs: the network in each form; the first is the reference, and the others must give the same
            output.
        decoder: maps the outputs to boxes; or a module to script: for images it takes ``(outputs, height,
            width, score_threshold)``, the size being that of the network's input, and returns boxes, scores
            and labels of one image before NMS; of clouds ``(outputs, score_threshold, nms_threshold)``, and
            returns them after NMS, best score first. `outputs` is a list of tensors.
        name: name of the bundle.
        classes: class names, by label.
        input_spec: how the sensor's data reach the network.
        licence: of the weights.
        score_threshold: default lowest score kept.
        nms_threshold: default IoU of NMS.
        golden: a picture (1, H, W, 3) uint8 RGB or a cloud (N, 4) float32 with objects; None for noise.
        expected: boxes, scores and labels that the source's own runtime gives for `golden` at
            `score_threshold`; None records the output of the first program.
        encoder: of clouds: a module to script that maps points (N, 4) to the list of the network's inputs.
        score_thresholds: by class name, lowest scores that differ.
        classes_keep: the classes to return; empty for all.
        max_detections: most boxes of an image.
        version: of the bundle.
        task: a key of `perception_rt.model.task.TASKS`.
        provenance: where the weights come from, JSON values.
        golden_seed: of the golden input where `golden` is None.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: a field is invalid, nothing is found in the golden input, or a program differs.
    """
    find_task(task)
    files: dict[str, bytes] = {}
    if isinstance(decoder, torch.nn.Module):
        files[DECODER_FILE] = module_bytes(script_module(decoder))
        decoder = DecoderSpec("script", {"file": DECODER_FILE})
    if encoder is not None:
        files[ENCODER_FILE] = module_bytes(script_module(encoder))
        if not isinstance(input_spec, CloudSpec):
            raise BundleError(f"task={task!r}: images take no encoder")
        input_spec = replace(input_spec, encoder=ENCODER_FILE)
    thresholds = score_threshold, nms_threshold
    manifest = _manifest(name, version, task, input_spec, classes, thresholds, provenance, licence)
    manifest = replace(
        manifest,
        decoder=decoder,
        score_thresholds=dict(score_thresholds or {}),
        classes_keep=tuple(classes_keep),
        max_detections=max_detections,
    )
    return _write(path, manifest, programs, files, golden, golden_seed, expected)


def _manifest(
    name: str,
    version: str,
    task: str,
    input_spec: InputSpec,
    classes: Sequence[str],
    thresholds: tuple[float, float],
    provenance: Mapping[str, Any] | None,
    licence: str,
) -> Manifest:
    """Return a manifest that has no programs and no golden output yet."""
    score_threshold, nms_threshold = thresholds
    unknown = Golden(0, (), (), (), (), 0.0)
    return Manifest(
        name=name,
        version=version,
        task=task,
        input=input_spec,
        classes=tuple(classes),
        sha256="0" * 64,
        golden=unknown,
        provenance=dict(provenance or {}),
        licence=licence,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
    )


def _write(
    path: str | Path,
    manifest: Manifest,
    programs: Sequence[ProgramSource],
    files: dict[str, bytes],
    data: np.ndarray | None,
    seed: int,
    expected: Outputs | None,
) -> Manifest:
    """Record the golden output, check every program against it, compute the hash, and write the file."""
    path = Path(path)
    if not path.parent.is_dir():
        raise BundleError(f"{path}: no folder {path.parent}")
    task = find_task(manifest.task)
    origin = "noise" if data is None else task.golden_origin
    data = golden_input(seed, task.noise_shape) if data is None else np.ascontiguousarray(data)
    file, encoded = encode_golden(data)
    members = {**files, file: encoded}
    entries = {program_entry(index, program): program for index, program in enumerate(programs)}
    members |= {entry.file: program.data for entry, program in entries.items()}
    manifest = replace(manifest, programs=tuple(entries))

    def recorded(outputs: Outputs, threshold: float) -> Manifest:
        golden = make_golden(
            outputs, task, data, origin=origin, file=file, score_threshold=threshold, seed=seed
        )
        return replace(manifest, golden=golden)

    # All that is found in noise; in a scene what is found in use, or by a poor network anything at all.
    answer: Outputs = ()
    for threshold in (0.0,) if origin == "noise" else (manifest.score_threshold, 0.0):
        blank = recorded(_example(task.box_columns), threshold)
        parse_manifest(blank.to_json())  # an invalid field is named before anything runs
        answer = _answer(Archive(path, blank, members), next(iter(entries)), data)
        if finds_something(answer):
            break
    else:
        raise BundleError("the module finds nothing in the golden input at score 0: that would prove nothing")
    manifest = _held(Archive(path, recorded(expected or answer, threshold), members), entries, data)
    members = {name: members[name] for name in manifest.files}
    # What cannot be read back is not written; and a number that is read back may be another (1 is 1.0).
    manifest = parse_manifest(manifest.to_json())
    manifest = replace(manifest, sha256=bundle_sha256(manifest, members))
    write_archive(path, manifest, members)
    return manifest


def program_entry(index: int, program: ProgramSource) -> Program:
    """Return the manifest's entry for a program."""
    return Program(
        program.kind,
        MODULE_FILE
        if index == 0 and program.kind == "torchscript"
        else f"network{index}{SUFFIXES[program.kind]}",
        hashlib.sha256(program.data).hexdigest(),
        program.inputs,
        program.outputs,
        program.precision,
        program.any_batch,
    )


def _held(archive: Archive, entries: Mapping[Program, ProgramSource], data: np.ndarray) -> Manifest:
    """Return the manifest with the programs that give the golden output; BundleError if one must and does
    not.
    """
    manifest, left_out = archive.manifest, {}
    for entry, program in entries.items():
        difference = golden_difference(manifest.golden, _answer(archive, entry, data), entry.precision)
        if difference and not program.optional:
            raise BundleError(f"program {entry.file} ({entry.precision}) differs: {difference}")
        if difference:
            left_out[entry.file] = difference
    kept = tuple(entry for entry in entries if entry.file not in left_out)
    provenance = {**manifest.provenance, **({"left_out": left_out} if left_out else {})}
    return replace(manifest, programs=kept, provenance=provenance)


def _example(columns: int) -> Outputs:
    """Return one box as a placeholder for a golden output that is not known yet."""
    return np.zeros((1, columns), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)


def _answer(archive: Archive, program: Program, data: np.ndarray) -> Outputs:
    """Return the output of a program for the golden input, on the CPU."""
    runtime = open_archive(archive, torch.device("cpu"), False, 1, program)
    return runtime.golden_outputs(data)


def _threshold(scripted: torch.jit.ScriptModule, name: str) -> float:
    """Return the module's own threshold, which becomes the bundle's default."""
    value = getattr(scripted, name, None)
    if not isinstance(value, float):
        raise BundleError(f"module attribute {name}={value!r}: must be a float, the bundle's default")
    return value


def load(path_or_name: str | Path, device: str = "cpu") -> tuple[torch.nn.Module, Manifest]:
    """Load a bundle's TorchScript module as it was saved and check its hash. Use `Runtime` to run a bundle.

    Raises:
        BundleError: the bundle cannot be loaded; the message is one line.
    """
    archive = read_archive(resolve_bundle(path_or_name))
    for program in archive.manifest.programs:
        if program.kind == "torchscript":
            module = load_module(archive.members[program.file], resolve_device(device), str(archive.path))
            if archive.manifest.schema_version == 1 and module_sha256(module) != program.sha256:
                raise BundleError(f"{archive.path}: weights are not those of the manifest")
            return module, archive.manifest
    raise BundleError(f"{archive.path}: holds no TorchScript")


def verify(path_or_name: str | Path, device: str = "cpu") -> Manifest:
    """Verify a bundle's hash and the golden answer of each program that an engine here can run.

    Raises:
        BundleError: a check failed; the message is one line.
    """
    archive = read_archive(resolve_bundle(path_or_name))
    target = resolve_device(device)
    for program in archive.manifest.programs:
        open_archive(archive, target, False, 1, program).check_golden(archive.path)
    return archive.manifest
