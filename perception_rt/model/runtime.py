"""Run a bundle on a device."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.archive import Archive, read_archive
from perception_rt.model.class_thresholds import lowest_scores
from perception_rt.model.engine import Choice, Engine, EngineOptions, engine_names, find_engine
from perception_rt.model.golden import Outputs, golden_difference, read_golden
from perception_rt.model.manifest import Program
from perception_rt.model.network import CloudNetwork, ImageNetwork, Images
from perception_rt.model.task import TASKS
from perception_rt.model.torchscript import MODULE_ERRORS, load_module, module_sha256, optimise, reason
from perception_rt.model.zoo import ZOO, zoo_bundle
from perception_rt.types.errors import BundleError, ConfigError, ModelError

SHIPPED = Path(__file__).parents[1] / "bundles"
BRIGHTEST = {"unit": 1.0, "byte": 255.0}  # by `CloudSpec.intensity`

# Frames are read-only views into messages; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def resolve_bundle(path_or_name: str | Path) -> Path:
    """Return the file of a bundle; a bare name (no suffix, no slash) is a shipped or downloaded one."""
    path = Path(path_or_name)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return path
    shipped = SHIPPED / f"{path}.pt"
    if shipped.is_file():
        return shipped
    if (downloaded := zoo_bundle(str(path))) is not None:
        return downloaded
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.pt"))) or "none"
    raise BundleError(
        f"{path_or_name}: no such file, nor a shipped bundle ({names}), nor one that "
        f"`perception-rt bundle get` downloaded ({', '.join(ZOO)})"
    )


def resolve_device(device: str) -> torch.device:
    """Return the torch device for ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BundleError: the device is invalid or not available.
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
    """A bundle, loaded and checked; `open` returns the subclass for the bundle's task.

    One thread should load, warm up and call it: torch's parallel operators slow down by half when two
    threads share them. Opening a bundle runs its code: open only bundles from sources you trust.

    Attributes:
        manifest: the manifest of the bundle.
        device: where it runs.
        half: whether the network runs in fp16.
        source: the argument of `open`; empty if created otherwise.
        choice: which engine runs which program, and why.
        batch_share: time of a batch as a share of the time of its parts one by one; 1 until it is measured.
        class_thresholds: (C,) lowest score of each class: NaN to use `score_threshold`, infinity for an
            unwanted class. May be replaced at any time; a call uses the value at its start.
        calibration: of the scores; None returns those of the network.
        has_boxes: whether it answers boxes of objects.
        extras: by name, more values of each box of the last output: ``keypoints`` (K, P, 3), x y in px
            of the image and visibility; ``theta`` (K,) rad.
    """

    def __init__(self, archive: Archive, choice: Choice, device: torch.device, half: bool) -> None:
        self.manifest = archive.manifest
        self.source = ""
        self.device = device
        self.half = half
        self.choice = choice
        self.batch_share = 1.0
        self._archive = archive
        self._detect = self._load(archive, choice)
        self.class_thresholds = self.thresholds_of({}, ())
        self.calibration = archive.manifest.calibration
        self.extras: dict[str, np.ndarray] = {}

    def thresholds_of(self, thresholds: Mapping[str, float], wanted: Sequence[str]) -> np.ndarray:
        """Return values for `class_thresholds`: the bundle's own with changes.

        Args:
            thresholds: lowest scores by class name, where they differ from the bundle's.
            wanted: class names; empty for those that the bundle keeps.

        Raises:
            ConfigError: a name is not a class of the bundle.
        """
        manifest = self.manifest
        own = {**manifest.score_thresholds, **thresholds}
        return lowest_scores(manifest.classes, own, wanted or manifest.classes_keep)

    @property
    def sha256(self) -> str:
        """The hash of the bundle (format 1: of its weights), 64 hex digits."""
        return self.manifest.sha256

    @staticmethod
    def open(
        path_or_name: str | Path,
        device: str = "auto",
        half: bool = False,
        threads: int | None = None,
        engine: str = "auto",
    ) -> Any:
        """Load a bundle, verify its hash and golden output, and choose an engine.

        Args:
            path_or_name: a file, or the bare name of a shipped bundle.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            half: run the network in fp16 (CUDA only).
            threads: CPU threads at most; None leaves torch's.
            engine: one of `perception_rt.model.engine.engine_names`, or ``auto``: the fastest that reproduces
                the golden output in a short trial, whose result is stored in the user's cache folder.

        Returns:
            An `ImageRuntime`, a `ClassifierRuntime` or a `CloudRuntime`, by the task of the bundle.

        Raises:
            BundleError: the bundle or the device cannot be used; the message is one line.
            ConfigError: `half` on a CPU, `threads` below 1, an unknown engine.
        """
        from perception_rt.model.choice import choose

        if threads is not None and threads < 1:
            raise ConfigError(f"threads={threads}: must be >= 1")
        target = resolve_device(device)
        if half and target.type != "cuda":
            raise ConfigError(f"half={half}: fp16 needs a CUDA device, this is {target}")
        archive = read_archive(resolve_bundle(path_or_name))
        options = EngineOptions(str(target), half, threads or torch.get_num_threads())
        runtime = choose(archive, engine, options)
        torch.set_num_threads(runtime.choice.torch_threads)
        runtime.source = str(path_or_name)
        return runtime

    def check_golden(self, path: str | Path = "") -> None:
        """Run the golden input and compare the output.

        Raises:
            BundleError: the output differs from the manifest's.
        """
        golden = self.manifest.golden
        try:
            outputs = self.golden_outputs(read_golden(golden, self._archive.members))
        except ModelError as error:
            raise BundleError(f"{path}: golden input failed: {error}") from error
        precision = self.choice.program.precision
        difference = golden_difference(
            golden, outputs, "fp16" if self.half and precision == "fp32" else precision
        )
        if difference:
            raise BundleError(f"{path}: golden mismatch on {self.device}: {difference}")

    def golden_outputs(self, data: np.ndarray) -> Outputs:
        """Return the output for the golden input, without class thresholds and calibration."""
        saved = self.class_thresholds, self.calibration
        self.class_thresholds, self.calibration = np.full(len(self.manifest.classes), np.nan), None
        try:
            return self(data, score_threshold=self.manifest.golden.score_threshold)
        finally:
            self.class_thresholds, self.calibration = saved

    def __call__(self, *frames: Any, **options: Any) -> Any:
        """Detect objects; see the subclasses."""
        raise NotImplementedError

    has_boxes = True
    COLUMNS: ClassVar[tuple[str, ...]]
    """What the network answers of each box."""

    def _network(self, archive: Archive, choice: Choice, engine: Engine) -> Any:
        """Return the network with the processing steps of this task."""
        raise NotImplementedError

    def _load(self, archive: Archive, choice: Choice) -> Any:
        program, data = choice.program, archive.members[choice.program.file]
        if archive.manifest.decoder is None:
            return ContractModule(archive, program, self.device, self.half)
        engine = find_engine(choice.engine)(program, data, choice.options)
        return self._network(archive, choice, engine)

    def _run(self, data: Images, bgr: tuple[bool, ...], score: float | None, nms: float | None) -> Any:
        """Return the network's output on the host, after applying the class thresholds.

        Raises:
            ModelError: the network failed, for example with CUDA out of memory.
        """
        wanted = self.manifest.score_threshold if score is None else float(score)
        own = self.class_thresholds
        least = np.where(np.isnan(own), wanted, own).astype(np.float32)
        lowest, raw, calibration = min(wanted, float(least.min())), least, self.calibration
        if calibration is not None:  # a little lower: rounding must not drop anything that passes below
            lowest = max(0.0, float(calibration.inverse(np.float64(lowest))) - 1e-6)
            raw = (calibration.inverse(least) - 1e-6).astype(np.float32)
        try:
            found = self._detect(data, *bgr, lowest, -1.0 if nms is None else float(nms), least=raw)
            columns, extras = _checked(found, self.COLUMNS, TASKS[self.manifest.task].box_columns)
        except ModelError as error:
            raise ModelError(f"{self.manifest.name} on {self.device}: {error}") from error
        except MODULE_ERRORS as error:
            raise ModelError(f"{self.manifest.name} on {self.device}: {reason(error)}") from error
        answer = _on_host(columns)
        self.extras = {name: value.cpu().numpy() for name, value in extras.items()}
        if calibration is not None:
            answer[1][:] = calibration(answer[1])
        elif np.isnan(own).all():
            return answer
        kept = answer[1] >= least[np.clip(answer[2], 0, least.size - 1)]
        self.extras = {name: value[kept] for name, value in self.extras.items()}
        return tuple(column[kept] for column in answer)


