"""A network with what surrounds it: preprocessing, an engine, a decoder, NMS; for pictures and for clouds."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor

from perception_rt.model.archive import Archive
from perception_rt.model.decoder import Candidates
from perception_rt.model.engine import Engine
from perception_rt.model.host_image import ImagePreparer
from perception_rt.model.manifest import DecoderSpec, Program
from perception_rt.model.oriented import oriented_nms
from perception_rt.model.specs import ImageSpec
from perception_rt.model.torchscript import load_module, load_operators, optimise
from perception_rt.types.errors import BundleError

DECODER_ENTRY_POINTS = "perception_rt.decoders"
TOP_K = 1000  # candidates of an image that reach NMS, best first

Answer = tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]
"""Boxes (K, 4), scores (K,), labels (K,), image_index (K,), and by name what else belongs to each box."""


class ImageNetwork:
    """Runs one program of a bundle on images.

    Args:
        archive: the bundle.
        program: the one that `engine` loaded.
        engine: runs the network.
        device: where decoding and NMS run.
    """

    def __init__(self, archive: Archive, program: Program, engine: Engine, device: torch.device) -> None:
        load_operators()
        self._manifest, self._program, self._engine = archive.manifest, program, engine
        spec = archive.manifest.input
        assert isinstance(spec, ImageSpec)  # as the task parsed it
        self._prepare = ImagePreparer(spec, program.inputs, device)
        self._decode = make_decoder(archive, device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, bgr: bool, score_threshold: float, nms_threshold: float) -> Answer:
        """Detect in (N, H, W, 3) uint8 images on the host, one after the other."""
        parts = [
            self._one(images[i : i + 1], bgr, score_threshold, nms_threshold) for i in range(len(images))
        ]
        index = [torch.full_like(part.labels, i) for i, part in enumerate(parts)]
        if len(parts) == 1:
            return (*parts[0][:3], index[0], parts[0].extras)
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras}
        boxes, scores, labels = (torch.cat(column) for column in list(zip(*parts, strict=True))[:3])
        return boxes, scores, labels, torch.cat(index), extras

    def _one(self, image: Tensor, bgr: bool, score_threshold: float, nms_threshold: float) -> Candidates:
        manifest = self._manifest
        inputs, place = self._prepare(image, bgr)
        score = manifest.score_threshold if score_threshold < 0 else score_threshold
        nms = manifest.nms_threshold if nms_threshold < 0 else nms_threshold
        found = self._decode(self._engine.run(inputs), place.size, score)
        found = best_candidates(found, score, nms, self._decode.needs_nms, manifest.max_detections)
        return place.to_native(found)


def best_candidates(
    found: Candidates, score_threshold: float, nms_threshold: float, suppress: bool, most: int
) -> Candidates:
    """Drop weak candidates, then those that a better one of their class covers; best score first.

    Args:
        found: of one image.
        score_threshold: lowest score kept.
        nms_threshold: IoU above which the weaker of two boxes of one class goes.
        suppress: whether to run NMS.
        most: boxes kept.
    """
    rows = torch.nonzero(found.scores >= score_threshold).squeeze(1)
    order = found.scores[rows].argsort(descending=True, stable=True)[:TOP_K]
    rows = rows[order]
    if suppress and "theta" in found.extras:
        columns = (found.boxes[rows], found.extras["theta"][rows], found.labels[rows])
        rows = rows[oriented_nms(*columns, nms_threshold)]
    elif suppress and len(rows) > 1:
        boxes, labels = found.boxes[rows].double(), found.labels[rows]
        # Classes are moved apart so that they never overlap; float64 keeps the last digits.
        span = boxes.max() - boxes.min() + 1
        apart = boxes + (labels.double() * span).unsqueeze(1)
        rows = rows[torch.ops.torchvision.nms(apart, found.scores[rows].double(), nms_threshold)]
    rows = rows[:most]
    extras = {name: value[rows] for name, value in found.extras.items()}
    return Candidates(found.boxes[rows], found.scores[rows], found.labels[rows], extras)


class CloudNetwork:
    """Runs one program of a bundle on clouds; arguments as of `ImageNetwork`."""

    def __init__(self, archive: Archive, program: Program, engine: Engine, device: torch.device) -> None:
        load_operators()
        self._manifest, self._program, self._engine = archive.manifest, program, engine
        self._device = device
        name = getattr(archive.manifest.input, "encoder", None)
        self._encode = None if name is None else _scripted(archive, name, device)
        decoder = archive.manifest.decoder
        assert decoder is not None  # without one the programs answer boxes themselves
        self._decode = _scripted(archive, decoder.parameters["file"], device)

    @torch.inference_mode()
    def __call__(
        self, points: Tensor, score_threshold: float, nms_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in (N, 4) float32 points on the host."""
        points = points.to(self._device)
        tensors = [points] if self._encode is None else self._encode(points)
        outputs = self._engine.run(dict(zip(self._program.inputs, tensors, strict=True)))
        manifest = self._manifest
        score = manifest.score_threshold if score_threshold < 0 else score_threshold
        nms = manifest.nms_threshold if nms_threshold < 0 else nms_threshold
        return self._decode(outputs, score, nms)


class ScriptDecoder:
    """A decoder of images that the bundle itself brings."""

    needs_nms = True

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._module = module

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """As `perception_rt.model.decoder.Decoder`."""
        boxes, scores, labels = self._module(outputs, *input_size, score_threshold)
        return Candidates(boxes, scores, labels, {})


def make_decoder(archive: Archive, device: torch.device) -> Any:
    """The decoder that the manifest names.

    Raises:
        BundleError: it is not known here, or refuses its parameters.
    """
    manifest = archive.manifest
    spec = manifest.decoder or DecoderSpec("")
    if spec.name == "script":
        return ScriptDecoder(_scripted(archive, spec.parameters["file"], device))
    kinds = known_decoders()
    if spec.name not in kinds:
        raise BundleError(f"{archive.path}: decoder={spec.name!r}: must be one of {', '.join(sorted(kinds))}")
    kind = kinds[spec.name]
    try:
        return kind(manifest.input, **spec.parameters)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{archive.path}: decoder {spec.name}: {error}") from error


def known_decoders() -> Mapping[str, type[Any]]:
    """The decoders of this package and of others, by name."""
    from perception_rt.model.decoders import DECODERS

    others = {point.name: point.load() for point in entry_points(group=DECODER_ENTRY_POINTS)}
    return {**others, **DECODERS}


def _scripted(archive: Archive, name: str, device: torch.device) -> torch.jit.ScriptModule:
    what = f"{archive.path}: {name}"
    return optimise(load_module(archive.members[name], device, what), device)
