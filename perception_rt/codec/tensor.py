"""Frames to tensors without copying."""

from __future__ import annotations

import numpy as np
import torch

from perception_rt.types import CameraFrame


def as_tensor(frame: CameraFrame) -> torch.Tensor:
    """A frame's pixels as (H, W, 3) uint8, sharing memory with the frame, padded rows included.

    A frame is mostly a view into an immutable message, and torch knows no read-only tensors: never write into
    this one. Only rows or columns in reverse order, which torch cannot address, are copied.
    """
    pixels = frame.pixels
    if min(pixels.strides) < 0:
        pixels = pixels.copy()
    return torch.from_numpy(pixels if pixels.flags.writeable else np.asarray(_Writable(pixels)))


class _Writable:
    """The same memory without the read-only mark, of which torch would warn; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._array = array
