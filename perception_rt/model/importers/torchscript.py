"""Import TorchScript files: a network with a named decoder, or a module that returns boxes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.bundle import ProgramSource
from perception_rt.model.decoders.common import Signature
from perception_rt.model.importers.auto import choose_decoder, find_decoder, task_of
from perception_rt.model.importers.common import (
    Imported,
    class_names,
    named_list,
    noise,
    sha256_of,
)
from perception_rt.model.importers.onnx import changed, check_names, make_decoder, only_output
from perception_rt.model.importers.reference import reference_answer
from perception_rt.model.manifest import DecoderSpec
from perception_rt.model.specs import ImageSpec
from perception_rt.model.torchscript import load_module, module_bytes, script_module
from perception_rt.types.errors import BundleError, first_line

MAX_BYTES = 1 << 32
MAX_CONFIG = 1 << 20


class Contract(nn.Module):
    """Adapts a module (list of (3, H, W) float images in [0, 1]) -> boxes, scores, labels to the call of
    bundles.

    The module returns what torchvision's detectors return: a list of dictionaries, or a tuple of losses and
    that list; or boxes, scores and labels of one image as a tuple. Boxes are xyxy in px of the image.

    Args:
        module: scripted.
        form: ``list`` (one dictionary an image), ``losses`` (with losses before) or ``tuple``.
        score_threshold: default lowest score kept.
        nms_threshold: for the manifest; the module does its own NMS.
    """

    def __init__(self, module: nn.Module, score_threshold: float, nms_threshold: float) -> None:
        super().__init__()
        self.module = module
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold

    def answer(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of one (3, H, W) image."""
        raise NotImplementedError

    def forward(
        self, images: Tensor, bgr: bool = False, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect objects; arguments and results are those of `perception_rt.model.bundle.save`."""
        least = self.score_threshold if score_threshold < 0 else score_threshold
        planar = (images.flip(3) if bgr else images).permute(0, 3, 1, 2).contiguous().float().div_(255.0)
        boxes: list[Tensor] = []
        scores: list[Tensor] = []
        labels: list[Tensor] = []
        index: list[Tensor] = []
        for i in range(planar.shape[0]):
            b, s, c = self.answer(planar[i])
            order = s.argsort(descending=True)
            order = order[s[order] >= least]
            boxes.append(b[order].float())
            scores.append(s[order].float())
            labels.append(c[order].long())
            index.append(torch.full_like(labels[i], i))
        return torch.cat(boxes), torch.cat(scores), torch.cat(labels), torch.cat(index)


class LossesContract(Contract):
    """A scripted torchvision detector: a tuple of losses and a list of dictionaries."""

    def answer(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of one (3, H, W) image."""
        _, found = self.module([image])
        return found[0]["boxes"], found[0]["scores"], found[0]["labels"]


class ListContract(Contract):
    """A list of dictionaries for a list of images."""

    def answer(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of one (3, H, W) image."""
        found = self.module([image])
        return found[0]["boxes"], found[0]["scores"], found[0]["labels"]


class TupleContract(Contract):
    """Boxes, scores and labels for (1, 3, H, W)."""

    def answer(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of one (3, H, W) image."""
        boxes, scores, labels = self.module(image.unsqueeze(0))
        return boxes.reshape(-1, 4), scores.flatten(), labels.flatten()


class DictOutput(nn.Module):
    """One output of a module that returns a dictionary, as torchvision's segmentation networks do."""

    def __init__(self, module: nn.Module, key: str) -> None:
        super().__init__()
        self.module = module
        self.key = key

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return the output for (N, 3, h, w)."""
        found: dict[str, Tensor] = self.module(images)
        return (found[self.key],)


class TupleOutput(nn.Module):
    """One output of a module that returns a tuple."""

    __constants__ = ("index",)

    def __init__(self, module: nn.Module, index: int) -> None:
        super().__init__()
        self.module = module
        self.index = index

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return the output for (N, 3, h, w)."""
        return (self.module(images)[self.index],)


def read_torchscript(path: Path) -> tuple[torch.jit.ScriptModule, bytes, Mapping[str, str]]:
    """Return the module, the file's bytes, and Ultralytics' metadata (``config.txt``) if there are any.

    Raises:
        BundleError: there is no file, it is not TorchScript, or weights are NaN.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise BundleError(f"{path}: {path.stat().st_size} bytes: over {MAX_BYTES}")
    data = path.read_bytes()
    module = load_module(data, torch.device("cpu"), str(path))
    with zipfile.ZipFile(path) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith("/extra/config.txt")]
        if not found or found[0].file_size > MAX_CONFIG:
            return module, data, {}
        text = archive.read(found[0])
    try:
        config = json.loads(text)
    except ValueError:
        return module, data, {}
    if not isinstance(config, dict):
        return module, data, {}
    return module, data, {k: v if isinstance(v, str) else json.dumps(v) for k, v in config.items()}


def import_torchscript(
    path: str | Path,
    decoder: str = "auto",
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    contract: bool = False,
    output: str | None = None,
    **changes: Any,
) -> Imported:
    """Import a TorchScript file.

    Args:
        path: a file that `torch.jit.save` wrote.
        decoder: as of `perception_rt.model.importers.onnx.import_onnx`.
        classes: class names; None takes those in files of Ultralytics.
        input_size: (height, width) px; TorchScript files do not contain it, except those of Ultralytics
        contract: the module returns boxes, scores and labels itself (see `Contract`), without a decoder.
        output: the output to use if a network has several heads: its key in a dictionary, or ``output0``,
            ``output1``, ...; None for those that the decoder takes.
        **changes: fields of `Preset` that differ for this network.

    Raises:
        BundleError: the network cannot be used; the message is one line.
    """
    path = Path(path)
    module, data, metadata = read_torchscript(path)
    provenance = {"torchscript": path.name, "torchscript_sha256": sha256_of(path)}
    if contract:
        return _contract(path, module, classes, changes, provenance)
    size = input_size or _size(path, metadata)
    x = torch.from_numpy(noise((1, 3, *size)))
    found = _run(module, x, path)
    own = named_list(json.loads(metadata["names"]), f"{path} names") if "names" in metadata else None
    known = classes if classes is not None else own
    every = Signature(
        ("images",), tuple(found), [*found.values()], size, metadata, None if known is None else len(known)
    )
    name, match = choose_decoder(only_output(every, output), decoder)
    preset = changed(match.preset or find_decoder(name)[1].preset, changes)
    spec = ImageSpec(
        size, preset.resize, preset.filter, preset.order, preset.scale, preset.mean, preset.std, preset.pad
    )
    chosen = [found[output] for output in match.outputs]
    decode = make_decoder(name, match, spec, chosen)
    notes = [f"decoder: {name} ({match.why})"]
    if len(match.outputs) == 1 and (len(found) > 1 or "output0" not in found):
        module = _one_output(module, match.outputs[0])
        data = module_bytes(module)
    elif match.outputs != tuple(found)[: len(match.outputs)]:
        raise BundleError(f"{path}: its outputs are not in the order of decoder {name}")
    program = ProgramSource("torchscript", data, ("images",), match.outputs, "fp32", False)
    task = task_of(name)
    classes = class_names(classes, own, decode.class_count(chosen), notes, task, match.coco)
    check_names(classes, task)

    def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        def run(x: np.ndarray) -> list[np.ndarray]:
            return [output.numpy() for output in _run(module, torch.from_numpy(x), path).values()]

        return reference_answer(
            image, spec, run, decode, threshold, preset.nms_threshold, classes=len(classes)
        )

    return Imported(
        classes=classes,
        input_spec=spec,
        provenance={**provenance, "decoder": name, "why": match.why},
        score_threshold=preset.score_threshold,
        nms_threshold=preset.nms_threshold,
        programs=[program],
        decoder=DecoderSpec(name, match.parameters),
        reference=reference,
        notes=notes,
        task=task,
    )


def _size(path: Path, metadata: Mapping[str, str]) -> tuple[int, int]:
    try:
        height, width = json.loads(metadata.get("imgsz", "null"))
        return int(height), int(width)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: TorchScript does not tell its size: give --input-size H W") from error


@torch.no_grad()
def _run(module: torch.jit.ScriptModule, x: Tensor, path: Path) -> dict[str, Tensor]:
    """Return the outputs by name: the keys of a dictionary, else ``output0`` and so on."""
    try:
        found = module(x)
    except (RuntimeError, torch.jit.Error) as error:
        raise BundleError(
            f"{path}: cannot run an image {tuple(x.shape)}: {_last_line(error)} (a module that answers boxes "
            "itself is exported with --contract)"
        ) from error
    outputs: Any = [found] if isinstance(found, Tensor) else found
    if isinstance(outputs, list | tuple):
        outputs = {f"output{i}": output for i, output in enumerate(outputs)}
    if not isinstance(outputs, dict) or not outputs:
        raise BundleError(f"{path}: answers a {type(found).__name__}: must be tensors; try --contract")
    if not all(isinstance(output, Tensor) for output in outputs.values()):
        raise BundleError(f"{path}: answers more than tensors: try --contract")
    return outputs


def _one_output(module: torch.jit.ScriptModule, name: str) -> torch.jit.ScriptModule:
    """Return the module with a single output."""
    forward: Any = module.forward
    if forward.schema.returns[0].type.kind() == "DictType":
        return script_module(DictOutput(module, name))
    return script_module(TupleOutput(module, int(name.removeprefix("output"))))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]


def _contract(
    path: Path,
    module: torch.jit.ScriptModule,
    classes: Sequence[str] | None,
    changes: Mapping[str, Any],
    provenance: dict[str, Any],
) -> Imported:
    score = changes.get("score_threshold")
    score = 0.5 if score is None else float(score)
    nms = changes.get("nms_threshold")
    nms = 0.5 if nms is None else float(nms)
    other = [key for key, value in changes.items() if value is not None and not key.endswith("threshold")]
    if other:
        raise BundleError(f"{other[0]}={changes[other[0]]!r}: a module of --contract prepares images itself")
    if classes is None:
        raise BundleError(f"{path}: the module does not tell its classes: give --classes FILE")
    form, reasons = None, []
    image = torch.from_numpy((noise((1, 120, 160, 3)) * 255).astype(np.uint8))
    for kind in (LossesContract, ListContract, TupleContract):
        try:
            scripted = script_module(kind(module, score, nms))
            with torch.no_grad():
                scripted(image, False, 0.0, -1.0)
        except (BundleError, RuntimeError, torch.jit.Error) as error:
            reasons.append(first_line(error))
            continue
        form = kind
        break
    if form is None:
        raise BundleError(
            f"{path}: does not answer boxes, scores and labels, neither for a list of (3, H, W) images nor "
            f"for (1, 3, H, W): {reasons[-1]}"
        )
    # The original module is the reference, not the scripted wrapper.
    plain = form(module, score, nms)

    def reference(picture: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        planar = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255
        with torch.no_grad():
            boxes, scores, labels = (tensor.numpy() for tensor in plain.answer(planar))
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        return boxes[order], scores[order], labels[order].astype(np.int64)

    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    notes = [f"contract: {form.__doc__.splitlines()[0] if form.__doc__ else form.__name__}"]
    return Imported(
        tuple(classes), spec, provenance, score, nms, module=plain, reference=reference, notes=notes
    )
