"""The blocks of the networks, and folding of their batch normalisation."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Network = TypeVar("Network", bound=nn.Module)


class ConvBnRelu(nn.Sequential):
    """A convolution without bias, its batch normalisation, a ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int | None = None
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class LinearBnRelu(nn.Sequential):
    """A linear map of each row without bias, its batch normalisation, a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)
        )


class CrossStage(nn.Module):
    """Half of the channels pass residual blocks (cross stage partial, arXiv:1911.11929)."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = ConvBnRelu(channels, half, 1)
        self.bypass = ConvBnRelu(channels, half, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(ConvBnRelu(half, half), ConvBnRelu(half, half)) for _ in range(blocks)
        )
        self.leave = ConvBnRelu(2 * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y = self.enter(x)
        for block in self.blocks:
            y = y + block(y)
        return self.leave(torch.cat((y, self.bypass(x)), 1))


def down_stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Return a block that halves the size, followed by `blocks` residual blocks."""
    return nn.Sequential(ConvBnRelu(inputs, outputs, 3, 2), CrossStage(outputs, blocks))


def fused(network: Network) -> Network:
    """Return a copy of the network for inference, with batch normalisation folded into the layers."""
    network = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, (ConvBnRelu, LinearBnRelu)) and not isinstance(module[1], nn.Identity):
            fuse: Any = fuse_conv_bn_eval if isinstance(module, ConvBnRelu) else fuse_linear_bn_eval
            module[0] = fuse(module[0], module[1])
            module[1] = nn.Identity()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network
