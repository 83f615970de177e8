"""Run a network with its preprocessing, engine, decoder and NMS, on images and on clouds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.archive import Archive
from perception_rt.model.decoder import Candidates
from perception_rt.model.engine import Engine
from perception_rt.model.host_image import ImagePreparer, Placement
from perception_rt.model.manifest import DecoderSpec, Program
from perception_rt.model.oriented import oriented_nms
from perception_rt.model.specs import ImageSpec
from perception_rt.model.torchscript import load_module, load_operators, optimise, reason
from perception_rt.types.errors import BundleError, ModelError

DECODER_ENTRY_POINTS = "perception_rt.decoders"
TOP_K = 1000  # candidates of an image that reach NMS, best first

Images = Tensor | Sequence[Tensor]
Answer = tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]
"""Boxes (K, 4), scores (K,), labels (K,), image_index (K,), and by name what else belongs to each box."""


class ImageNetwork:
    """Runs one program of a bundle on images.

    Args:
        archive: the bundle.
        program: the one that `engine` loaded.
        engine: runs the network.
        device: where decoding and NMS run.

    Attributes:
        together: whether several images share one run of the network.
    """

    def __init__(self, archive: Archive, program: Program, engine: Engine, device: torch.device) -> None:
        load_operators()
        self._manifest, self._program, self._engine = archive.manifest, program, engine
        spec = archive.manifest.input
        assert isinstance(spec, ImageSpec)  # as the task parsed it
        self._prepare = ImagePreparer(spec, program.inputs, device)
        self._decode = make_decoder(archive, device)
        # On a CPU a batch takes as long as single images, and more memory.
        self.together = program.any_batch and device.type != "cpu"

    @torch.inference_mode()
    def __call__(
        self, images: Images, bgr: bool, score_threshold: float, nms_threshold: float, least: np.ndarray
    ) -> Answer:
        """Detect objects in uint8 images on the host.

        Args:
            images: (N, H, W, 3) of one size, or a list of (1, H, W, 3) of any; of one channel order.
            bgr: the channel order.
            score_threshold: lowest score that the decoder must keep.
            nms_threshold: IoU of NMS; negative takes the bundle's.
            least: (C,) lowest score of each class, applied before the best are selected.
        """
        parts = [
            self._select(outputs, place, score_threshold, nms_threshold, least)
            for outputs, place in self._run(images, bgr)
        ]
        index = [torch.full_like(part.labels, i) for i, part in enumerate(parts)]
        if len(parts) == 1:
            return (*parts[0][:3], index[0], parts[0].extras)
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras}
        boxes, scores, labels = (torch.cat(column) for column in list(zip(*parts, strict=True))[:3])
        return boxes, scores, labels, torch.cat(index), extras

    @torch.inference_mode()
    def outputs(self, image: Tensor) -> list[Tensor]:
        """Return what the decoder takes for one input of the network; the next call may overwrite it."""
        return self._engine.run({self._program.inputs[0]: image})

    def _run(self, images: Images, bgr: bool) -> Iterator[tuple[list[Tensor], Placement]]:
        """Yield the outputs for each image and its placement; they are valid until the next image."""
        each = images.split(1) if isinstance(images, Tensor) else images
        if not self.together or len(each) == 1:
            for image in each:
                inputs, place = self._prepare(image, bgr)
                yield self._engine.run(inputs), place
            return
        batch: list[dict[str, Tensor]] = []
        places: list[Placement] = []
        for image in each:
            inputs, place = self._prepare(image, bgr)
            batch.append({name: tensor.clone() for name, tensor in inputs.items()})
            places.append(place)
        outputs = self._engine.run({name: torch.cat([one[name] for one in batch]) for name in batch[0]})
        for i, place in enumerate(places):
            yield [output[i : i + 1] for output in outputs], place

    def _select(
        self,
        outputs: list[Tensor],
        place: Placement,
        score_threshold: float,
        nms_threshold: float,
        least: np.ndarray,
    ) -> Candidates:
        """Return the boxes of one image."""
        manifest = self._manifest
        nms = manifest.nms_threshold if nms_threshold < 0 else nms_threshold
        try:
            found = self._decode(outputs, place.size, score_threshold)
        except Exception as error:  # a decoder may be third-party code
            raise ModelError(f"decoder: {reason(error)}") from error
        found = _checked(found)
        each: float | Tensor = float(least[0])
        if (least != each).any():
            each = torch.from_numpy(least).to(found.scores.device)[found.labels.clamp(0, len(least) - 1)]
        found = best_candidates(found, each, nms, self._decode.needs_nms, manifest.max_detections)
        return place.to_native(found)


def _checked(found: Any) -> Candidates:
    """Return the output of a decoder after checking it.

    Raises:
        ModelError: it is not `Candidates`, or its tensors do not have a row for each box.
    """
    if not isinstance(found, Candidates):
        raise ModelError(f"the decoder returns {type(found).__name__}: must be Candidates")
    count = len(found.scores)
    shapes = [tuple(column.shape) for column in found[:3]]
    if shapes != [(count, 4), (count,), (count,)] or found.labels.dtype != torch.int64:
        raise ModelError(
            f"the decoder returns boxes, scores, labels of {shapes}, labels {found.labels.dtype}: must be "
            "(N, 4), (N,), (N,) and int64"
        )
    for name, value in found.extras.items():
        if len(value) != count:
            raise ModelError(f"the decoder returns {len(value)} {name} for {count} boxes")
    return found


def best_candidates(
    found: Candidates, score_threshold: float | Tensor, nms_threshold: float, suppress: bool, most: int
) -> Candidates:
    """Drop boxes with low scores, then run NMS by class; best score first.

    Args:
        found: of one image.
        score_threshold: lowest score kept, of all or (N,) of each.
        nms_threshold: IoU above which the weaker of two boxes of one class is removed.
        suppress: whether to run NMS.
        most: boxes kept.
    """
    rows = torch.nonzero(found.scores >= score_threshold).squeeze(1)
    if len(rows) > 1:
        rows = rows[found.scores[rows].argsort(descending=True, stable=True)[:TOP_K]]
    if suppress and "theta" in found.extras:
        columns = (found.boxes[rows], found.extras["theta"][rows], found.labels[rows])
        rows = rows[oriented_nms(*columns, nms_threshold)]
    elif suppress and len(rows) > 1:
        boxes, labels = found.boxes[rows].double(), found.labels[rows]
        # Boxes are shifted by class so that classes never overlap; float64 keeps the precision.
        span = boxes.max() - boxes.min() + 1
        apart = torch.addcmul(boxes, labels.double().unsqueeze(1), span)
        rows = rows[torch.ops.torchvision.nms(apart, found.scores[rows].double(), nms_threshold)]
    rows = rows[:most]
    extras = {name: value[rows] for name, value in found.extras.items()}
    return Candidates(found.boxes[rows], found.scores[rows], found.labels[rows], extras)


class CloudNetwork:
    """Runs one program of a bundle on clouds; for the arguments see `ImageNetwork`."""

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
        self, points: Tensor, score_threshold: float, nms_threshold: float, least: np.ndarray
    ) -> Any:
        """Return the boxes for (N, 4) float32 points; the caller applies `least`."""
        nms = self._manifest.nms_threshold if nms_threshold < 0 else nms_threshold
        return self._decode(self.outputs(points), score_threshold, nms)

    @torch.inference_mode()
    def outputs(self, points: Tensor) -> list[Tensor]:
        """Return what the decoder takes; the next call may overwrite it."""
        points = points.to(self._device)
        tensors = [points] if self._encode is None else self._encode(points)
        return self._engine.run(dict(zip(self._program.inputs, tensors, strict=True)))


class ScriptDecoder:
    """A decoder of images that is part of the bundle."""

    needs_nms = True

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._module = module

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """See `perception_rt.model.decoder.Decoder`."""
        found = self._module(outputs, *input_size, score_threshold)
        if not isinstance(found, tuple) or len(found) != 3:
            kind = f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__
            raise ModelError(f"the bundle's decoder returns {kind}: must be boxes, scores, labels")
        return Candidates(*found, {})


def make_decoder(archive: Archive, device: torch.device) -> Any:
    """Return the decoder that the manifest names.

    Raises:
        BundleError: it is unknown, or its parameters are invalid.
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
    """Return the decoders of this package and of others, by name."""
    from perception_rt.model.decoders import DECODERS

    others = {point.name: point.load() for point in entry_points(group=DECODER_ENTRY_POINTS)}
    return {**others, **DECODERS}


def _scripted(archive: Archive, name: str, device: torch.device) -> torch.jit.ScriptModule:
    what = f"{archive.path}: {name}"
    return optimise(load_module(archive.members[name], device, what), device)
