"""The user's cache folder: which engine was chosen, and what was compiled, by hardware and hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from perception_rt.model.engine import EngineOptions
from perception_rt.model.manifest import Program

_LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "perception_rt")


def cache_folder() -> Path:
    """The user's cache folder of this package (`XDG_CACHE_HOME`, else ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "perception_rt"


def hardware() -> str:
    """What a compiled or chosen engine depends on: processor, GPU, libraries and their versions."""
    parts = [platform.machine(), processor(), torch.backends.cpu.get_cpu_capability()]
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    for library in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            parts.append(f"{library} {metadata.version(library)}")
    return "; ".join(parts)


def processor() -> str:
    """The processor's name, and how many cores of it this process may use."""
    name = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} x{len(os.sched_getaffinity(0))}"


def compiled_file(engine: str, program: Program, options: EngineOptions) -> Path:
    """Where the compiled form of a program is kept: one file for each hardware, program and precision."""
    text = f"{engine} {program.sha256} {options.device} {options.half} {options.threads} {hardware()}"
    return cache_folder() / "compiled" / f"{engine}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of the cache, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
