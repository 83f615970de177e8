"""TorchScript: compile, load, write, optimise."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from importlib import util
from pathlib import Path

import torch

from perception_rt.model.golden import weights_sha256
from perception_rt.types.errors import BundleError, first_line

MAX_UNPACKED = 64 << 20  # bytes of the code in a TorchScript archive; its weights are stored as they are
MODULE_ERRORS = (RuntimeError, torch.jit.Error, IndexError)  # what a running module raises; out of memory too

# TorchScript is deprecated upstream; users of a bundle can do nothing about it.
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=r".*always returns a \(Losses, Detections\) tuple")


def load_operators() -> None:
    """Register torchvision's operators (NMS) without importing its Python: 1 ms instead of 1.7 s."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    spec = util.find_spec("torchvision")
    for folder in spec.submodule_search_locations or () if spec else ():
        for library in sorted(Path(folder).glob("_C*.so")):
            torch.ops.load_library(library)


def script_module(module: torch.nn.Module) -> torch.jit.ScriptModule:
    """Compile a module in eval mode.

    Raises:
        BundleError: the module uses something that TorchScript does not support.
    """
    load_operators()
    try:
        return module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module.eval())
    except (RuntimeError, torch.jit.frontend.FrontendError) as error:
        raise BundleError(
            f"module {type(module).__name__} cannot be scripted: {first_line(error)}"
        ) from error


def trace_module(module: torch.nn.Module, example: torch.Tensor) -> torch.jit.ScriptModule:
    """Trace a module with `example`, for networks without control flow that cannot be scripted."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant shapes are intended here
        return torch.jit.trace(module.eval(), example, check_trace=False)


def archive_copy(
    module: torch.jit.ScriptModule, device: torch.device | None = None
) -> torch.jit.ScriptModule:
    """Return the module after saving and loading it, on the same device or on another."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer, map_location=device)


def load_module(data: bytes, device: torch.device, what: str) -> torch.jit.ScriptModule:
    """Load TorchScript, and check that the weights are finite.

    Raises:
        BundleError: `what` is damaged, or contains NaN or infinity.
    """
    load_operators()
    check_archive(data, what)
    try:
        module = torch.jit.load(io.BytesIO(data), map_location=device)
    except Exception as error:  # damaged TorchScript fails in many ways
        raise BundleError(f"{what}: TorchScript cannot be loaded: {first_line(error)}") from error
    check_finite(module, what)
    return module.eval()


def check_archive(data: bytes, what: str) -> None:
    """Raise BundleError for a TorchScript archive whose members unpack to more than `MAX_UNPACKED`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    except Exception as error:
        raise BundleError(f"{what}: not TorchScript: {first_line(error)}") from error
    unpacked = sum(info.file_size for info in packed)
    if unpacked > MAX_UNPACKED:
        raise BundleError(f"{what}: its compressed members unpack to {unpacked} bytes, over {MAX_UNPACKED}")


def check_finite(module: torch.nn.Module, what: str) -> None:
    """Raise BundleError if a weight is NaN or infinite."""
    for name, tensor in module.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{what}: weights {name} hold NaN or infinity")


def module_bytes(module: torch.jit.ScriptModule) -> bytes:
    """Return the file of the module as bytes."""
    buffer = io.BytesIO()  # not a file name, which torch would put inside the archive
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def module_sha256(module: torch.nn.Module) -> str:
    """Return `weights_sha256` over a module's parameters and buffers."""
    return weights_sha256([*module.named_parameters(), *module.named_buffers()])


# Names of a convolution in traced and in scripted modules.
_CONVOLUTIONS = {
    "aten::_convolution": "%x,%w,%b,%stride,%padding,%dilation,%transposed,%outpad,%groups,%q,%r,%s,%t",
    "aten::conv2d": "%x,%w,%b,%stride,%padding,%dilation,%groups",
}


def optimise(module: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Freeze the weights; on a CPU also use channels last and activations in place.

    A small detector takes twice as long with freezing only. `torch.jit.optimize_for_inference` gives half of
    this gain, and its constants cannot leave the CPU.
    """
    # The fuser would compile again for each new size, while the vehicle drives.
    torch._C._jit_set_texpr_fuser_enabled(False)
    if device.type == "cpu":
        module = module.to(memory_format=torch.channels_last)
    # Freezing leaves pointers to methods that it deletes, and an exception inside then ends the process as
    # the interpreter follows them to name the call stack. What was written and read again has none.
    frozen = archive_copy(torch.jit.freeze(module), device)
    if device.type == "cpu":
        for convolution, args in _CONVOLUTIONS.items():
            for activation in ("relu", "hardswish", "silu"):
                before, after = (
                    f"graph({args}):\n  %c = {convolution}({args})\n  %y = aten::{activation}{suffix}(%c)\n"
                    "  return (%y)"
                    for suffix in ("", "_")
                )
                torch._C._jit_pass_custom_pattern_based_rewrite_graph(before, after, frozen.graph)
    return frozen


def reason(error: BaseException) -> str:
    """Return the reason of an error without TorchScript's call stack and source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if re.match(r"\w*(Error|Exception)\b.*: ", line)]
    return (reasons or lines or [type(error).__name__])[-1]
