"""A network in 8 bits: no range for what a ReLU cuts off, outputs in float, answers close to its own."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn

from perception_rt.model.engine import EngineOptions, find_engine
from perception_rt.model.export import int8_program, onnx_program

SHAPE = (1, 3, 16, 24)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 4, 1)).eval()


def feeds(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.random(SHAPE, np.float32)} for _ in range(count)]


def answer(program, feed) -> np.ndarray:
    engine = find_engine("onnxruntime")(program, program.data, EngineOptions())
    return engine.run({name: torch.from_numpy(value) for name, value in feed.items()})[0].numpy()


def test_eight_bits_answer_as_the_network_and_keep_what_they_should():
    plain = onnx_program(network(), torch.zeros(SHAPE), ["x"], ["y"], {})
    small = int8_program(plain, feeds(8, 1))
    assert (small.precision, small.optional) == ("int8", True)
    graph = onnx.load_from_string(small.data).graph
    by_output = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert all(node.input[1] in by_output for node in convolutions)  # the weights come from 8 bits
    read = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input}
    assert [node.output[0] in read for node in convolutions] == [True, True, True, False]
    # The ReLU of a quantized convolution is the lower end of its range.
    assert "Relu" not in {node.op_type for node in graph.node}
    for feed in feeds(3, 2):
        expected, got = answer(plain, feed), answer(small, feed)
        assert np.abs(got - expected).mean() < 0.02 * np.abs(expected).mean()