class ContractModule:
    """A TorchScript module that maps sensor data to boxes."""

    together = True  # it takes a batch of images

    def __init__(self, archive: Archive, program: Program, device: torch.device, half: bool) -> None:
        self._device, self._half = device, half
        path, manifest = archive.path, archive.manifest
        module = load_module(archive.members[program.file], device, str(path))
        if manifest.schema_version == 1 and (sha256 := module_sha256(module)) != manifest.sha256:
            raise BundleError(
                f"{path}: weights have sha256={sha256[:12]}..., manifest {manifest.sha256[:12]}..."
            )
        for name in ("score_threshold", "nms_threshold"):
            mine, theirs = getattr(manifest, name), getattr(module, name, None)
            if mine != theirs and not (manifest.calibration and name == "score_threshold"):
                raise BundleError(f"{path}: {name}={mine} in the manifest, {theirs} in the module")
        try:
            self._module = optimise(module, device)
        except RuntimeError as error:  # damaged code, or too little memory
            raise BundleError(f"{path}: cannot be made ready on {device}: {reason(error)}") from error

    @torch.inference_mode()
    def __call__(self, data: torch.Tensor, *options: bool | float, least: np.ndarray) -> Any:
        """Return the output of the module, on the device; the caller applies `least`."""
        if self._device.type == "cuda":
            data = data.pin_memory().to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, torch.float16, enabled=self._half):
            return self._module(data, *options)


