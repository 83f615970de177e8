"""TorchScript by torch itself, on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from perception_rt.model.engine import EngineOptions
from perception_rt.model.manifest import Program
from perception_rt.model.torchscript import MODULE_ERRORS, load_module, optimise, reason
from perception_rt.types.errors import BundleError, ModelError


class TorchScriptEngine:
    """A scripted or traced network: tensors in, a tensor, a tuple or a list of tensors out."""

    KINDS = ("torchscript",)

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None:
        self._device, self._half = torch.device(options.device), options.half
        self._names = program.inputs
        module = load_module(data, self._device, program.file)
        try:
            self._module = optimise(module, self._device)
        except RuntimeError as error:  # damaged code, or too little memory
            raise BundleError(
                f"{program.file}: cannot be made ready on {self._device}: {reason(error)}"
            ) from error

    @staticmethod
    def available(options: EngineOptions) -> str | None:
        """Why it cannot run here: never."""
        return None

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs on the device."""
        tensors = [inputs[name] for name in self._names]
        try:
            with torch.autocast(self._device.type, torch.float16, enabled=self._half):
                outputs = self._module(*tensors)
        except MODULE_ERRORS as error:
            raise ModelError(reason(error)) from error
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)
