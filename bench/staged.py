"""Images to raw outputs on a GPU without waiting: staging buffers, one stream, one graph, one event.

On a CPU the same steps run one after the other, so that they can be tested there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.device_image import DevicePreparer
from perception_rt.model.host_image import Placement, place
from perception_rt.model.specs import ImageSpec

RING = 3  # staging buffers: one is filled while another is copied from and a third waits for its reader
WARM_CALLS = 3  # before a graph is captured: libraries choose their kernels in the first ones


class StagedNetwork:
    """Preprocessing and network for images of one size.

    Args:
        spec: how images reach the network.
        network: (N, 3, h, w) -> a tensor, a tuple or a list of tensors.
        native: (height, width) of the images, px.
        device: CUDA, or a CPU.
        half: run the network in fp16 (CUDA only).
        graph: capture one CUDA graph of preprocessing and network (CUDA only).
        batch: images of a call.
    """

    def __init__(
        self,
        spec: ImageSpec,
        network: Callable[[Tensor], Tensor | Sequence[Tensor]],
        native: tuple[int, int],
        device: torch.device,
        half: bool = False,
        graph: bool = True,
        batch: int = 1,
    ) -> None:
        self.where: Placement = place(spec, native)
        self._prepare, self._network = DevicePreparer(spec, device), network
        self._cuda, self._half = device.type == "cuda", half
        shape = (batch, *native, 3)
        self._ring = [torch.empty(shape, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(RING)]
        self._input = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._turn = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: list[Tensor] = []
        if self._cuda:
            self._stream = torch.cuda.Stream(device)
            self._copied = [torch.cuda.Event() for _ in range(RING)]
            self._done = torch.cuda.Event()
            if graph:
                self._capture()

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> list[Tensor]:
        """Run (N, H, W, 3) uint8 RGB images; the outputs lie on the device until the next call."""
        slot, self._turn = self._turn, (self._turn + 1) % RING
        staged = self._ring[slot]
        if not self._cuda:
            staged.numpy()[:] = images
            self._input.copy_(staged)
            return self._forward()
        self._copied[slot].synchronize()  # until the copy from this buffer three calls ago is over
        staged.numpy()[:] = images
        with torch.cuda.stream(self._stream):
            self._input.copy_(staged, non_blocking=True)
            self._copied[slot].record(self._stream)
            if self._graph is None:
                self._outputs = self._forward()
            else:
                self._graph.replay()
            self._done.record(self._stream)
        self._done.synchronize()
        return self._outputs

    def _forward(self) -> list[Tensor]:
        data = self._prepare(self._input, False, self.where)
        data = data.contiguous(memory_format=torch.channels_last)
        outputs = self._network(data.half() if self._half and data.is_floating_point() else data)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    @torch.inference_mode()
    def _capture(self) -> None:
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_CALLS):
                self._forward()
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._outputs = self._forward()
