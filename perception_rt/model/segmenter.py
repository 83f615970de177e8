"""Run a bundle of task `segment`: the class of every pixel, and boxes if the network detects objects."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.archive import Archive
from perception_rt.model.decoder import Candidates
from perception_rt.model.engine import Choice, Engine
from perception_rt.model.golden import Outputs
from perception_rt.model.host_image import Placement
from perception_rt.model.manifest import Program
from perception_rt.model.network import Answer, ImageNetwork, Images
from perception_rt.model.runtime import ImageRuntime
from perception_rt.model.torchscript import reason
from perception_rt.types.errors import BundleError, ModelError
from perception_rt.types.segmentation import UNLABELLED


class SegmentDecoder(Protocol):
    """The additional interface of decoders of task `segment`; see `perception_rt.model.decoder.Decoder`.

    Attributes:
        has_boxes: whether it detects objects; otherwise there are no candidates.
    """

    has_boxes: bool

    def label_map(
        self, outputs: list[Tensor], found: Candidates, place: Placement, least: np.ndarray
    ) -> Tensor:
        """Return the label of every pixel of the image.

        Args:
            outputs: of the network for one image.
            found: the detected objects, best score first, boxes in px of the image.
            place: where the image lies in the network's input.
            least: (C,) lowest score of each class; infinity for an unwanted class.

        Returns:
            (H, W) uint8, `UNLABELLED` where no class reaches its lowest score.
        """
        ...


class SegmentNetwork(ImageNetwork):
    """An `ImageNetwork` that also returns pixel labels.

    Attributes:
        maps: of the images of the last call, (H, W) uint8 each.
    """

    def __init__(self, archive: Archive, program: Program, engine: Engine, device: torch.device) -> None:
        super().__init__(archive, program, engine, device)
        if not hasattr(self._decode, "label_map"):
            raise BundleError(
                f"{archive.path}: decoder={archive.manifest.decoder}: answers no label of pixels"
            )
        if len(archive.manifest.classes) > UNLABELLED:
            raise BundleError(
                f"{archive.path}: {len(archive.manifest.classes)} classes: an image of labels tells "
                f"{UNLABELLED} at most"
            )
        self.maps: list[Tensor] = []

    @property
    def has_boxes(self) -> bool:
        """Whether the network detects objects, too."""
        return self._decode.has_boxes

    def __call__(
        self, images: Images, bgr: bool, score_threshold: float, nms_threshold: float, least: np.ndarray
    ) -> Answer:
        """See `ImageNetwork`."""
        self.maps = []
        return super().__call__(images, bgr, score_threshold, nms_threshold, least)

    def _select(
        self,
        outputs: list[Tensor],
        place: Placement,
        score_threshold: float,
        nms_threshold: float,
        least: np.ndarray,
    ) -> Candidates:
        found = super()._select(outputs, place, score_threshold, nms_threshold, least)
        try:
            labels = self._decode.label_map(outputs, found, place, least)
        except Exception as error:  # a decoder may be third-party code
            raise ModelError(f"decoder: {reason(error)}") from error
        if labels.shape != place.native or labels.dtype != torch.uint8:
            given = f"{tuple(labels.shape)} {labels.dtype}"
            raise ModelError(f"the decoder returns labels {given}: must be {place.native} uint8")
        self.maps.append(labels)
        return found._replace(extras={})


class SegmenterRuntime(ImageRuntime):
    """Runs a bundle of task `segment`.

    Attributes:
        has_boxes: whether it detects objects, too.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.has_boxes = self._detect.has_boxes

    def _load(self, archive: Archive, choice: Choice) -> Any:
        if archive.manifest.decoder is None:
            raise BundleError(f"{archive.path}: decoder=None: a segmenter needs one")
        return super()._load(archive, choice)

    def _network(self, archive: Archive, choice: Choice, engine: Engine) -> SegmentNetwork:
        return SegmentNetwork(archive, choice.program, engine, self.device)

    def _run(self, data: Images, bgr: tuple[bool, ...], score: float | None, nms: float | None) -> Outputs:
        answer = super()._run(data, bgr, score, nms)
        return (*answer, torch.stack(self._detect.maps).cpu().numpy())

    def __call__(
        self,
        images: Tensor | np.ndarray,
        bgr: bool = False,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ) -> Outputs:
        """Label every pixel of a batch of equally sized images.

        Args:
            images, bgr, score_threshold, nms_threshold: see `ImageRuntime`; the threshold applies to objects,
                or to pixels if the network detects no objects.

        Returns:
            boxes (K, 4), scores (K,), labels (K,), image_index (K,) as for `ImageRuntime`, with K = 0 if the
            network detects no objects; then (N, H, W) uint8, the label of every pixel or `UNLABELLED`.

        Raises:
            ModelError: as for `ImageRuntime`.
        """
        answer = super().__call__(images, bgr, score_threshold, nms_threshold)
        if len(answer) == 4:  # no image
            return (*answer, np.zeros((0, *images.shape[1:3]), np.uint8))
        return answer
