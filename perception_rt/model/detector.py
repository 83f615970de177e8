"""The scripted detector: preprocessing, network, decoding and NMS in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception_rt.model.preprocess import Preprocess


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    score_threshold: float,
    nms_threshold: float,
    suppress: bool,
    top_k: int,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep the best boxes of each image; one class-aware NMS for the whole batch.

    Args:
        boxes: (N, A, 4) float32 xyxy.
        scores: (N, A) float32.
        labels: (N, A) int64.
        score_threshold: lowest score kept.
        nms_threshold: IoU above which the weaker of two boxes of one class goes.
        suppress: whether to run NMS at all.
        top_k: candidates of an image that reach NMS, best first.
        max_detections: of an image, best first.

    Returns:
        boxes (K, 4), scores (K,), labels (K,), image_index (K,); by image, best score first.
    """
    scores, order = scores.topk(min(top_k, scores.shape[1]), dim=1)
    image, rank = torch.nonzero(scores >= score_threshold).unbind(1)
    order, scores = order[image, rank], scores[image, rank]
    boxes, labels = boxes[image, order], labels[image, order]
    if suppress and boxes.shape[0] > 0:
        # Boxes of other images or classes are moved apart so that they never overlap; in float64, as the
        # distances would cost float32 its last digits, and then a batch would differ from its images alone.
        group = image * (labels.max() + 1) + labels
        span = boxes.max() - boxes.min() + 1
        apart = boxes.double() + (group * span.double()).unsqueeze(1)
        kept = torch.ops.torchvision.nms(apart, scores.double(), nms_threshold)
        kept = kept.sort()[0]  # rows are by image and score already
        boxes, scores, labels, image = boxes[kept], scores[kept], labels[kept], image[kept]
    position = torch.arange(image.shape[0], device=image.device)
    first = torch.searchsorted(image, image)  # row at which each row's image begins
    kept = torch.nonzero(position - first < max_detections).squeeze(1)
    return boxes[kept], scores[kept], labels[kept], image[kept]


class BundleDetector(nn.Module):
    """A detector as a bundle holds it: native uint8 images in, boxes in native pixels out.

    Args:
        preprocess: images to the network's input, and boxes back.
        network: (N, 3, h, w) float32 -> list of raw outputs.
        decoder: raw outputs -> candidates (see `perception_rt.model.decoders`).
        score_threshold: default lowest score kept.
        nms_threshold: default IoU of NMS.
        top_k: candidates of an image that reach NMS.
        max_detections: of an image.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        network: nn.Module,
        decoder: nn.Module,
        score_threshold: float = 0.3,
        nms_threshold: float = 0.45,
        top_k: int = 1000,
        max_detections: int = 300,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.decoder = decoder
        self.score_threshold = float(score_threshold)
        self.nms_threshold = float(nms_threshold)
        self.suppress = bool(decoder.suppress)
        self.top_k = top_k
        self.max_detections = max_detections

    def forward(
        self, images: Tensor, bgr: bool = False, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect objects.

        Args:
            images: (N, H, W, 3) uint8.
            bgr: channel order of `images`.
            score_threshold: lowest score kept; negative takes the default.
            nms_threshold: IoU of NMS; negative takes the default.

        Returns:
            boxes (K, 4) float32 xyxy in px of `images`, scores (K,), labels (K,), image_index (K,) int64.
        """
        raw: list[Tensor] = self.network(self.preprocess(images, bgr))
        boxes, scores, labels = self.decoder(raw)
        boxes, scores, labels, image_index = select_detections(
            boxes,
            scores,
            labels,
            self.score_threshold if score_threshold < 0 else score_threshold,
            self.nms_threshold if nms_threshold < 0 else nms_threshold,
            self.suppress,
            self.top_k,
            self.max_detections,
        )
        boxes = self.preprocess.to_native(boxes, images.shape[1], images.shape[2])
        return boxes, scores, labels, image_index
