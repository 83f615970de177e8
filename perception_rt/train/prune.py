"""Structured pruning: remove whole channels of a network, with all that reads and writes them."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from perception_rt.train.blocks import Network
from perception_rt.types import ConfigError
from perception_rt.types.errors import first_line

BLOCK = 8  # channels that processors compute at once: layers of twice as many keep a multiple of it
LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
ALIKE_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.SiLU,
    nn.Identity,
    nn.Dropout,
    nn.MaxPool2d,
    nn.AvgPool2d,
)
ALIKE_FUNCTIONS: set[Any] = {operator.add, operator.mul, torch.add, torch.mul, F.relu, F.interpolate}


class LayerChannels(NamedTuple):
    """The rows (axis 0) or columns (axis 1) of a layer's weight that belong to a group, from `first` on."""

    layer: str
    axis: int
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that can be removed together only, as layers that are added up have the same ones."""

    channels: int
    members: tuple[LayerChannels, ...]


class _Channels:
    """Channels of a tensor, while the graph is followed; `join` makes two of them one."""

    def __init__(self, count: int) -> None:
        self.count, self.members, self.fixed = count, list[LayerChannels](), False
        self._whole: _Channels | None = None

    def whole(self) -> _Channels:
        return self if self._whole is None else self._whole.whole()

    def join(self, other: _Channels) -> None:
        one, other = self.whole(), other.whole()
        if one is not other:
            one.members += other.members
            one.fixed |= other.fixed
            other._whole = one


Parts = list[_Channels] | None  # of a tensor, concatenated; None where they are not known
NO_TENSOR: list[_Channels] = []  # a shape or a number


def channel_groups(network: nn.Module) -> list[ChannelGroup]:
    """Follow the channels through `predict` or, if there is none, `forward` (DepGraph, arXiv:2301.12900).

    The channels of inputs and outputs stay, as do those that pass an operation that is not known.

    Raises:
        ConfigError: `torch.fx` cannot trace the network.
    """
    tracer = fx.Tracer()
    tracer.traced_func_name = "predict" if hasattr(network, "predict") else "forward"
    try:
        graph = tracer.trace(network)
    except Exception as error:  # whatever the network does with a proxy
        why = first_line(error)
        raise ConfigError(f"{type(network).__name__}: its channels cannot be followed: {why}") from error
    every: list[_Channels] = []
    found: dict[fx.Node, Parts] = {}
    called: dict[Any, list[Parts]] = {}
    for node in graph.nodes:
        given = [found[one] for one in node.all_input_nodes]
        read = [parts for parts in given if parts is not NO_TENSOR]
        layer: Any = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.target in (getattr, "size") or (given and not read):
            found[node] = NO_TENSOR
        elif type(layer) in LAYERS and layer.weight is not None and node.target not in called:
            found[node] = _through_layer(str(node.target), layer, read[0], every)
            called[node.target] = [read[0], found[node]]
        elif node.target is torch.cat and (node.args[1:] == (1,) or node.kwargs.get("dim") == 1):
            parts = [found[one] for one in node.args[0]]
            found[node] = None if None in parts else [one for part in parts for one in part or ()]
            if None in parts:
                _fix(parts)
        elif isinstance(layer, ALIKE_MODULES) or node.target in ALIKE_FUNCTIONS:
            found[node] = _joined(read)
        else:
            _fix([*read, *called.get(node.target, ())])
            found[node] = None
    whole = [one for one in every if one.whole() is one and not one.fixed]
    return [ChannelGroup(one.count, tuple(one.members)) for one in whole]


def _through_layer(name: str, layer: Any, read: Parts, every: list[_Channels]) -> Parts:
    """Note the channels that a layer reads and writes; return the latter."""
    (rows, *columns), split = layer.weight.shape, getattr(layer, "groups", 1)
    each = isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) or split == rows > 1
    axis, size = (0, rows) if each else (1, columns[0])
    if read is not None and (sum(one.count for one in read) != size or split not in (1, rows)):
        _fix([read])
        read = None
    first = 0
    for one in read or ():
        one.whole().members.append(LayerChannels(name, axis, first))
        first += one.count
    if each:
        return read
    written = _Channels(rows)
    written.members.append(LayerChannels(name, 0, 0))
    written.fixed = split > 1
    every.append(written)
    return [written]


def _joined(read: Sequence[Parts]) -> Parts:
    """Channels of an operation on each element: those of all its tensors, which become the same."""
    first = read[0]
    for other in read:
        if first is None or other is None or [o.count for o in first] != [o.count for o in other]:
            _fix(read)
            return None
        for one, same in zip(first, other, strict=True):
            one.join(same)
    return first


def _fix(read: Iterable[Parts]) -> None:
    for parts in read:
        for one in parts or ():
            one.whole().fixed = True


def keep_channels(network: nn.Module, kept: Iterable[tuple[ChannelGroup, Tensor]]) -> None:
    """Remove all channels of some groups but (K,) int64 chosen ones each, in place."""
    masks: dict[tuple[str, int], Tensor] = {}
    for group, chosen in kept:
        for name, axis, first in group.members:
            layer: Any = network.get_submodule(name)
            mask = masks.setdefault((name, axis), torch.ones(layer.weight.shape[axis], dtype=torch.bool))
            mask[first : first + group.channels] = False
            mask[first + chosen] = True
    for (name, axis), mask in masks.items():
        layer = network.get_submodule(name)
        index, count = mask.nonzero().squeeze(1), int(mask.sum())
        tensors = ("weight", "bias", "running_mean", "running_var") if axis == 0 else ("weight",)
        for key in tensors:
            old = getattr(layer, key, None)
            if old is not None:
                new = old.detach().index_select(axis, index)
                setattr(
                    layer, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                )
        sides = {nn.Conv2d: ("out_channels", "in_channels"), nn.Linear: ("out_features", "in_features")}
        setattr(layer, sides.get(type(layer), ("num_features",))[axis], count)
        if getattr(layer, "groups", 1) > 1:
            layer.groups = layer.in_channels = count


def importance(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Sequence[Any],
) -> list[Tensor]:
    """Estimate how much the loss changes without a channel (Taylor expansion, arXiv:1906.10771).

    Returns:
        (channels,) of each group: the mean over the batches of the squared sum of weight times gradient,
        over all rows that write the channel.
    """
    network = copy.deepcopy(network).eval().requires_grad_(True)
    totals = [torch.zeros(group.channels) for group in groups]
    for batch in batches:
        network.zero_grad()
        loss(network, batch).backward()
        for group, total in zip(groups, totals, strict=True):
            change = torch.zeros(group.channels)
            for name, axis, first in group.members:
                if axis == 0:
                    for value in network.get_submodule(name).parameters():
                        rows = slice(first, first + group.channels)
                        if value.grad is not None:
                            change += (value * value.grad).detach()[rows].reshape(group.channels, -1).sum(1)
            total += change.square() / len(batches)
    return totals


def pruned(
    network: Network,
    fraction: float,
    scores: Callable[[Sequence[ChannelGroup]], Sequence[Tensor]] | None = None,
) -> Network:
    """Return a copy without a fraction of the channels of each layer.

    Args:
        network: that `torch.fx` can trace.
        fraction: from 0 to 1. Layers of at least two blocks of 8 channels keep whole blocks.
        scores: returns (channels,) for each group, of which the lowest are removed; None removes the last.

    Raises:
        ConfigError: nothing can be removed.
    """
    network = copy.deepcopy(network)
    groups = [group for group in channel_groups(network) if _left(group.channels, fraction) < group.channels]
    if not groups:
        raise ConfigError(f"{fraction:g} of the channels: no layer of the network has one to remove")
    every = [-torch.arange(group.channels) for group in groups] if scores is None else scores(groups)
    kept = []
    for group, score in zip(groups, every, strict=True):
        best = score.argsort(descending=True, stable=True)[: _left(group.channels, fraction)]
        kept.append((group, best.sort().values))
    keep_channels(network, kept)
    return network


def _left(channels: int, fraction: float) -> int:
    """Return how many channels a group keeps."""
    unit = BLOCK if channels >= 2 * BLOCK else 1
    return max(unit, unit * round(channels * (1 - fraction) / unit))


def narrow(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Remove channels, in place, until a network has the widths of pruned weights.

    Where it cannot have them it stays as it is.
    """
    own = network.state_dict()
    shapes = [(tensor.shape, state[name].shape) for name, tensor in own.items() if name in state]
    if not any(len(a) == len(b) and any(map(operator.gt, a, b)) for a, b in shapes):
        return
    try:
        groups = channel_groups(network)
    except ConfigError:
        return
    kept = []
    for group in groups:
        rows = len(state.get(f"{group.members[0].layer}.weight", ()))  # the first writes this group alone
        if not 0 < rows <= group.channels:
            return
        kept.append((group, torch.arange(rows)))
    keep_channels(network, kept)


def channels_of(network: nn.Module) -> int:
    """Return the number of channels that the layers of a network write."""
    return sum(len(layer.weight) for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
