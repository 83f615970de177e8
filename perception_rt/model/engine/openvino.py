"""ONNX by OpenVINO, on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util

import torch
from torch import Tensor

from perception_rt.model.engine import EngineOptions
from perception_rt.model.manifest import Program
from perception_rt.types.errors import BundleError, ModelError, first_line


class OpenVinoEngine:
    """An ONNX network, compiled for the CPU when it is loaded."""

    KINDS = ("onnx",)

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": options.threads,
            "ENABLE_CPU_PINNING": False,  # the scheduler moves threads away from a busy core
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it: other boxes
        }
        try:
            core = openvino.Core()
            model = core.read_model(data, b"")
            self._compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # its errors are RuntimeError and others
            raise BundleError(f"{program.file}: OpenVINO cannot load it: {first_line(error)}") from error
        self._request = self._compiled.create_infer_request()
        names = program.outputs or [next(iter(out.names)) for out in self._compiled.outputs]
        self._outputs = [self._compiled.output(name) for name in names]

    @staticmethod
    def available(options: EngineOptions) -> str | None:
        """Why it cannot run here; None where it can."""
        if options.device != "cpu":
            return "OpenVINO runs on the CPU"
        return None if util.find_spec("openvino") else "openvino is not installed"

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs; the next call overwrites them."""
        try:
            self._request.infer({name: tensor.numpy() for name, tensor in inputs.items()}, share_inputs=True)
        except Exception as error:
            raise ModelError(first_line(error)) from error
        return [torch.from_numpy(self._request.get_tensor(output).data) for output in self._outputs]