def open_archive(
    archive: Archive,
    device: torch.device,
    half: bool,
    threads: int,
    program: Program,
    engine: str | None = None,
) -> Any:
    """Return a runtime of one program of a bundle without checking the golden output.

    Args:
        archive: the bundle.
        device: where to run.
        half: in fp16.
        threads: CPU threads.
        program: one of the bundle's.
        engine: name of the engine; None for the first that can run the program.

    Raises:
        BundleError: no engine can run it.
    """
    options = EngineOptions(str(device), half, threads)
    name = engine or first_engine(program, options)
    return _runtime(archive, Choice(name, program, options), device, half)


def first_engine(program: Program, options: EngineOptions) -> str:
    """Return the first engine that can run `program` on this machine.

    Raises:
        BundleError: no engine can run it.
    """
    reasons = []
    for name in engine_names():
        kind = find_engine(name)
        if program.kind not in kind.KINDS:
            continue
        if (why := kind.available(options)) is None:
            return name
        reasons.append(f"{name}: {why}")
    raise BundleError(
        f"{program.file}: no engine here runs {program.kind} ({'; '.join(reasons) or 'none known'})"
    )


def _runtime(archive: Archive, choice: Choice, device: torch.device, half: bool) -> Any:
    return TASKS[archive.manifest.task].runtime_class()(archive, choice, device, half)


