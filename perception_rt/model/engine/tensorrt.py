"""ONNX by NVIDIA TensorRT, where its Python package is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from typing import Any

import torch
from torch import Tensor

from perception_rt.model.engine import EngineOptions
from perception_rt.model.engine.cache import compiled_file, write_whole
from perception_rt.model.manifest import Program
from perception_rt.types.errors import BundleError, ModelError


class TensorRtEngine:
    """A built TensorRT engine; `compile` builds it, which takes minutes, and loading never does."""

    KINDS = ("onnx",)

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None:
        import tensorrt

        plan = compiled_file("tensorrt", program, options)
        if not plan.is_file():
            raise BundleError(
                f"{program.file}: not compiled for this machine: run `perception-rt bundle compile` first"
            )
        self._device = torch.device(options.device)
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise BundleError(f"{program.file}: {plan}: made by another TensorRT")
        self._context = self._engine.create_execution_context()
        self._outputs = list(program.outputs)
        self._types = {
            tensorrt.float32: torch.float32,
            tensorrt.float16: torch.float16,
            tensorrt.int32: torch.int32,
            tensorrt.int64: torch.int64,
            tensorrt.int8: torch.int8,
            tensorrt.bool: torch.bool,
        }

    @staticmethod
    def available(options: EngineOptions) -> str | None:
        """Why it cannot run here; None where it can."""
        if options.device == "cpu":
            return "TensorRT needs a CUDA device"
        return None if util.find_spec("tensorrt") else "tensorrt is not installed"

    @staticmethod
    def compile(program: Program, data: bytes, options: EngineOptions) -> None:
        """Build the engine for this GPU into the cache folder.

        Raises:
            BundleError: TensorRT cannot read or build the network.
        """
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(data):
            raise BundleError(f"{program.file}: TensorRT: {parser.get_error(0)}")
        config = builder.create_builder_config()
        if options.half:
            config.set_flag(tensorrt.BuilderFlag.FP16)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BundleError(f"{program.file}: TensorRT cannot build it")
        write_whole(compiled_file("tensorrt", program, options), bytes(plan))

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs on the device, in the order of the current stream."""
        for name, tensor in inputs.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.contiguous().data_ptr())
        outputs = [self._empty(name) for name in self._outputs]
        if not self._context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream):
            raise ModelError("TensorRT refused the call")
        return outputs

    def _empty(self, name: str) -> Tensor:
        kind: Any = self._types[self._engine.get_tensor_dtype(name)]
        output = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kind, device=self._device)
        self._context.set_tensor_address(name, output.data_ptr())
        return output
