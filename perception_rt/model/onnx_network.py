"""An ONNX file as a traced torch network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception_rt.model.torchscript import trace_module
from perception_rt.types.errors import BundleError


class OutputList(nn.Module):
    """A network's one or several outputs as a tuple, for tracing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """A tuple of every output."""
        out = self.network(x)
        return (out,) if isinstance(out, Tensor) else tuple(out)


class OneOutput(nn.Module):
    """A traced network of one output, image by image where it was exported for a batch of one."""

    def __init__(self, network: nn.Module, any_batch: bool) -> None:
        super().__init__()
        self.network = network
        self.any_batch = any_batch

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, h, w) -> raw outputs, N first."""
        if self.any_batch or x.shape[0] == 1:
            return [self.network(x)[0]]
        return [torch.cat([self.network(image)[0] for image in x.split(1)])]


class TwoOutputs(nn.Module):
    """As `OneOutput`, for a network of two."""

    def __init__(self, network: nn.Module, any_batch: bool) -> None:
        super().__init__()
        self.network = network
        self.any_batch = any_batch

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, h, w) -> raw outputs, N first."""
        if self.any_batch or x.shape[0] == 1:
            first, second = self.network(x)
            return [first, second]
        firsts: list[Tensor] = []
        seconds: list[Tensor] = []
        for image in x.split(1):
            first, second = self.network(image)
            firsts.append(first)
            seconds.append(second)
        return [torch.cat(firsts), torch.cat(seconds)]


def convert_onnx(path: Path, input_size: tuple[int, int] | None = None) -> tuple[nn.Module, tuple[int, int]]:
    """Convert an ONNX file to a torch module.

    Returns:
        the module, and (height, width) of its input.

    Raises:
        BundleError: not ONNX, not one image input, or an operator that cannot be converted.
    """
    import onnx  # only export needs these
    import onnx2torch

    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise BundleError(f"{path}: not ONNX: {str(error).strip().splitlines()[0]}") from error
    slice_shuffles(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise BundleError(f"{path}: inputs={[v.name for v in inputs]}: must be one image")
    kind = inputs[0].type.tensor_type
    shape = [dim.dim_value or None for dim in kind.shape.dim]
    if len(shape) != 4 or shape[1] not in (3, None) or kind.elem_type != onnx.TensorProto.FLOAT:
        raise BundleError(f"{path}: input {inputs[0].name} {shape}: must be float32 (N, 3, H, W)")
    size = tuple(shape[2:])
    if None in size and input_size is None:
        raise BundleError(f"{path}: input {inputs[0].name} {shape} leaves its size open: give --input-size")
    if None not in size and input_size is not None and input_size != size:
        raise BundleError(f"input_size={input_size}: {path} is made for {size}")
    try:
        return onnx2torch.convert(model).eval(), input_size or size
    except NotImplementedError as error:
        raise BundleError(f"{path}: cannot be converted: {str(error).splitlines()[0]}") from error


def slice_shuffles(model: Any) -> None:
    """Write the channel shuffles of ShuffleNet v2 as strided slices, in place.

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
    """The shuffled tensor and which half of its channels (0 or 1) `gather` takes; None for no shuffle."""
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
    """Remove the nodes whose results nobody reads any more."""
    nodes = list(model.graph.node)
    while True:
        read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
        kept = [node for node in nodes if any(name in read for name in node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def listed_network(network: nn.Module, size: tuple[int, int], path: Path) -> tuple[nn.Module, list[Tensor]]:
    """The traced network that returns a list, and its answer to zeros."""
    wrapped, zeros = OutputList(network), torch.zeros(1, 3, *size)
    with torch.no_grad():
        outputs = wrapped(zeros)
    if len(outputs) not in (1, 2) or not all(isinstance(output, Tensor) for output in outputs):
        raise BundleError(f"{path}: {len(outputs)} outputs: must be one or two tensors")
    traced = trace_module(wrapped, zeros)
    probe = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = [traced(image) for image in probe.split(1)]
        try:
            both = traced(probe)
            any_batch = all(
                whole.shape[0] == 2 and torch.allclose(whole, torch.cat(parts), atol=1e-4)
                for whole, *parts in zip(both, *raw, strict=True)
            )
        except RuntimeError:  # reshapes made for a batch of one
            any_batch = False
    adapter = OneOutput if len(outputs) == 1 else TwoOutputs
    return adapter(traced, any_batch), list(outputs)
