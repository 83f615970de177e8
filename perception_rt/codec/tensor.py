"""Frames to tensors without copying."""

from __future__ import annotations

import numpy as np
import torch


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A frame's pixels or points as a tensor that shares their memory, padded rows included.

    A frame is mostly a view into an immutable message, and torch knows no read-only tensors: never write into
    this one. Only rows or columns in reverse order, which torch cannot address, are copied.
    """
    if min(array.strides) < 0:
        array = array.copy()
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writable(array)))


class _Writable:
    """The same memory without the read-only mark, of which torch would warn; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._array = array
