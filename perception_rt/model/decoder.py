"""The interface of decoders, which map a network's raw outputs for one image to candidate boxes."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from perception_rt.model.specs import ImageSpec


class Candidates(NamedTuple):
    """The boxes of one image, before or without NMS.

    Attributes:
        boxes: (N, 4) float32 xyxy in px of the network's input.
        scores: (N,) float32.
        labels: (N,) int64.
        extras: by name, more values of each box, N rows (``keypoints`` (N, K, 3) in px of the network's
            input, ``theta`` (N,) rad).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    extras: dict[str, Tensor]


class Decoder(Protocol):
    """A decoder, constructed as ``Decoder(spec, **parameters)``; raises ValueError for an invalid parameter.

    Registered by name in `perception_rt.model.decoders.DECODERS`, or by another package under the entry point
    group ``perception_rt.decoders``.

    Attributes:
        needs_nms: whether overlapping boxes of one class must be suppressed afterwards.
    """

    needs_nms: bool

    def __init__(self, spec: ImageSpec, **parameters: Any) -> None: ...

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode the outputs of one image.

        Args:
            outputs: in the order of the manifest, each with a leading batch dimension of 1.
            input_size: (height, width) of the network's input, px.
            score_threshold: candidates below it may be left out.

        Raises:
            ValueError, IndexError, RuntimeError: the outputs do not have this decoder's layout.
        """
        ...