class ImageRuntime(Runtime):
    """Runs a bundle of task `detect2d`."""

    COLUMNS = ("boxes", "scores", "labels", "image_index")

    def _network(self, archive: Archive, choice: Choice, engine: Engine) -> ImageNetwork:
        return ImageNetwork(archive, choice.program, engine, self.device)

    def warmup(self, sizes: list[tuple[int, int]], batch: int = 1) -> float:
        """Run zeros of each (height, width), so that the first frame is as fast as the others.

        Returns:
            The lowest processor time for an image of the last size, ms.
        """
        cpu_ms = 0.0
        for height, width in sizes:
            zeros = np.zeros((batch, height, width, 3), np.uint8)
            cpu_ms = _cpu_ms(lambda: self(zeros)) / batch  # noqa: B023 - called at once
        return cpu_ms

    def measure_batch(self, size: tuple[int, int], count: int, runs: int = 5) -> float:
        """Return the time of `count` images at once as a share of the time one by one; warm up before.

        Args:
            size: height and width. count: of images. runs: of each, in turns; the shortest counts.
        """
        if count == 1 or not self._detect.together:
            return 1.0
        zeros = np.zeros((count, *size, 3), np.uint8)
        alone, at_once = [], []
        for _ in range(runs):
            began = time.perf_counter()
            for image in zeros:
                self(image[None])
            between = time.perf_counter()
            self(zeros)
            alone.append(between - began)
            at_once.append(time.perf_counter() - between)
        return min(at_once) / min(alone)

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
            nms_threshold: IoU above which the weaker box of a class is removed; None takes the bundle's own.

        Returns:
            boxes (K, 4) float32 xyxy in px of the images, scores (K,) float32, labels (K,) int64,
            image_index (K,) int64; by image, best score first.

        Raises:
            ModelError: the input is invalid or the network failed, for example with CUDA out of memory.
        """
        batch = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape[1:]:
            raise ModelError(f"images must be (N, H, W, 3) uint8, got {tuple(batch.shape)} {batch.dtype}")
        if len(batch) == 0:
            return _unpack(np.zeros((0, 7), np.float32), 4)
        return self._run(batch, (bgr,), score_threshold, nms_threshold)


class ClassifierRuntime(ImageRuntime):
    """Runs a bundle of task `classify`: a row for each class; the box is the visible part of the image."""

    has_boxes = False

    def _load(self, archive: Archive, choice: Choice) -> Any:
        if archive.manifest.decoder is None:
            raise BundleError(f"{archive.path}: decoder=None: a classifier needs one")
        return super()._load(archive, choice)

    def __call__(
        self,
        images: torch.Tensor | np.ndarray | list[torch.Tensor],
        bgr: bool = False,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ) -> Outputs:
        """See `ImageRuntime`; also takes a list of images (1, H, W, 3) of any sizes as one batch."""
        if not isinstance(images, list):
            return super().__call__(images, bgr, score_threshold, nms_threshold)
        return self._run(images, (bgr,), score_threshold, nms_threshold)


class CloudRuntime(Runtime):
    """Runs a bundle of task `detect3d`."""

    COLUMNS = ("boxes", "scores", "labels")

    def _network(self, archive: Archive, choice: Choice, engine: Engine) -> CloudNetwork:
        return CloudNetwork(archive, choice.program, engine, self.device)

    def warmup(self) -> float:
        """Run the golden cloud, so that the first frame is as fast as the others.

        Returns:
            The lowest processor time for the cloud, ms.
        """
        cloud = read_golden(self.manifest.golden, self._archive.members)
        return _cpu_ms(lambda: self(cloud))

    def __call__(
        self,
        points: torch.Tensor | np.ndarray,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detect objects in one cloud.

        Args:
            points: (N, 4) float32 x y z intensity in the sensor's frame, finite, on the host; may be
                read-only. Intensities of 0 to 1 or 0 to 255 are brought to the scale of the bundle. (N, 5)
                with the age of each point's sweep in s, if the bundle takes it; otherwise the cloud is one
                sweep.
            score_threshold: lowest score kept; None takes the bundle's own.
            nms_threshold: footprint IoU above which the weaker box is removed; None takes the bundle's own.

        Returns:
            boxes (K, 7) float32 xyzlwh_yaw in the sensor's frame, scores (K,) float32, labels (K,) int64;
            best score first.

        Raises:
            ModelError: the input is invalid or the network failed, for example with CUDA out of memory.
        """
        cloud = torch.from_numpy(points) if isinstance(points, np.ndarray) else points
        widths = (4, 5) if getattr(self.manifest.input, "ages", False) else (4,)
        if cloud.dtype != torch.float32 or cloud.ndim != 2 or cloud.shape[1] not in widths:
            raise ModelError(f"points must be (N, 4) float32, got {tuple(cloud.shape)} {cloud.dtype}")
        kind = getattr(self.manifest.input, "intensity", "unused")
        return self._run(scale_intensity(cloud, kind), (), score_threshold, nms_threshold)


