"""Run an ONNX network with onnxruntime, and convert one with a fixed batch to single images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from perception_rt.model.importers.onnx_file import OnnxNetwork
from perception_rt.types.errors import BundleError, first_line

Run = Callable[[np.ndarray], list[np.ndarray]]


def session(network: OnnxNetwork) -> Run:
    """Return an onnxruntime session on one thread.

    Raises:
        BundleError: onnxruntime is not installed, or cannot run the network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError("ONNX import needs the package onnxruntime (pip install onnxruntime)") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        loaded = onnxruntime.InferenceSession(
            network.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no common base but Exception
        raise BundleError(f"{network.path}: onnxruntime cannot load it: {first_line(error)}") from error

    def run(x: np.ndarray) -> list[np.ndarray]:
        try:
            return loaded.run(list(network.outputs), {network.image: x})
        except Exception as error:
            raise BundleError(f"{network.path}: onnxruntime cannot run it: {first_line(error)}") from error

    return run


def single_images(network: OnnxNetwork) -> tuple[OnnxNetwork, Run, bool, list[str]]:
    """Return the network for single images, its runner, whether it takes any batch, and notes.

    A file with a fixed batch of N is rewritten with a dynamic batch, or with its reshapes for one image. If
    neither gives the outputs of the file, each image is repeated N times inside.

    Raises:
        BundleError: onnxruntime cannot run it.
    """
    if network.batch in (None, 1):
        run = session(network)
        return network, run, network.batch is None and _takes_two(network, run), []
    count = network.batch
    truth = [output[:1] for output in session(network)(network.example(count))]
    example = network.example(count)[:1]
    for change in _changes(network):
        try:
            run = session(change)
            answer = run(example)
        except BundleError:
            continue
        same = all(
            a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-3)
            for a, b in zip(answer, truth, strict=True)
        )
        if same:
            return change, run, _takes_two(change, run), []
    repeated = _repeated(network)
    note = f"batch: the file is made for {count} images; each one costs as much as {count}"
    return repeated, session(repeated), False, [note]


def _takes_two(network: OnnxNetwork, run: Run) -> bool:
    """Return whether two images in a batch give the same outputs as each alone."""
    example = network.example(2)
    try:
        both = run(example)
        alone = [run(example[i : i + 1]) for i in range(2)]
    except BundleError:
        return False
    return all(
        whole.shape[:1] == (2,) and np.allclose(whole, np.concatenate(parts), rtol=1e-3, atol=1e-3)
        for whole, *parts in zip(both, *alone, strict=True)
    )


def _changes(network: OnnxNetwork) -> Iterator[OnnxNetwork]:
    """Return the network with a dynamic batch, and the same with its constant shapes for one image."""
    opened = copy.deepcopy(network.model)
    _open_batch(opened, network.image)
    yield replace(network, model=opened, batch=None)
    narrowed = copy.deepcopy(opened)
    _narrow_shapes(narrowed, network.batch or 1)
    yield replace(network, model=narrowed, batch=None)


def _open_batch(model: Any, image: str) -> None:
    for value in model.graph.input:
        if value.name == image:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_value")
            dim.dim_param = ""


def _narrow_shapes(model: Any, count: int) -> None:
    """Change every constant shape that begins with the batch size to begin with 1."""
    from onnx import numpy_helper

    shapes = {n.input[1] for n in model.graph.node if n.op_type in ("Reshape", "Expand") and len(n.input) > 1}
    tensors = [(t.name, t) for t in model.graph.initializer]
    tensors += [(n.output[0], n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"]
    for name, tensor in tensors:
        if name not in shapes:
            continue
        values = numpy_helper.to_array(tensor).copy()
        if values.size and values.flat[0] == count:
            values.flat[0] = 1
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _repeated(network: OnnxNetwork) -> OnnxNetwork:
    """Tile the one image before the network, and keep the first row of each output."""
    from onnx import helper, numpy_helper

    model = copy.deepcopy(network.model)
    graph, count = model.graph, network.batch or 1
    inner = f"{network.image}_repeated"
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == network.image:
                node.input[i] = inner
    constants = {
        "batch_repeats": np.array([count, 1, 1, 1]),
        "batch_first": np.array([0]),
        "batch_second": np.array([1]),
    }
    graph.initializer.extend(numpy_helper.from_array(v.astype(np.int64), k) for k, v in constants.items())
    graph.node.insert(0, helper.make_node("Tile", [network.image, "batch_repeats"], [inner]))
    for value in graph.input:
        if value.name == network.image:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in graph.output:
        whole = f"{value.name}_batch"
        for node in graph.node:
            for i, name in enumerate(node.output):
                if name == value.name:
                    node.output[i] = whole
            for i, name in enumerate(node.input):
                if name == value.name:
                    node.input[i] = whole
        ends = [whole, "batch_first", "batch_second", "batch_first"]
        graph.node.append(helper.make_node("Slice", ends, [value.name]))
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:]
    return replace(network, model=model, batch=1)
