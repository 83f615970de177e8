"""Convert an ONNX network to TorchScript, if that is possible and gives the same outputs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.bundle import ProgramSource
from perception_rt.model.importers.onnx_file import OnnxNetwork
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.types.errors import first_line


class Chosen(nn.Module):
    """The outputs of a network that the decoder takes, as a tuple."""

    def __init__(self, network: nn.Module, wanted: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.wanted = tuple(wanted)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the raw outputs for (1, 3, h, w)."""
        out = self.network(x)
        every = (out,) if isinstance(out, Tensor) else tuple(out)
        return tuple(every[i] for i in self.wanted)


def torchscript_program(
    network: OnnxNetwork, outputs: tuple[str, ...], expected: list[np.ndarray], any_batch: bool
) -> tuple[ProgramSource | None, str]:
    """Return the network as TorchScript, or the reason why that is not possible.

    Args:
        network: what to convert.
        outputs: names of the outputs to keep.
        expected: their values for `network.example()`.
        any_batch: whether the network takes several images.
    """
    if network.dtype != "float32":
        return None, f"its input is {network.dtype}"
    try:
        import onnx2torch
    except ImportError:
        return None, "the package onnx2torch is not installed"
    model = copy.deepcopy(network.model)
    slice_shuffles(model)
    example = torch.from_numpy(network.example())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = onnx2torch.convert(model).eval()
            traced = trace_module(Chosen(module, [network.outputs.index(o) for o in outputs]), example)
        with torch.no_grad():
            answer = traced(example)
    except Exception as error:  # noqa: BLE001  (KeyError, NotImplementedError, RuntimeError and more)
        return None, f"onnx2torch cannot convert it ({type(error).__name__}: {first_line(error)})"
    for mine, theirs in zip(answer, expected, strict=True):
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        same = mine.shape == theirs.shape and np.allclose(mine.numpy(), theirs, rtol=1e-3, atol=1e-4 * scale)
        if not same:
            return None, "the converted network answers otherwise"
    return ProgramSource(
        "torchscript", module_bytes(traced), (network.image,), outputs, "fp32", any_batch
    ), ""


def slice_shuffles(model: Any) -> None:
    """Replace the channel shuffles of ShuffleNet v2 by strided slices, in place.

    Exporters spell "every second channel" as reshape, transpose, reshape and gather, with a batch of one
    in their shapes. A slice does the same for any batch, with one copy less.
    """
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    makers = {output: node for node in model.graph.node for output in node.output}
    for gather in model.graph.node:
        found = _shuffled_half(gather, makers, constants)
        if found is None:
            continue
        source, half = found
        names = []
        for name, value in (("start", half), ("end", 2**31 - 1), ("axis", 1), ("step", 2)):
            names.append(f"{gather.output[0]}_{name}")
            tensor = onnx.helper.make_tensor(names[-1], onnx.TensorProto.INT64, [1], [value])
            model.graph.initializer.append(tensor)
        slice_node = onnx.helper.make_node("Slice", [source, *names], list(gather.output), name=gather.name)
        gather.CopyFrom(slice_node)
    _drop_unused(model)


def _shuffled_half(gather: Any, makers: dict[str, Any], constants: dict[str, Any]) -> tuple[str, int] | None:
    """Return the shuffled tensor and which half of its channels (0 or 1) `gather` takes, or None."""
    nodes = [gather]
    for _ in range(3):
        maker = makers.get(nodes[-1].input[0]) if nodes[-1].input else None
        if maker is None:
            return None
        nodes.append(maker)
    if [node.op_type for node in nodes] != ["Gather", "Reshape", "Transpose", "Reshape"]:
        return None
    _, merge, transpose, split = nodes
    index, merged, parted = (constants.get(node.input[1]) for node in (gather, merge, split))
    if index is None or merged is None or parted is None or index.size != 1 or len(merged) != 5:
        return None
    axis = {attribute.name: attribute.i for attribute in gather.attribute}.get("axis", 0)
    channels, height, width = (int(value) for value in merged[2:])
    is_shuffle = (
        axis == 0
        and int(merged[0]) == 2
        and list(transpose.attribute[0].ints) == [1, 0, 2]
        and [int(value) for value in parted] == [channels, 2, height * width]
    )
    return (split.input[0], int(index.reshape(()))) if is_shuffle else None


def _drop_unused(model: Any) -> None:
    """Remove the nodes whose results are not used."""
    nodes = list(model.graph.node)
    while True:
        read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
        kept = [node for node in nodes if any(name in read for name in node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    del model.graph.node[:]
    model.graph.node.extend(nodes)
