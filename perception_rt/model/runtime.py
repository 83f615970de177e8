"""Run a bundle on a device; the only module that knows TorchScript."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from importlib import util
from pathlib import Path

import numpy as np
import torch

from perception_rt.model.golden import Outputs, golden_difference, golden_input, weights_sha256
from perception_rt.model.manifest import Manifest, parse_manifest
from perception_rt.types.errors import BundleError, ConfigError, ModelError

MANIFEST_FILE = "manifest.json"
SHIPPED = Path(__file__).parents[1] / "bundles"

# Images are views into messages, which nobody may write to; nobody here does.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
# TorchScript is deprecated upstream; users of a bundle can do nothing about it.
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=r".*always returns a \(Losses, Detections\) tuple")


# --- TorchScript -------------------------------------------------------------------------------------


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


# --- Runtime -----------------------------------------------------------------------------------------


def resolve_bundle(path_or_name: str | Path) -> Path:
    """The file of a bundle; a bare name (no suffix, no slash) is one that this package ships."""
    path = Path(path_or_name)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return path
    shipped = SHIPPED / f"{path}.pt"
    if not shipped.is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.pt"))) or "none"
        raise BundleError(f"{path_or_name}: no such file, nor a shipped bundle (shipped: {names})")
    return shipped


def resolve_device(device: str) -> torch.device:
    """The torch device for ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BundleError: where the device is not one, or absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise BundleError(f"device={device!r}: must be auto, cpu, cuda or cuda:N") from error
    if resolved.type not in ("cpu", "cuda"):
        raise BundleError(f"device={device!r}: must be auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        raise BundleError(f"device={device!r}: absent ({count} CUDA devices here)")
    return resolved


class Runtime:
    """A bundle, loaded, checked and ready to run.

    One thread should load, warm up and call it: torch's parallel operators slow down by half when two
    threads share them. A bundle is a program: open only those whose source you trust.

    Attributes:
        manifest: what the bundle says of itself.
        device: where it runs.
        half: whether the network runs in fp16.
    """

    def __init__(
        self, module: torch.jit.ScriptModule, manifest: Manifest, device: torch.device, half: bool
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.half = half
        self._module = module

    @property
    def sha256(self) -> str:
        """Of the weights, 64 hex digits."""
        return self.manifest.sha256

    @classmethod
    def open(
        cls, path_or_name: str | Path, device: str = "auto", half: bool = False, threads: int | None = None
    ) -> Runtime:
        """Load a bundle, hold it to its hash and its golden answer, and optimise it.

        Args:
            path_or_name: a file, or the bare name of a shipped bundle.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            half: run the network in fp16 (CUDA only).
            threads: CPU threads of torch, for the whole process; None leaves them.

        Raises:
            BundleError: one line that says why the bundle or the device cannot be used.
            ConfigError: `half` on a CPU, `threads` below 1.
        """
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads={threads}: must be >= 1")
            torch.set_num_threads(threads)
        target = resolve_device(device)
        if half and target.type != "cuda":
            raise ConfigError(f"half={half}: fp16 needs a CUDA device, this is {target}")
        path = resolve_bundle(path_or_name)
        module, manifest = read_archive(path, target)
        try:
            optimised = optimise(module, target)
        except RuntimeError as error:  # damaged code, or too little memory
            raise BundleError(f"{path}: cannot be made ready on {target}: {_reason(error)}") from error
        runtime = cls(optimised, manifest, target, half)
        runtime.check_golden(path)
        return runtime

    def check_golden(self, path: str | Path = "") -> None:
        """Run the golden input.

        Raises:
            BundleError: where the answer is not the manifest's.
        """
        golden = self.manifest.golden
        try:
            outputs = self(golden_input(golden.seed, golden.shape), score_threshold=0.0)
        except ModelError as error:
            raise BundleError(f"{path}: golden input failed: {error}") from error
        difference = golden_difference(golden, outputs, self.half)
        if difference:
            raise BundleError(f"{path}: golden mismatch on {self.device}: {difference}")

    def warmup(self, sizes: list[tuple[int, int]], batch: int = 1, runs: int = 3) -> None:
        """Run zeros of each (height, width), so that the first frame is not slower than the others."""
        for height, width in sizes:
            zeros = np.zeros((batch, height, width, 3), np.uint8)
            for _ in range(runs):
                self(zeros)

    def __call__(
        self,
        images: torch.Tensor | np.ndarray,
        bgr: bool = False,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ) -> Outputs:
        """Detect objects in a batch of equally sized images.

        Args:
            images: (N, H, W, 3) uint8, on the host; may be read-only and strided.
            bgr: channel order of `images`.
            score_threshold: lowest score kept; None takes the bundle's own.
            nms_threshold: IoU above which the weaker box of a class goes; None takes the bundle's own.

        Returns:
            boxes (K, 4) float32 xyxy in px of the images, scores (K,) float32, labels (K,) int64,
            image_index (K,) int64; by image, best score first.

        Raises:
            ModelError: wrong input, or whatever went wrong inside, CUDA out of memory included.
        """
        batch = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape[1:]:
            raise ModelError(f"images must be (N, H, W, 3) uint8, got {tuple(batch.shape)} {batch.dtype}")
        if len(batch) == 0:
            return _to_outputs(torch.zeros(0, 7))
        score = -1.0 if score_threshold is None else float(score_threshold)
        nms = -1.0 if nms_threshold is None else float(nms_threshold)
        try:
            return self._run(batch, bgr, score, nms)
        except (RuntimeError, torch.jit.Error, IndexError) as error:  # out of memory is a RuntimeError
            raise ModelError(f"{self.manifest.name} on {self.device}: {_reason(error)}") from error

    @torch.inference_mode()
    def _run(self, batch: torch.Tensor, bgr: bool, score: float, nms: float) -> Outputs:
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            boxes, scores, labels, image_index = self._module(batch, bgr, score, nms)
        columns = [scores[:, None], labels[:, None], image_index[:, None]]
        # One tensor, so one copy to the host; float32 holds every integer below 2**24.
        return _to_outputs(torch.cat([boxes.float(), *(c.float() for c in columns)], dim=1).cpu())


def _to_outputs(packed: torch.Tensor) -> Outputs:
    rows = packed.numpy()
    return (
        np.ascontiguousarray(rows[:, :4]),
        np.ascontiguousarray(rows[:, 4]),
        rows[:, 5].astype(np.int64),
        rows[:, 6].astype(np.int64),
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _reason(error: BaseException) -> str:
    """The line that says what went wrong, among TorchScript's call stack and source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if re.match(r"\w*(Error|Exception)\b.*: ", line)]
    return (reasons or lines or [type(error).__name__])[-1]
