"""Run a bundle on a device."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_rt.model.archive import MODULE_ERRORS, optimise, read_archive, reason
from perception_rt.model.golden import Outputs, golden_difference, golden_input
from perception_rt.model.manifest import Manifest
from perception_rt.types.errors import BundleError, ConfigError, ModelError

SHIPPED = Path(__file__).parents[1] / "bundles"

# Frames are views into messages, which nobody may write to; nobody here does.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


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
    """A bundle, loaded, checked and ready to run; `open` gives the one that fits the bundle's task.

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

    @staticmethod
    def open(
        path_or_name: str | Path, device: str = "auto", half: bool = False, threads: int | None = None
    ) -> Any:
        """Load a bundle, hold it to its hash and its golden answer, and optimise it.

        Args:
            path_or_name: a file, or the bare name of a shipped bundle.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            half: run the network in fp16 (CUDA only).
            threads: CPU threads of torch, for the whole process; None leaves them.

        Returns:
            An `ImageRuntime` or a `CloudRuntime`, by the task of the bundle.

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
            raise BundleError(f"{path}: cannot be made ready on {target}: {reason(error)}") from error
        runtime = _RUNTIMES[manifest.task](optimised, manifest, target, half)
        runtime.check_golden(path)
        return runtime

    def check_golden(self, path: str | Path = "") -> None:
        """Run the golden input.

        Raises:
            BundleError: where the answer is not the manifest's.
        """
        golden = self.manifest.golden
        try:
            outputs = self._golden_outputs(golden_input(golden.seed, golden.shape))
        except ModelError as error:
            raise BundleError(f"{path}: golden input failed: {error}") from error
        difference = golden_difference(golden, outputs, self.half)
        if difference:
            raise BundleError(f"{path}: golden mismatch on {self.device}: {difference}")

    def _golden_outputs(self, data: np.ndarray) -> Outputs:
        return self(data, score_threshold=0.0)

    def __call__(self, frames: torch.Tensor | np.ndarray, **options: Any) -> Any:
        """Detect objects, or refine paths; see the subclasses."""
        raise NotImplementedError

    def _run(self, data: torch.Tensor, *options: bool | float) -> Any:
        """What the module answers, on the host.

        Raises:
            ModelError: whatever went wrong inside, CUDA out of memory included.
        """
        try:
            return self._run_module(data, options)
        except MODULE_ERRORS as error:
            raise ModelError(f"{self.manifest.name} on {self.device}: {reason(error)}") from error

    @torch.inference_mode()
    def _run_module(self, data: torch.Tensor, options: tuple[bool | float, ...]) -> tuple[np.ndarray, ...]:
        boxes, *columns = self._answer(data, *options)
        # One tensor, so one copy to the host; float32 holds every integer below 2**24.
        packed = torch.cat([boxes.float(), *(column[:, None].float() for column in columns)], dim=1).cpu()
        return _unpack(packed.numpy(), boxes.shape[1])

    def _answer(self, data: torch.Tensor, *options: bool | float) -> Any:
        """What the module returns, on the device."""
        if self.device.type == "cuda":
            data = data.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            return self._module(data, *options)


class ImageRuntime(Runtime):
    """Runs a bundle of task `detect2d`."""

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
            return _unpack(np.zeros((0, 7), np.float32), 4)
        return self._run(batch, bgr, _option(score_threshold), _option(nms_threshold))


class CloudRuntime(Runtime):
    """Runs a bundle of task `detect3d`."""

    def warmup(self, runs: int = 3) -> None:
        """Run the golden cloud, so that the first frame is not slower than the others."""
        cloud = golden_input(self.manifest.golden.seed, self.manifest.golden.shape)
        for _ in range(runs):
            self(cloud)

    def __call__(
        self,
        points: torch.Tensor | np.ndarray,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detect objects in one cloud.

        Args:
            points: (N, 4) float32 x y z intensity in the sensor's frame, finite, on the host; may be
                read-only.
            score_threshold: lowest score kept; None takes the bundle's own.
            nms_threshold: footprint IoU above which the weaker box goes; None takes the bundle's own.

        Returns:
            boxes (K, 7) float32 xyzlwh_yaw in the sensor's frame, scores (K,) float32, labels (K,) int64;
            best score first.

        Raises:
            ModelError: wrong input, or whatever went wrong inside, CUDA out of memory included.
        """
        cloud = torch.from_numpy(points) if isinstance(points, np.ndarray) else points
        if cloud.dtype != torch.float32 or cloud.ndim != 2 or cloud.shape[1] != 4:
            raise ModelError(f"points must be (N, 4) float32, got {tuple(cloud.shape)} {cloud.dtype}")
        return self._run(cloud, _option(score_threshold), _option(nms_threshold))


_RUNTIMES = {"detect2d": ImageRuntime, "detect3d": CloudRuntime}


def _option(value: float | None) -> float:
    """A threshold as the modules take it: negative for their own."""
    return -1.0 if value is None else float(value)


def _unpack(rows: np.ndarray, box_columns: int) -> tuple[np.ndarray, ...]:
    """Boxes, scores and the integer columns of packed rows."""
    boxes, scores = rows[:, :box_columns], rows[:, box_columns]
    whole = (rows[:, column].astype(np.int64) for column in range(box_columns + 1, rows.shape[1]))
    return np.ascontiguousarray(boxes), np.ascontiguousarray(scores), *whole
