"""TorchScript and its files: compile, write, read, optimise; the only module that knows TorchScript."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from importlib import util
from pathlib import Path

import torch

from perception_rt.model.golden import weights_sha256
from perception_rt.model.manifest import Manifest, parse_manifest
from perception_rt.types.errors import BundleError

MANIFEST_FILE = "manifest.json"
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
        BundleError: where the module uses what TorchScript cannot say.
    """
    load_operators()
    try:
        return module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module.eval())
    except (RuntimeError, torch.jit.frontend.FrontendError) as error:
        raise BundleError(
            f"module {type(module).__name__} cannot be scripted: {_first_line(error)}"
        ) from error


def trace_module(module: torch.nn.Module, example: torch.Tensor) -> torch.jit.ScriptModule:
    """Record what a module does to `example`: for networks without control flow that cannot be scripted."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants, which is what is wanted here
        return torch.jit.trace(module.eval(), example, check_trace=False)


def write_archive(module: torch.jit.ScriptModule, manifest: Manifest, path: Path) -> None:
    """Write module and manifest; a reader sees the old file or the whole new one, never a part."""
    buffer = io.BytesIO()  # not a file name, which torch would put inside the archive
    torch.jit.save(module, buffer, _extra_files={MANIFEST_FILE: manifest.to_json()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def archive_copy(
    module: torch.jit.ScriptModule, device: torch.device | None = None
) -> torch.jit.ScriptModule:
    """The module as it would come back from its file, on the device where it was or on another."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer, map_location=device)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an archive without loading (so without executing) any of it.

    Raises:
        BundleError: no file, not TorchScript, no manifest, newer schema, invalid field.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name.split("/", 1)[-1]: name for name in archive.namelist()}
            if "constants.pkl" not in files:
                raise BundleError(
                    f"{path}: not TorchScript (weights alone? export them with `bundle export`)"
                )
            if f"extra/{MANIFEST_FILE}" not in files:
                raise BundleError(f"{path}: TorchScript without {MANIFEST_FILE}: not a bundle")
            text = archive.read(files[f"extra/{MANIFEST_FILE}"]).decode()
    except BundleError:
        raise
    except Exception as error:  # a damaged zip fails in many ways
        raise BundleError(f"{path}: not TorchScript: {_first_line(error)}") from error
    try:
        return parse_manifest(text)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def read_archive(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, Manifest]:
    """Load an archive and hold its weights to their hash.

    Raises:
        BundleError: as `read_manifest`; also a damaged archive, or weights that are not the manifest's.
    """
    manifest = read_manifest(path)
    load_operators()
    try:
        module = torch.jit.load(str(path), map_location=device)
    except Exception as error:  # and so does damaged TorchScript
        raise BundleError(f"{path}: TorchScript cannot be loaded: {_first_line(error)}") from error
    sha256 = module_sha256(module)
    if sha256 != manifest.sha256:
        raise BundleError(f"{path}: weights have sha256={sha256[:12]}..., manifest {manifest.sha256[:12]}...")
    for name in ("score_threshold", "nms_threshold"):
        mine, theirs = getattr(manifest, name), getattr(module, name, None)
        if mine != theirs:
            raise BundleError(f"{path}: {name}={mine} in the manifest, {theirs} in the module")
    return module.eval(), manifest


def module_sha256(module: torch.nn.Module) -> str:
    """`weights_sha256` over a module's parameters and buffers."""
    return weights_sha256([*module.named_parameters(), *module.named_buffers()])


# A convolution as a trace and as a script write it.
_CONVOLUTIONS = {
    "aten::_convolution": "%x,%w,%b,%stride,%padding,%dilation,%transposed,%outpad,%groups,%q,%r,%s,%t",
    "aten::conv2d": "%x,%w,%b,%stride,%padding,%dilation,%groups",
}


def optimise(module: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Fold the weights into the graph; on a CPU also channels last, and activations in place.

    Freezing alone leaves a small detector at twice the time. `torch.jit.optimize_for_inference` reaches
    half of this gain only, and its constants cannot leave the CPU.
    """
    # The fuser would compile again for new sizes, in the middle of a drive.
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


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: BaseException) -> str:
    """The line that says what went wrong, among TorchScript's call stack and source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if re.match(r"\w*(Error|Exception)\b.*: ", line)]
    return (reasons or lines or [type(error).__name__])[-1]
