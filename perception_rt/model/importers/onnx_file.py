"""Read an ONNX file and prepare it to run: one image input, a batch of one or any, no external data."""

from __future__ import annotations

import ast
import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perception_rt.model.importers.common import named_list, noise
from perception_rt.types.errors import BundleError, first_line

MAX_BYTES = (1 << 31) - 1  # of a protobuf message
SECOND_INPUTS = ("orig_target_sizes", "im_shape", "scale_factor")


@dataclass(slots=True)
class OnnxNetwork:
    """An ONNX network that takes an image.

    Attributes:
        path: the file.
        model: the ModelProto, external data inside, second inputs folded into constants.
        image: name of the input.
        second: names of the inputs that were folded.
        outputs: names of the outputs.
        size: (height, width), px.
        layout: ``NCHW`` or ``NHWC``.
        dtype: ``float32``, ``float16`` or ``uint8``.
        batch: of the file; None for any.
        metadata: of the file.
        size_is_open: whether the file leaves its size open.
    """

    path: Path
    model: Any
    image: str
    second: tuple[str, ...]
    outputs: tuple[str, ...]
    size: tuple[int, int]
    layout: str
    dtype: str
    batch: int | None
    metadata: Mapping[str, str]
    size_is_open: bool = False

    def example(self, count: int = 1) -> np.ndarray:
        """Return ``count`` noise images for the network."""
        values = noise((count, 3, *self.size))
        values = values.transpose(0, 2, 3, 1) if self.layout == "NHWC" else values
        values = values * 255 if self.dtype == "uint8" else values
        return np.ascontiguousarray(values.astype(self.dtype))

    def names(self) -> list[str] | None:
        """Return the class names of the metadata; None if it has none."""
        text = self.metadata.get("names")
        if not text or len(text) > 1 << 20:
            return None
        try:
            return named_list(ast.literal_eval(text), f"{self.path}: metadata names")
        except (ValueError, SyntaxError, MemoryError, RecursionError, BundleError):
            return None


def read_onnx(path: Path, input_size: tuple[int, int] | None) -> OnnxNetwork:
    """Read a file and find its image input.

    Args:
        path: the file.
        input_size: (height, width) if the file has a dynamic size.

    Raises:
        BundleError: the network cannot be used; the message is one line.
    """
    model = load_model(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    image = _image_input(inputs, path)
    others = [value for value in inputs if value is not image]
    if any(value.name not in SECOND_INPUTS for value in others):
        names = [value.name for value in inputs]
        raise BundleError(
            f"{path}: inputs={names}: must be one image, and {', '.join(SECOND_INPUTS)} at most"
        )
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    shape = _dims(image)
    layout = "NCHW" if shape[1] == 3 or shape[3] != 3 else "NHWC"
    sides = shape[2:] if layout == "NCHW" else shape[1:3]
    size = _size(sides, input_size, metadata, path)
    _fix_size(image, layout, size)
    for value in others:
        _fold(model, value, size)
    return OnnxNetwork(
        path=path,
        model=model,
        image=image.name,
        second=tuple(value.name for value in others),
        outputs=tuple(value.name for value in model.graph.output),
        size=size,
        layout=layout,
        dtype=_DTYPES[image.type.tensor_type.elem_type],
        batch=shape[0],
        metadata=metadata,
        size_is_open=None in sides,
    )


WEIGHTED = frozenset(
    {
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "GRU",
        "Gemm",
        "GroupNormalization",
        "InstanceNormalization",
        "LSTM",
        "LayerNormalization",
        "MatMul",
        "PRelu",
        "RNN",
    }
)
"""Operators whose constant inputs are weights."""

_DTYPES = {1: "float32", 10: "float16", 2: "uint8"}  # TensorProto.DataType


def load_model(path: Path) -> Any:
    """Return the ModelProto of a file, with its external data.

    Raises:
        BundleError: as `parse_model`; external data that is missing or lies elsewhere; NaN weights.
    """
    model = parse_model(path)
    _load_external(model, path)
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input}
    for tensor in model.graph.initializer:
        _check_finite(tensor, tensor.name in weights, path)
    return model


def parse_model(path: Path) -> Any:
    """Return the ModelProto of a file.

    Raises:
        BundleError: there is no file, or it is not ONNX.
    """
    try:
        import onnx
    except ImportError as error:
        raise BundleError("ONNX import needs the package onnx (pip install onnx)") from error
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise BundleError(f"{path}: {path.stat().st_size} bytes: an ONNX file has 2 GiB at most")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base but Exception
        raise BundleError(f"{path}: not ONNX: {first_line(error)}") from error
    if not model.graph.node or not model.graph.output:
        raise BundleError(f"{path}: not ONNX: holds no graph")
    return model


