"""Choose the decoder for a network: by its metadata first, then by names, then by shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_rt.model.decoders import Detr, RfDetr, YoloV8
from perception_rt.model.decoders.common import Match, Signature
from perception_rt.model.network import known_decoders
from perception_rt.model.task import DETECT2D
from perception_rt.types.errors import BundleError

ALIASES = {
    **dict.fromkeys(
        ("yolov9", "yolov10", "yolo11", "yolov11", "yolo12", "yolov12", "yolo26", "yolov26"), "yolov8"
    ),
    **dict.fromkeys(("yolov6", "yolov7"), "yolov5"),
    **dict.fromkeys(("dfine", "d-fine", "deim", "deimv2"), "rtdetr"),
    **dict.fromkeys(("rf-detr",), "rfdetr"),
}
STRENGTHS = ("metadata", "names", "shapes", "rest")


def decoder_names() -> list[str]:
    """Return the names of all decoders without the aliases."""
    return sorted(known_decoders())


def find_decoder(name: str) -> tuple[str, type[Any]]:
    """Return the decoder with this name or alias.

    Raises:
        BundleError: there is no such decoder.
    """
    name = ALIASES.get(name, name)
    kinds = known_decoders()
    if name not in kinds:
        raise BundleError(f"decoder={name!r}: must be auto or one of {', '.join(sorted(kinds))}")
    return name, kinds[name]


def task_of(decoder: str) -> str:
    """Return the task of bundles with this decoder."""
    return str(getattr(known_decoders()[decoder], "task", DETECT2D.name))


def choose_decoder(network: Signature, wanted: str = "auto") -> tuple[str, Match]:
    """Return the decoder for a network, and the reason.

    Args:
        network: its names, metadata and outputs.
        wanted: ``auto``, or a name that the user gave.

    Raises:
        BundleError: no decoder fits, several fit, or the given one does not fit.
    """
    if wanted != "auto":
        name, kind = find_decoder(wanted)
        match = _match(kind, network)
        others = {} if match else {n: _match(other, network) for n, other in known_decoders().items()}
        fitting = [n for n, other in others.items() if other]
        # Metadata and names count more than a guess by shapes.
        if match is None and not any(
            other and other.by in ("metadata", "names") for other in others.values()
        ):
            match = _forced(kind, network)
        if match is None:
            hint = f"; {' or '.join(fitting)} would" if fitting else ""
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
        f"{', '.join(decoder_names())}, or --output, the one that holds what is wanted"
    )


def outputs_text(network: Signature) -> str:
    """Return names and shapes of the outputs, eight at most."""
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
    """Return parameters with which the user's decoder can decode the outputs, if the file gives none."""
    parameters, names = _guess(kind, network)
    outputs = [network.of(name) for name in names]
    try:
        decode = kind(None, **parameters)
        decode(outputs, network.input_size, 2.0)
        count = decode.class_count(outputs) if hasattr(decode, "class_count") else None
    except (IndexError, ValueError, RuntimeError, TypeError):
        return None
    if count is not None and count < 1:
        return None
    return Match("shapes", f"outputs {outputs_text(network)}", parameters, names)


def _guess(kind: type[Any], network: Signature) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Guess the parameters of a decoder and the outputs that it takes from their shapes."""
    if kind in (Detr, RfDetr):
        boxes = [n for n, shape in zip(network.names, network.shapes, strict=True) if shape[-1:] == (4,)]
        named = [n for n in boxes if "box" in n.lower() or "dets" in n.lower()]
        boxes = boxes if len(boxes) == 1 else named
        logits = [name for name in network.names if name not in boxes]
        if len(boxes) != 1 or len(logits) != 1:
            return {}, ()
        return {}, (logits[0], boxes[0]) if kind is Detr else (boxes[0], logits[0])
    first = network.outputs[0]
    if kind is not YoloV8 or first.ndim != 3:
        return {}, network.names
    if first.shape[2] == 6:
        return {"classes": network.classes or 0, "layout": "rows"}, network.names
    return {"classes": first.shape[1] - 4}, network.names
