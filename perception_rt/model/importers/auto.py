"""Which decoder fits a network: by its metadata first, then by names, by shapes where nothing else fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from perception_rt.model.decoders.common import Match, Signature
from perception_rt.model.network import known_decoders
from perception_rt.types.errors import BundleError

ALIASES = {
    **dict.fromkeys(
        ("yolov9", "yolov10", "yolo11", "yolov11", "yolo12", "yolov12", "yolo26", "yolov26"), "yolov8"
    ),
    **dict.fromkeys(("yolov6", "yolov7"), "yolov5"),
    **dict.fromkeys(("dfine", "d-fine", "deim", "deimv2"), "rtdetr"),
    **dict.fromkeys(("rf-detr",), "rfdetr"),
}
STRENGTHS = ("metadata", "names", "shapes")


def decoder_names() -> list[str]:
    """Every decoder that can be given, without the aliases."""
    return sorted(known_decoders())


def find_decoder(name: str) -> tuple[str, type[Any]]:
    """The decoder of that name or alias.

    Raises:
        BundleError: there is none.
    """
    name = ALIASES.get(name, name)
    kinds = known_decoders()
    if name not in kinds:
        raise BundleError(f"decoder={name!r}: must be auto or one of {', '.join(sorted(kinds))}")
    return name, kinds[name]


def choose_decoder(network: Signature, wanted: str = "auto") -> tuple[str, Match]:
    """The decoder for a network, and why.

    Args:
        network: what is known of it.
        wanted: ``auto``, or a name that the user gave.

    Raises:
        BundleError: none fits, several do, or the wanted one does not.
    """
    if wanted != "auto":
        name, kind = find_decoder(wanted)
        match = _match(kind, network) or _forced(kind, network)
        if match is None:
            others = [n for n, other in known_decoders().items() if _match(other, network)]
            hint = f"; {' or '.join(others)} would" if others else ""
            raise BundleError(f"decoder={wanted!r}: does not fit the outputs {outputs_text(network)}{hint}")
        return name, match._replace(why=f"given; {match.why}")
    matches = {name: _match(kind, network) for name, kind in known_decoders().items()}
    for strength in STRENGTHS:
        found = {name: match for name, match in matches.items() if match and match.by == strength}
        if len(found) > 1:
            choices = "; ".join(f"{name}: {match.why}" for name, match in found.items())
            raise BundleError(f"decoder=auto: several fit ({choices}): give --decoder")
        if found:
            return next(iter(found.items()))
    raise BundleError(
        f"decoder=auto: none fits the outputs {outputs_text(network)}: give --decoder, one of "
        f"{', '.join(decoder_names())}"
    )


def outputs_text(network: Signature) -> str:
    """Names and shapes of the outputs, eight at most."""
    pairs = list(zip(network.names, network.shapes, strict=True))
    more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
    return ", ".join(f"{name} {shape}" for name, shape in pairs[:8]) + more


def _match(kind: type[Any], network: Signature) -> Match | None:
    match = getattr(kind, "match", None)  # decoders of other packages may leave it out
    if match is None or not network.outputs:
        return None
    try:
        return match(network)
    except (IndexError, ValueError, RuntimeError):  # of a shape that it did not think of
        return None


def _forced(kind: type[Any], network: Signature) -> Match | None:
    """What the user says against the signs: the first parameters with which the outputs can be decoded."""
    for parameters in _guesses(kind, network):
        try:
            decode = kind(None, **parameters)
            decode(network.outputs, network.input_size, 2.0)
            count = decode.class_count(network.outputs) if hasattr(decode, "class_count") else None
        except (IndexError, ValueError, RuntimeError, TypeError):
            continue
        if count is None or count > 0:
            return Match("shapes", f"outputs {outputs_text(network)}", parameters, network.names)
    return None


def _guesses(kind: type[Any], network: Signature) -> list[Mapping[str, Any]]:
    if kind.__name__ != "YoloV8" or not network.outputs or network.outputs[0].ndim != 3:
        return [{}]
    rows = network.outputs[0].shape[2] == 6
    if rows:
        return [{"classes": network.classes or 0, "layout": "rows"}]
    return [{"classes": network.outputs[0].shape[1] - 4}]


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    """The same values in [0, 1) on every call."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
