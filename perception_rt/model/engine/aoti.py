"""torch.export programs, compiled ahead of time by AOTInductor."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping

import torch
from torch import Tensor

from perception_rt.model.engine import EngineOptions
from perception_rt.model.engine.cache import compiled_file
from perception_rt.model.manifest import Program
from perception_rt.types.errors import BundleError, ModelError, first_line


class AotiEngine:
    """A compiled torch.export program; `compile` makes it, which takes a minute, and loading never does."""

    KINDS = ("pt2",)

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None:
        package = compiled_file("aoti", program, options).with_suffix(".pt2")
        if not package.is_file():
            raise BundleError(
                f"{program.file}: not compiled for this machine: run `perception-rt bundle compile` first"
            )
        try:
            self._run = torch._inductor.aoti_load_package(str(package))
        except Exception as error:  # a library of another torch fails in many ways
            raise BundleError(f"{program.file}: {package}: cannot be loaded: {first_line(error)}") from error
        self._names = program.inputs
        self._device = torch.device(options.device)
        self._half = options.half

    @staticmethod
    def available(options: EngineOptions) -> str | None:
        """Why it cannot run here; None where it can."""
        return None if hasattr(torch, "export") else "this torch has no torch.export"

    @staticmethod
    def compile(program: Program, data: bytes, options: EngineOptions) -> None:
        """Compile a program for this machine into the cache folder.

        Raises:
            BundleError: no C++ compiler, or torch cannot compile it.
        """
        if options.device == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
            raise BundleError(f"{program.file}: AOTInductor needs a C++ compiler (apt install g++)")
        package = compiled_file("aoti", program, options).with_suffix(".pt2")
        package.parent.mkdir(parents=True, exist_ok=True)
        try:
            exported = torch.export.load(io.BytesIO(data))
            torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
        except Exception as error:
            package.unlink(missing_ok=True)
            raise BundleError(f"{program.file}: AOTInductor: {first_line(error)}") from error

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs on the device."""
        try:
            with torch.autocast(self._device.type, torch.float16, enabled=self._half):
                outputs = self._run(*(inputs[name] for name in self._names))
        except RuntimeError as error:
            raise ModelError(first_line(error)) from error
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)
