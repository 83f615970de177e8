"""Import ONNX detectors, classifiers and segmenters of any training tool."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_rt.model.bundle import ProgramSource
from perception_rt.model.decoders.common import Match, Preset, Signature
from perception_rt.model.importers.auto import choose_decoder, find_decoder, task_of
from perception_rt.model.importers.common import Imported, class_names, sha256_of
from perception_rt.model.importers.onnx_batch import Run, session, single_images
from perception_rt.model.importers.onnx_file import OnnxNetwork, open_size, read_onnx
from perception_rt.model.importers.onnx_torch import torchscript_program
from perception_rt.model.importers.reference import reference_answer
from perception_rt.model.manifest import DecoderSpec
from perception_rt.model.specs import ImageSpec
from perception_rt.model.task import SEGMENT
from perception_rt.types.errors import BundleError
from perception_rt.types.segmentation import UNLABELLED

UNKNOWN_TASKS = {"depth"}
# The bias of a score of each class, for every anchor of a cell.
_TORCHVISION_HEAD = re.compile(r"(cls_score|classification_head\.(cls_logits|module_list\.\d+(\.1)?))\.bias$")


def import_onnx(
    path: str | Path,
    decoder: str = "auto",
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    output: str | None = None,
    **changes: Any,
) -> Imported:
    """Import an ONNX file.

    Args:
        path: the file: one image input, and ``orig_target_sizes``, ``im_shape`` or ``scale_factor``.
        decoder: one of `perception_rt.model.decoders.DECODERS`, or ``auto``; it also defines the
            preprocessing.
        classes: class names; None takes those of the file, or COCO's with a note if there are 80 or 91
            classes.
        input_size: (height, width) if the file has dynamic sizes.
        output: the output to use if a network has several heads; None for those that the decoder takes.
        **changes: fields of `Preset` that differ for this network.

    Raises:
        BundleError: a file, decoder or class list does not fit.
    """
    path = Path(path)
    if decoder != "auto":
        find_decoder(decoder)
    network = read_onnx(path, input_size)
    _check_task(network)
    is_open = input_size is None and network.size_is_open
    network, run, any_batch, notes = single_images(network)
    own = network.names()
    known = classes if classes is not None else own
    answer = [np.ascontiguousarray(array) for array in run(network.example())]
    signature = Signature(
        inputs=(network.image, *network.second),
        names=network.outputs,
        outputs=[torch.from_numpy(array) for array in answer],
        input_size=network.size,
        metadata=network.metadata,
        classes=None if known is None else len(known),
    )
    signature = only_output(signature, output)
    name, match = choose_decoder(signature, decoder)
    preset = match.preset or find_decoder(name)[1].preset
    if is_open and preset.resize == "letterbox" and "task" in network.metadata:
        # Like the tool's own predict, pad the picture to a multiple of the stride, not to a square.
        preset = replace(preset, resize=f"letterbox_{64 if network.metadata.get('stride') == '64' else 32}")
    preset = changed(preset, changes)
    spec = image_spec(network, preset)
    if spec.step is not None:
        if not network.size_is_open:
            raise BundleError(f"resize={preset.resize!r}: {path} takes images of {network.size} only")
        network = open_size(network)
        run = session(network)
    decode = make_decoder(name, match, spec, [signature.of(output) for output in match.outputs])
    count = decode.class_count([signature.of(output) for output in match.outputs])
    task = task_of(name)
    names = class_names(classes, own, count, notes, task, match.coco)
    if count is None and match.coco == 91:
        _check_head(network, names)
    check_names(names, task)
    notes.insert(0, f"decoder: {name} ({match.why})")
    if is_open and spec.step is None:
        notes.append(f"size: the file leaves it open; {network.size[0]} x {network.size[1]} is taken")
    elif is_open:
        notes.append(
            f"size: follows the picture's aspect within {network.size[0]} x {network.size[1]}, as the tool's "
            "own predict; --input-size H W fixes it"
        )
    programs, more = _programs(network, match, answer, any_batch, spec.step is not None)
    chosen = _only(run, network, match)

    def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        return reference_answer(
            image, spec, chosen, decode, threshold, preset.nms_threshold, classes=len(names)
        )

    return Imported(
        classes=names,
        input_spec=spec,
        provenance={"onnx": path.name, "onnx_sha256": sha256_of(path), "decoder": name, "why": match.why},
        score_threshold=preset.score_threshold,
        nms_threshold=preset.nms_threshold,
        programs=programs,
        decoder=DecoderSpec(name, match.parameters),
        reference=reference,
        notes=[*notes, *more],
        task=task,
    )


def _check_task(network: OnnxNetwork) -> None:
    task = network.metadata.get("task")
    if task in UNKNOWN_TASKS:
        raise BundleError(
            f"{network.path}: its metadata says task={task}: not a detector, classifier or segmenter"
        )


def changed(preset: Preset, changes: dict[str, Any]) -> Preset:
    """Return the preset with the user's changes.

    Raises:
        BundleError: `Preset` has no such field, or the type is wrong.
    """
    known = {field.name for field in fields(Preset)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise BundleError(f"{unknown[0]}={changes[unknown[0]]!r}: not one of {', '.join(sorted(known))}")
    given = {key: value for key, value in changes.items() if value is not None}
    for key in ("mean", "std"):
        if key in given:
            given[key] = tuple(float(value) for value in given[key])
    return replace(preset, **given)


def only_output(signature: Signature, name: str | None) -> Signature:
    """Return the signature with a single output; unchanged for None.

    Raises:
        BundleError: there is no such output.
    """
    if name is None:
        return signature
    if name not in signature.names:
        raise BundleError(f"output={name!r}: must be one of {', '.join(signature.names)}")
    return replace(signature, names=(name,), outputs=[signature.of(name)])


def _check_head(network: OnnxNetwork, names: Sequence[str]) -> None:
    """Check the number of names by the weights of a torchvision detector, whose outputs do not tell it.

    Raises:
        BundleError: a head scores another number of classes.
    """
    for tensor in network.model.graph.initializer:
        values = int(np.prod(tensor.dims))
        if _TORCHVISION_HEAD.search(tensor.name) and values % len(names):
            raise BundleError(
                f"classes: {len(names)} names, but {tensor.name} of {network.path} has {values} values: give "
                "--classes FILE, the background first"
            )


def check_names(names: Sequence[str], task: str) -> None:
    """Check the number of classes.

    Raises:
        BundleError: there are more than 255 of task `segment`.
    """
    if task == SEGMENT.name and len(names) > UNLABELLED:
        raise BundleError(f"classes: {len(names)} names: an image of labels tells {UNLABELLED} at most")


def image_spec(network: OnnxNetwork, preset: Preset) -> ImageSpec:
    """Return the preprocessing of pictures for a network."""
    return ImageSpec(
        size=network.size,
        resize=preset.resize,
        filter=preset.filter,
        order=preset.order,
        scale=preset.scale,
        mean=preset.mean,
        std=preset.std,
        pad=preset.pad,
        dtype=network.dtype,
        layout=network.layout,
    )


def make_decoder(name: str, match: Match, spec: ImageSpec, outputs: list[torch.Tensor]) -> Any:
    """Return the decoder after a trial on `outputs`.

    Raises:
        BundleError: it does not fit.
    """
    kind = find_decoder(name)[1]
    try:
        decode = kind(spec, **match.parameters)
        decode(outputs, spec.size or (1, 1), 1.0)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        shapes = [tuple(output.shape) for output in outputs]
        raise BundleError(f"decoder={name!r}: does not fit the outputs {shapes}: {error}") from error
    return decode


def _only(run: Run, network: OnnxNetwork, match: Match) -> Run:
    """Return `run` with only the outputs that the decoder takes."""
    wanted = [network.outputs.index(output) for output in match.outputs]

    def chosen(x: np.ndarray) -> list[np.ndarray]:
        every = run(x)
        return [every[i] for i in wanted]

    return chosen


def _programs(
    network: OnnxNetwork, match: Match, answer: list[np.ndarray], any_batch: bool, any_size: bool
) -> tuple[list[ProgramSource], list[str]]:
    """Return the ONNX program, and TorchScript if its outputs agree."""
    precision = _precision(network)
    data = network.model.SerializeToString()
    source = ProgramSource("onnx", data, (network.image,), match.outputs, precision, any_batch)
    expected = [answer[network.outputs.index(output)] for output in match.outputs]
    if precision != "fp32":
        return [source], [f"runs as ONNX: its weights are {precision}"]
    if any_size:
        return [source], ["runs as ONNX: a trace would be of one size"]
    scripted, why = torchscript_program(network, match.outputs, expected, any_batch)
    if scripted is None:
        return [source], [f"runs as ONNX: {why}"]
    return [source, scripted], ["runs as ONNX and as TorchScript"]


def _precision(network: OnnxNetwork) -> str:
    kinds = {node.op_type for node in network.model.graph.node}
    if kinds & {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "MatMulInteger", "ConvInteger"}:
        return "int8"
    large = [tensor for tensor in network.model.graph.initializer if np.prod(tensor.dims) > 16]
    half = sum(tensor.data_type == 10 for tensor in large)
    return "fp16" if half * 2 > len(large) or network.dtype == "float16" else "fp32"
