"""ONNX by OpenVINO, on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import util
from typing import Any

import torch
from torch import Tensor

from perception_rt.model.engine import EngineOptions
from perception_rt.model.manifest import Program
from perception_rt.types.errors import BundleError, ModelError, first_line


@cache
def _core() -> Any:
    """The process's one Core.

    Each Core sets a stack for signal handlers and restores the previous one when it is destroyed. Of two, the
    first to go leaves a stack that is freed, and the next signal ends the process (seen with 2026.4).
    """
    import openvino

    return openvino.Core()


class OpenVinoEngine:
    """An ONNX network, compiled for the CPU when it is loaded."""

    KINDS = ("onnx",)

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": options.threads,
            "ENABLE_CPU_PINNING": False,  # the scheduler moves threads away from a busy core
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it: other boxes
        }
        try:
            model = _core().read_model(data, b"")
            self._compiled = _core().compile_model(model, "CPU", settings)
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
