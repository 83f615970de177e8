"""Load the weights of a bundle or a `.pth` as the start of a training, even if its classes differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception_rt.model.bundle import load
from perception_rt.model.importers.common import sha256_of
from perception_rt.model.importers.torchvision import read_state
from perception_rt.model.runtime import resolve_bundle
from perception_rt.stage.road_users import matching_labels
from perception_rt.train.blocks import fused
from perception_rt.train.prune import narrow
from perception_rt.types import BundleError

PREFIXES = ("model.", "network.")  # prefixes that a bundle adds to the names of weights
CLASS_MAJOR = "bbox_pred"  # of these, the rows of a class lie together; else those of an anchor


@dataclass(frozen=True, slots=True)
class Weights:
    """Initial weights.

    Attributes:
        state: by name. classes: names, by label; empty if the file has none.
        record: their source, for the manifest. licence: of the bundle; empty if unknown.
        score_threshold: of the bundle; None if unknown.
    """

    state: dict[str, Tensor]
    classes: tuple[str, ...]
    record: dict[str, Any]
    licence: str = ""
    score_threshold: float | None = None


def read_weights(source: str) -> Weights:
    """Read a bundle (a file or a name), or a `.pth` without executing its code.

    Raises:
        BundleError: it is neither, or the bundle has no torch network.
    """
    if source.endswith(".pth"):
        path = Path(source)
        return Weights(read_state(path), (), {"file": path.name, "sha256": sha256_of(path)})
    path = resolve_bundle(source)
    module, manifest = load(path)
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if not state:
        raise BundleError(f"--weights={source}: holds no weights of torch, which training starts from")
    record = {"bundle": manifest.name, "sha256": manifest.sha256}
    return Weights(state, manifest.classes, record, manifest.licence, manifest.score_threshold)


def started(
    make: Callable[[int], nn.Module], classes: Sequence[str], weights: Weights | None
) -> tuple[nn.Module, list[str]]:
    """Return a network with initial weights, and the names of the parameters that are not from `weights`.

    Rows of the head are copied for classes that both have; the others are new. The network has the widths of
    the weights, which may be pruned.

    Args:
        make: returns an untrained network for a number of classes.
        classes: of the network to train.
        weights: initial weights; None for random ones.

    Raises:
        BundleError: the weights are of another network.
    """
    network = make(len(classes))
    if weights is None:
        return network, []
    folded = not any(name.endswith("running_mean") for name in weights.state)
    if folded:  # our bundles have folded batch normalisation, which remains folded
        network = fused(network).requires_grad_(True)
    narrow(network, weights.state)
    own = network.state_dict()
    heads, pairs = _heads(make, len(classes)), _known(classes, weights)
    new, missing = [], []
    for name, tensor in own.items():
        given = weights.state.get(name)
        if name in heads:
            rows = _rows(name, tensor, heads[name], len(classes))
            if given is not None and pairs and _same_kind(given, tensor, heads[name], len(weights.classes)):
                source = _rows(name, given, heads[name], len(weights.classes))
                for here, there in pairs:
                    rows[:, here] = source[:, there]
                fixed = len(tensor) - heads[name] * len(classes)
                if fixed:
                    tensor[-fixed:] = given[-fixed:]
            if len(pairs) < len(classes):
                new.append(name)
        elif given is not None and given.shape == tensor.shape:
            tensor.copy_(given)
        elif not name.endswith("num_batches_tracked"):
            missing.append(name)
    if missing:
        raise BundleError(
            f"--weights: of another network: {len(missing)} of {len(own)} tensors are missing or of another "
            f"shape ({', '.join(missing[:3])})"
        )
    return network, new


def known_channels(
    make: Callable[[int], nn.Module], classes: Sequence[str], weights: Weights
) -> dict[str, Tensor]:
    """Output channels, by the name of a convolution, of the classes that `started` takes over.

    Args:
        make, classes, weights: as of `started`.

    Returns:
        (K,) int64 each; empty where no class is taken over, or none is added.
    """
    known = [new for new, _ in _known(classes, weights)]
    if not 0 < len(known) < len(classes):
        return {}
    with torch.device("meta"):
        network = make(len(classes))
    channels = {}
    for name, each in _heads(make, len(classes)).items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and isinstance(network.get_submodule(module), nn.Conv2d):
            channels[module] = torch.arange(each * len(classes)).view(each, -1)[:, known].flatten()
    return channels


def _known(classes: Sequence[str], weights: Weights) -> list[tuple[int, int]]:
    """Labels of the classes that both have, in `classes` and in `weights`."""
    found = matching_labels(classes, weights.classes)
    return [(new, old) for new, old in enumerate(found) if old >= 0]


def _heads(make: Callable[[int], nn.Module], classes: int) -> dict[str, int]:
    """Return the tensors with rows for each class, and the number of rows of one class."""
    with torch.device("meta"):
        one, more = (make(count).state_dict() for count in (classes, classes + 1))
    return {
        name: len(more[name]) - len(tensor)
        for name, tensor in one.items()
        if more[name].shape != tensor.shape
    }


def _rows(name: str, tensor: Tensor, each: int, classes: int) -> Tensor:
    """Return a view (each, classes, ...) of the rows of a head."""
    rows = tensor[: each * classes]
    if CLASS_MAJOR in name:
        return rows.view(classes, each, *tensor.shape[1:]).transpose(0, 1)
    return rows.view(each, classes, *tensor.shape[1:])


def _same_kind(given: Tensor, tensor: Tensor, each: int, classes: int) -> bool:
    """Return whether a head differs only in the number of classes."""
    return given.shape[1:] == tensor.shape[1:] and len(given) >= each * classes
