"""Export a torch network as programs of a bundle: TorchScript, ONNX, and ONNX in int8 or fp16."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.bundle import ProgramSource
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.types.errors import BundleError, first_line

OPSET = 17
CHANNEL_OPSET = 13
QUANTIZED = ("Conv", "Relu", "Add", "Concat", "Resize", "MaxPool")  # Relu: its range is the convolution's


def torchscript_program(
    network: nn.Module, example: Tensor, inputs: Sequence[str], outputs: Sequence[str]
) -> ProgramSource:
    """Trace a network with one input."""
    data = module_bytes(trace_module(network, example))
    return ProgramSource("torchscript", data, tuple(inputs), tuple(outputs))


def onnx_program(
    network: nn.Module,
    example: Tensor,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> ProgramSource:
    """Export a network with one input to ONNX.

    Args:
        network: in eval mode.
        example: of the input.
        inputs: their names.
        outputs: their names.
        dynamic: by input or output, the axes whose length may differ, with a name each.

    Raises:
        BundleError: torch cannot export it.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # shapes become constants, which is what is wanted here
            torch.onnx.export(
                network,
                (example,),
                buffer,  # type: ignore[arg-type]  # the stub leaves out file objects
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
                opset_version=OPSET,
                dynamo=False,  # the newer exporter needs onnxscript
            )
    except Exception as error:  # torch.onnx's errors have no common base
        raise BundleError(f"{type(network).__name__} cannot be exported: {first_line(error)}") from error
    return ProgramSource("onnx", buffer.getvalue(), tuple(inputs), tuple(outputs))


def int8_program(source: ProgramSource, feeds: Iterable[Mapping[str, np.ndarray]]) -> ProgramSource:
    """Quantize an ONNX program to 8-bit weights for each channel and 8-bit activations.

    The outputs of the last convolutions and what follows stay in float because they are coordinates. Weights
    use 7 bits because products saturate at 16 bits on processors without VNNI. A uint8 input that the network
    only scales is taken as it is.

    Args:
        source: fp32.
        feeds: inputs by name, a few dozen typical ones.

    Raises:
        BundleError: onnxruntime cannot quantize it.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)  # its advice is to read at a prompt
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        try:
            plain.write_bytes(_scaled_by_channel(source.data))
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            graph = onnx.load(str(ready)).graph
            last = nodes_of_outputs(graph)
            convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
            scaled = _scaled_bytes(graph)
            zero = np.zeros((), np.uint8)
            as_bytes = {name: [{"scale": scale, "zero_point": zero}] for name, (_, scale) in scaled.items()}
            quantization.quantize_static(
                str(ready),
                str(done),
                _Feeds(feeds),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[name for name in last if name not in convolutions],
                # The average of the feeds' extremes: the widest waste steps.
                extra_options={"CalibMovingAverage": True, "TensorQuantOverrides": as_bytes},
            )
            model = onnx.load(str(done))
            _take_bytes(model.graph, {name: source for name, (source, _) in scaled.items()})
            _leave_in_float(model.graph, convolutions.intersection(last))
        except Exception as error:
            raise BundleError(f"cannot be quantized: {first_line(error)}") from error
        return ProgramSource(
            "onnx", model.SerializeToString(), source.inputs, source.outputs, "int8", optional=True
        )


def _scaled_bytes(graph: Any) -> dict[str, tuple[str, np.ndarray]]:
    """Return the tensors that are a uint8 input times a factor: by name the input and the factor."""
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    whole = {item.name for item in graph.input if item.type.tensor_type.elem_type == TensorProto.UINT8}
    floats, found = {}, {}
    for node in graph.node:
        first = node.input[0] if node.input else ""
        if node.op_type == "Cast" and first in whole:
            floats[node.output[0]] = first
        elif node.op_type == "Mul" and first in floats:
            factor = constants.get(node.input[1])
            if factor is not None and factor.size == 1 and factor.dtype == np.float32 and factor > 0:
                found[node.output[0]] = floats[first], factor.reshape(())
    return found


def _take_bytes(graph: Any, sources: Mapping[str, str]) -> None:
    """Let what reads the quantized tensors `sources` read the uint8 inputs that they are made of."""
    made = {}
    for node in list(graph.node):
        if node.op_type == "QuantizeLinear" and node.input[0] in sources:
            made[node.output[0]] = sources[node.input[0]]
            graph.node.remove(node)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in made:
                node.input[i] = made[name]
    outputs = {item.name for item in graph.output}
    for node in reversed(list(graph.node)):
        if node.op_type in ("Cast", "Mul") and not any(
            name in outputs or any(name in other.input for other in graph.node) for name in node.output
        ):
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _leave_in_float(graph: Any, names: Set[str]) -> None:
    """Do not quantize the outputs of these convolutions; OpenVINO computes them from 8 bits all the same."""
    kinds = ("QuantizeLinear", "DequantizeLinear")
    quantize, dequantize = ({node.input[0]: node for node in graph.node if node.op_type == k} for k in kinds)
    for node in [node for node in graph.node if node.name in names and node.output[0] in quantize]:
        first = quantize[node.output[0]]
        second = dequantize[first.output[0]]
        node.output[0] = second.output[0]
        graph.node.remove(first)
        graph.node.remove(second)


def _scaled_by_channel(data: bytes) -> bytes:
    """Return the model at an opset whose DequantizeLinear has a scale for each channel."""
    import onnx

    model = onnx.load_from_string(data)
    if min(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) >= CHANNEL_OPSET:
        return data
    return onnx.version_converter.convert_version(model, CHANNEL_OPSET).SerializeToString()


def fp16_program(source: ProgramSource) -> ProgramSource:
    """Convert an ONNX program to half precision; inputs and outputs stay in float32.

    Raises:
        BundleError: onnxruntime cannot convert it.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        model = convert_float_to_float16(onnx.load_from_string(source.data), keep_io_types=True)
    except Exception as error:  # the converter's errors have no common base
        raise BundleError(f"cannot be converted to fp16: {first_line(error)}") from error
    return replace(source, data=model.SerializeToString(), precision="fp16")


def nodes_of_outputs(graph: Any) -> list[str]:
    """Return the convolutions that no other convolution follows, and the nodes after them."""
    leading: set[str] = set()  # tensors that reach a convolution
    found = []
    for node in reversed(graph.node):  # they are in the order of execution
        if node.op_type == "Conv" or leading.intersection(node.output):
            leading.update(node.input)
        if node.name and not leading.intersection(node.output):
            found.append(node.name)
    return found


class _Feeds:
    """The data reader of `quantize_static`."""

    def __init__(self, feeds: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        """Return the next inputs; None at the end."""
        return next(self._feeds, None)