def _load_external(model: Any, path: Path) -> None:
    from onnx import external_data_helper as external

    tensors = [t for t in model.graph.initializer if external.uses_external_data(t)]
    total = 0
    for tensor in tensors:
        info = external.ExternalDataInfo(tensor)
        file = path.parent / info.location
        outside = os.path.isabs(info.location) or os.path.normpath(info.location).split(os.sep)[0] == ".."
        if not outside and not os.path.isfile(file):  # also answers for names that no file can have
            raise BundleError(f"{path}: external data {info.location!r} is missing beside it")
        if outside or path.parent.resolve() not in file.resolve().parents:
            raise BundleError(f"{path}: external data {info.location!r} lies outside of its folder")
        total += info.length or file.stat().st_size
    if total + path.stat().st_size > MAX_BYTES:
        raise BundleError(f"{path}: {total} bytes of external data: 2 GiB at most with the file")
    try:
        for tensor in tensors:
            external.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = 0  # inside
            del tensor.external_data[:]
    except Exception as error:
        raise BundleError(f"{path}: external data cannot be read: {first_line(error)}") from error


def _check_finite(tensor: Any, weights: bool, path: Path) -> None:
    from onnx import numpy_helper

    if tensor.data_type not in (1, 10, 11):  # float32, float16, float64
        return
    try:
        values = numpy_helper.to_array(tensor)
    except Exception as error:
        raise BundleError(f"{path}: weights {tensor.name!r} are damaged: {first_line(error)}") from error
    # Infinity is usual in masks and in the anchors of RT-DETR; among weights it is an error.
    if np.isnan(values).any() or (weights and np.isinf(values).any()):
        raise BundleError(f"{path}: weights {tensor.name!r} hold NaN or infinity")


def _dims(value: Any) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]


def _image_input(inputs: list[Any], path: Path) -> Any:
    """Return the one input with four axes, one of which has three channels."""
    images = []
    for value in inputs:
        dims = _dims(value)
        channels = dims[1:2] + dims[3:4]
        if len(dims) == 4 and (3 in channels or None in channels) and value.name not in SECOND_INPUTS:
            images.append(value)
    if len(images) != 1:
        shown = ", ".join(f"{value.name} {_dims(value)}" for value in inputs[:4])
        raise BundleError(f"{path}: inputs {shown}: must be one image (N, 3, H, W) or (N, H, W, 3)")
    kind = images[0].type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise BundleError(f"{path}: input {images[0].name}: must be float32, float16 or uint8")
    return images[0]


def _size(
    sides: list[int | None], given: tuple[int, int] | None, metadata: Mapping[str, str], path: Path
) -> tuple[int, int]:
    height, width = sides
    if height is not None and width is not None:
        if given is not None and given != (height, width):
            raise BundleError(f"input_size={given}: {path} is made for {(height, width)}")
        return height, width
    if given is not None:
        return given
    try:
        own = ast.literal_eval(metadata.get("imgsz", ""))
        size = [int(own), int(own)] if isinstance(own, int) else [int(side) for side in own]
        if len(size) == 2 and min(size) > 0:
            return size[0], size[1]
    except (ValueError, SyntaxError, TypeError):
        pass
    raise BundleError(f"{path}: leaves its size open: give --input-size H W")


def open_size(network: OnnxNetwork) -> OnnxNetwork:
    """Return the same network with a dynamic image size."""
    model = copy.deepcopy(network.model)
    image = next(value for value in model.graph.input if value.name == network.image)
    first = 2 if network.layout == "NCHW" else 1
    for axis, name in ((first, "height"), (first + 1, "width")):
        image.type.tensor_type.shape.dim[axis].dim_param = name
    return replace(network, model=model)


def _fix_size(image: Any, layout: str, size: tuple[int, int]) -> None:
    """Write the size into the graph's input, so that engines can optimise for it."""
    dims = image.type.tensor_type.shape.dim
    first = 2 if layout == "NCHW" else 1
    for dim, side in zip(dims[first : first + 2], size, strict=True):
        dim.dim_value = side


def _fold(model: Any, value: Any, size: tuple[int, int]) -> None:
    """Replace a second input by its value for an image of the network's own size."""
    from onnx import numpy_helper

    height, width = size
    rows = {
        "orig_target_sizes": [[width, height]],
        "im_shape": [[height, width]],
        "scale_factor": [[1.0, 1.0]],
    }
    kinds = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}
    kind = kinds[value.type.tensor_type.elem_type]
    tensor = numpy_helper.from_array(np.array(rows[value.name], kind), value.name)
    model.graph.initializer.append(tensor)
    model.graph.input.remove(value)
