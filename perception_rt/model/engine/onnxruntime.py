"""ONNX by onnxruntime: on a CPU, by its CUDA provider, or by its TensorRT provider."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception_rt.model.engine import EngineOptions
from perception_rt.model.manifest import Program
from perception_rt.types.errors import BundleError, ModelError, first_line


class OnnxRuntimeEngine:
    """An ONNX network; the device decides between the CPU and the CUDA provider."""

    KINDS = ("onnx",)
    GPU_PROVIDERS: ClassVar[tuple[str, ...]] = ("CUDAExecutionProvider",)

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        # A thread that spins takes the core from whoever needs it: the simulator, the driver, another node.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"] if options.device == "cpu" else list(self.GPU_PROVIDERS)
        try:
            self._session = onnxruntime.InferenceSession(data, settings, providers=providers)
        except Exception as error:  # its errors have no common base but Exception
            raise BundleError(f"{program.file}: onnxruntime cannot load it: {first_line(error)}") from error
        if providers[0] not in self._session.get_providers():
            raise BundleError(f"{program.file}: onnxruntime fell back from {providers[0]}")
        self._outputs = list(program.outputs) or [out.name for out in self._session.get_outputs()]
        self._device = torch.device(options.device)

    @classmethod
    def available(cls, options: EngineOptions) -> str | None:
        """Why it cannot run here; None where it can."""
        if util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed"
        if options.device == "cpu":
            return None
        if options.half:
            return "half is for networks in torch; export the ONNX file in fp16 instead"
        import onnxruntime

        missing = [name for name in cls.GPU_PROVIDERS if name not in onnxruntime.get_available_providers()]
        return f"this onnxruntime has no {missing[0]}" if missing else None

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs, on the device where the inputs are."""
        try:
            found: list[Any] = self._session.run(
                self._outputs, {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
            )
        except Exception as error:
            raise ModelError(first_line(error)) from error
        return [torch.from_numpy(array).to(self._device) for array in found]


class TensorRtProviderEngine(OnnxRuntimeEngine):
    """The same through onnxruntime's TensorRT provider."""

    GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")

    @classmethod
    def available(cls, options: EngineOptions) -> str | None:
        """Why it cannot run here; None where it can."""
        return "TensorRT needs a CUDA device" if options.device == "cpu" else super().available(options)
