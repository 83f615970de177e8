"""Engines: what runs the network of a bundle. `find_engine` and `ENGINES` are the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol

from torch import Tensor

from perception_rt.model.manifest import Program
from perception_rt.model.task import load_object
from perception_rt.types.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is to run.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        half: compute in fp16 (CUDA only).
        threads: CPU threads of one call.
    """

    device: str = "cpu"
    half: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine runs which program.

    Attributes:
        engine: its name.
        program: of the bundle.
        options: device, precision, threads.
        ms: of the shortest call in the trial; NaN where none was made.
        others: by name of engine, program and threads, ms of a call or why it was left out.
        note: of the trial; empty where there is nothing to say.
    """

    engine: str
    program: Program
    options: EngineOptions
    ms: float = math.nan
    others: Mapping[str, float | str] = field(default_factory=dict)
    note: str = ""

    @property
    def torch_threads(self) -> int:
        """Threads for torch: its own engine's, else 1: what surrounds the network is small."""
        return self.options.threads if self.engine == "torchscript" else 1

    def __str__(self) -> str:
        threads = f"{self.options.threads} thread{'s' if self.options.threads != 1 else ''}"
        where = threads if self.options.device == "cpu" else self.options.device
        took = "" if math.isnan(self.ms) else f", {self.ms:.1f} ms"
        others = ", ".join(
            f"{name} {value if isinstance(value, str) else f'{value:.1f} ms'}"
            for name, value in self.others.items()
        )
        parts = (f"{self.program.precision}, {where}{took}", others, self.note)
        return f"{self.engine} ({'; '.join(part for part in parts if part)})"


class Engine(Protocol):
    """A loaded network, constructed as ``Engine(program, data, options)``; BundleError says why not.

    Attributes:
        KINDS: kinds of `Program` that it can load.
    """

    KINDS: tuple[str, ...]

    def __init__(self, program: Program, data: bytes, options: EngineOptions) -> None: ...

    @staticmethod
    def available(options: EngineOptions) -> str | None:
        """Why it cannot run here; None where it can."""
        ...

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs, in the order of the program's; they may be overwritten by the next call.

        Raises:
            ModelError: whatever went wrong inside.
        """
        ...


ENGINES = {
    "torchscript": "perception_rt.model.engine.torchscript:TorchScriptEngine",
    "onnxruntime": "perception_rt.model.engine.onnxruntime:OnnxRuntimeEngine",
    "onnxruntime-tensorrt": "perception_rt.model.engine.onnxruntime:TensorRtProviderEngine",
    "openvino": "perception_rt.model.engine.openvino:OpenVinoEngine",
    "aoti": "perception_rt.model.engine.aoti:AotiEngine",
    "tensorrt": "perception_rt.model.engine.tensorrt:TensorRtEngine",
}
ENTRY_POINTS = "perception_rt.engines"


def engine_names() -> tuple[str, ...]:
    """The engines of this package and of others."""
    return (*ENGINES, *(point.name for point in entry_points(group=ENTRY_POINTS)))


def find_engine(name: str) -> type[Any]:
    """The class of an engine.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in ENGINES:
        return load_object(ENGINES[name])
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()
    raise ConfigError(f"engine={name!r}: must be auto or one of {', '.join(engine_names())}")