def scale_intensity(points: Tensor, kind: str) -> Tensor:
    """Bring intensities of 0 to 1 or 0 to 255 to the scale of a bundle.

    Drivers send either scale, and a network finds nothing in clouds of the other one. A cloud with a value
    above 1 has the scale 0 to 255.

    Args:
        points: (N, 4 or more) float32, the fourth column the intensity; not changed.
        kind: as of `CloudSpec.intensity`.

    Returns:
        The points, or a copy where the scale differs.
    """
    if kind not in BRIGHTEST or not len(points):
        return points
    sent = 1.0 if points[:, 3].max() <= 1 else 255.0
    if sent == BRIGHTEST[kind]:
        return points
    points = points.clone()
    points[:, 3] = (points[:, 3] * (BRIGHTEST[kind] / sent)).clamp(max=BRIGHTEST[kind])
    return points


def _checked(found: Any, names: Sequence[str], box_columns: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the output tensors of a network, named by `names`, and the extra values of each box.

    Raises:
        ModelError: other tensors, or not one row for each box.
    """
    values = list(found) if isinstance(found, tuple | list) else [found]
    extras = values.pop() if values and isinstance(values[-1], dict) else {}
    if len(values) != len(names) or not all(isinstance(value, Tensor) for value in values):
        kinds = ", ".join(type(value).__name__ for value in values) or "nothing"
        raise ModelError(f"it answers {kinds}: must be {len(names)} tensors, {', '.join(names)}")
    count = len(values[0]) if values[0].ndim else 0
    for name, value in zip(names, values, strict=True):
        shape = (count, box_columns) if name == "boxes" else (count,)
        if value.shape != shape:
            raise ModelError(f"{name} are {tuple(value.shape)}: must be {shape}")
    return values, extras


def _on_host(columns: list[Tensor]) -> tuple[np.ndarray, ...]:
    """Return boxes and scores as float32 and the others as int64, not shared with the network."""
    boxes, *others = columns
    if boxes.device.type == "cpu":
        kinds = (np.float32, np.float32, *(np.int64 for _ in others[1:]))
        return tuple(np.array(column.numpy(), kind) for column, kind in zip(columns, kinds, strict=True))
    # One tensor, so one copy to the host; float32 holds every integer below 2**24.
    packed = torch.cat([boxes.float(), *(column[:, None].float() for column in others)], dim=1).cpu()
    return _unpack(packed.numpy(), boxes.shape[1])


def _unpack(rows: np.ndarray, box_columns: int) -> tuple[np.ndarray, ...]:
    """Return boxes, scores and the integer columns of packed rows."""
    boxes, scores = rows[:, :box_columns], rows[:, box_columns]
    whole = (rows[:, column].astype(np.int64) for column in range(box_columns + 1, rows.shape[1]))
    return np.ascontiguousarray(boxes), np.ascontiguousarray(scores), *whole


def _cpu_ms(run: Callable[[], object]) -> float:
    """Return the least processor time of three runs, of all threads, ms."""
    took = []
    for _ in range(3):
        began = time.process_time_ns()
        run()
        took.append(time.process_time_ns() - began)
    return min(took) / 1e6
