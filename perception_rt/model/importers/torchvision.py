"""Import detection, classification and segmentation models of torchvision, with its weights or a `.pth`."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.bundle import ProgramSource
from perception_rt.model.decoders.classifier import Classifier
from perception_rt.model.decoders.semantic import AUXILIARY, Semantic
from perception_rt.model.importers.common import Imported, class_names, noise, sha256_of
from perception_rt.model.importers.onnx import check_names
from perception_rt.model.importers.reference import reference_answer
from perception_rt.model.importers.torchscript import DictOutput
from perception_rt.model.manifest import DecoderSpec
from perception_rt.model.specs import CROP, SHORTER, ImageSpec
from perception_rt.model.task import CLASSIFY, SEGMENT
from perception_rt.model.torchscript import module_bytes, script_module, trace_module
from perception_rt.types.errors import BundleError, first_line

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "ema", "net", "weights")
_OUT, _TRAINING = "out", f"{AUXILIARY}_classifier."  # of its segmentation models
PREFIXES = ("module.", "model.", "_orig_mod.")
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # of GoogLeNet and Inception-v3, for training alone
# Detectors whose published COCO_V1 is of a time when frozen batch normalisation had no epsilon.
_NO_EPSILON = (
    "fasterrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)
_TRANSFORMING = ("googlenet", "inception_v3")
_OLD_DENSE_NAME = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
# What trainers of OpenMMLab put beside the weights: logs and configurations.
INERT = ("mmengine.", "mmcv.", "numpy.", "getattr", "__builtin__.getattr")
MAX_INERT = 32
MAX_VIT_SIDE = 1792  # px: the places of so many patches are 84 MB of weights


class TorchvisionDetector(nn.Module):
    """Adapts a torchvision detection model to the call of bundles.

    The model itself resizes, normalises, decodes, runs NMS, and maps boxes back to the image.

    Args:
        model: any of `torchvision.models.detection`.
    """

    if TYPE_CHECKING:  # its thresholds lie where torch's stub knows no floats; TorchScript refuses Any here
        model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        thresholds: Any = model.roi_heads if hasattr(model, "roi_heads") else model
        self.score_threshold = float(thresholds.score_thresh)
        self.nms_threshold = float(thresholds.nms_thresh)

    def forward(
        self, images: Tensor, bgr: bool = False, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect objects; arguments and results are those of `perception_rt.model.bundle.save`."""
        score = self.score_threshold if score_threshold < 0 else score_threshold
        nms = self.nms_threshold if nms_threshold < 0 else nms_threshold
        if hasattr(self.model, "roi_heads"):
            self.model.roi_heads.score_thresh = score
            self.model.roi_heads.nms_thresh = nms
        else:
            self.model.score_thresh = score
            self.model.nms_thresh = nms
        planar = (images.flip(3) if bgr else images).permute(0, 3, 1, 2).contiguous().float().div_(255.0)
        if torch.jit.is_scripting():
            _, detections = self.model(list(planar.unbind(0)))
        else:
            detections = self.model(list(planar.unbind(0)))
        boxes = torch.cat([d["boxes"] for d in detections])
        scores = torch.cat([d["scores"] for d in detections])
        labels = torch.cat([d["labels"] for d in detections])
        counts = torch.tensor([d["scores"].shape[0] for d in detections], device=scores.device)
        index = torch.arange(len(detections), device=scores.device).repeat_interleave(counts)
        return boxes, scores, labels, index


def import_torchvision(
    name: str,
    weights: str | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Imported:
    """Build a detection, classification or semantic segmentation model of torchvision.

    Args:
        name: as torchvision's, e.g. ``fasterrcnn_mobilenet_v3_large_320_fpn``, ``resnet18`` or
            ``lraspp_mobilenet_v3_large``.
        weights: a local ``.pth`` state dict, or one of torchvision's own names (``DEFAULT``, ``COCO_V1``;
            downloaded by torchvision); None draws random weights from `seed`. GoogLeNet and Inception-v3 of a
            file convert their input as torchvision's own weights do (`transform_input`).
        classes: class names from label 0 (of all but a classifier: torchvision's background) on; None takes
            those of torchvision's weights, where they have as many classes.
        seed: of random weights.
        score_threshold: lowest score kept; None for torchvision's own.
        nms_threshold: IoU of NMS; None for torchvision's own.

    Raises:
        BundleError: the name is unknown, or the weights do not exist or do not fit.
    """
    import torchvision  # 1.7 s, and only export needs it

    models = torchvision.models
    names = _detectors(torchvision)
    is_classifier = name in models.list_models(module=models)
    segmenters = models.list_models(module=models.segmentation)
    if name not in (*names, *segmenters) and not is_classifier:
        raise BundleError(
            f"model={name!r}: not a torchvision detection model, classifier or segmentation model; those are "
            f"{', '.join((*names, *segmenters))} and its classifiers, as resnet18"
        )
    known = models.get_model_weights(name)
    provenance: dict[str, Any] = {"model": name, "torchvision": torchvision.__version__}
    coco = tuple(known.DEFAULT.meta["categories"])
    notes: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights in known.__members__:
            chosen = _own_names(classes, coco, str(weights))
            model = _download(torchvision, name, known[weights])
            provenance["weights"] = str(known[weights])
        elif weights is None:
            chosen = tuple(classes or coco)
            model = build_model(name, len(chosen))
            provenance["weights"] = f"random, seed {seed}"
            notes.append("weights: random; it is not trained")
        else:
            path = Path(weights)
            state = _state_for(name, read_state(path, list(known.__members__)), name in segmenters)
            options = _options_for(name, state)
            plain = build_model(name, len(coco), **options)
            if name in segmenters:
                chosen = _segment_names(_last_size(plain, state), classes, coco, path, notes)
            elif is_classifier:
                chosen = class_names(classes, None, _head_size(plain, state), notes, CLASSIFY.name)
            else:
                chosen = _names_for(_class_count(plain, state, len(coco)), classes, coco, path, notes)
            model = build_model(name, len(chosen), **options)
            fill(model, state, path)
            if name in _NO_EPSILON and _with_hash_of(known, weights) is known["COCO_V1"]:
                _remove_epsilon(model)
            provenance["weights"] = f"{path.name} sha256 {sha256_of(path)}"
    if name in segmenters or is_classifier:
        published = known[weights] if weights in known.__members__ else _with_hash_of(known, weights)
        transforms = _transforms(known, published, getattr(model, "image_size", None), notes)
        score = 0.0 if score_threshold is None else score_threshold
        if is_classifier:
            return imported_classifier(model, transforms, chosen, provenance, score, notes)
        return _segmenter(model.eval(), transforms, chosen, provenance, score, notes)
    return imported_detector(model, chosen, provenance, score_threshold, nms_threshold, notes)


def imported_detector(
    model: nn.Module,
    classes: tuple[str, ...],
    provenance: dict[str, Any],
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    notes: Sequence[str] = (),
) -> Imported:
    """Return a detection model with its weights; for the arguments see `Imported`."""
    module = TorchvisionDetector(model.eval())
    module.score_threshold = module.score_threshold if score_threshold is None else score_threshold
    module.nms_threshold = module.nms_threshold if nms_threshold is None else nms_threshold

    def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            found = module(torch.from_numpy(np.ascontiguousarray(image[None])), False, threshold, -1.0)
        boxes, scores, labels = (tensor.numpy() for tensor in found[:3])
        return boxes, scores, labels

    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    return Imported(
        classes,
        spec,
        provenance,
        module.score_threshold,
        module.nms_threshold,
        module=module,
        reference=reference,
        notes=list(notes),
    )


def _state_for(name: str, state: dict[str, Tensor], segments: bool) -> dict[str, Tensor]:
    """Return the weights that the model needs, by the names that it has for them."""
    if name.startswith("densenet"):  # torchvision's published files are older than its names
        state = {_OLD_DENSE_NAME.sub(r"\1\2", key): value for key, value in state.items()}
    unused = (_TRAINING,) if segments else _AUXILIARY_HEADS if name in _TRANSFORMING else ()
    return {key: value for key, value in state.items() if not key.startswith(unused)}


def _options_for(name: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of torchvision's builder that weights are for, besides their number of classes.

    A state dict does not tell whether GoogLeNet and Inception-v3 convert their input from ImageNet's
    normalisation to their own. Those made with `weights=`, and so the fine-tuned ones, do: it is assumed.
    """
    if name in _TRANSFORMING:
        return {"transform_input": True, "aux_logits": False, "init_weights": False}
    position = state.get("encoder.pos_embedding")
    if name.startswith("vit_") and position is not None and position.ndim == 3:
        patches = math.isqrt(max(position.shape[1] - 1, 1))  # along a side; one more is the class
        return {"image_size": min(patches * int(name.rpartition("_")[2]), MAX_VIT_SIDE)}
    return {}


def _remove_epsilon(model: nn.Module) -> None:
    """Do what torchvision's `overwrite_eps` does for frozen batch normalisation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0


def _with_hash_of(known: Any, path: str | None) -> Any:
    """Return the torchvision weights whose hash a file has; None where it is another file."""
    sha256 = "" if path is None else sha256_of(Path(path))
    named = (weights for weights in known if sha256.startswith(_hash_in_name(weights)))
    return next(named, None)


def _hash_in_name(weights: Any) -> str:
    return weights.url.rpartition("-")[2].partition(".")[0]


def _transforms(known: Any, published: Any, size: int | None, notes: list[str]) -> Any:
    """Return how torchvision prepares pictures.

    Args:
        known: the published weights of the model.
        published: those that it has; None for others.
        size: side of the picture that the model is built for, px; None for any.
        notes: gets a line where it is a guess.
    """
    if published is not None:
        return published.transforms()
    made = known.DEFAULT.transforms()
    if size is None or made.crop_size == [size]:
        notes.append(f"resize: as of {known.DEFAULT}")
        return made
    notes.append(f"resize: to {size} x {size}, which the weights are for; the rest as of {known.DEFAULT}")
    return known.DEFAULT.transforms(crop_size=size, resize_size=size)


def _head_size(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a classifier's weights, the size of its last bias."""
    bias = state.get(list(model.state_dict())[-1])
    return len(bias) if bias is not None and bias.ndim == 1 else None


def classifier_spec(transforms: Any) -> ImageSpec:
    """Return the resize, crop and normalisation that torchvision states for a classifier's weights."""
    (size,), (shorter,) = transforms.crop_size, transforms.resize_size
    return ImageSpec(
        (size, size),
        f"{CROP}_{max(shorter, size)}",
        "bicubic" if transforms.interpolation.value == "bicubic" else "antialias",
        "rgb",
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def imported_classifier(
    model: nn.Module,
    transforms: Any,
    classes: tuple[str, ...],
    provenance: dict[str, Any],
    score_threshold: float = 0.0,
    notes: Sequence[str] = (),
) -> Imported:
    """Return a classifier; `transforms` as for `classifier_spec`, the others as for `Imported`."""
    model, spec = model.eval(), classifier_spec(transforms)
    assert spec.size is not None
    # With a batch of two: a network that works for one alone fails here.
    traced = trace_module(_Logits(model), torch.from_numpy(noise((2, 3, *spec.size))))

    def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        def run(x: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [model(torch.from_numpy(x)).numpy()]

        return reference_answer(image, spec, run, Classifier(spec), threshold, 1.0)

    return Imported(
        classes,
        spec,
        provenance,
        score_threshold,
        Classifier.preset.nms_threshold,
        [ProgramSource("torchscript", module_bytes(traced), ("images",), ("logits",), any_batch=True)],
        DecoderSpec("classifier", {"softmax": True}),
        reference=reference,
        notes=list(notes),
        task=CLASSIFY.name,
    )


def _segmenter(
    model: nn.Module,
    transforms: Any,
    classes: tuple[str, ...],
    provenance: dict[str, Any],
    score_threshold: float,
    notes: list[str],
) -> Imported:
    """Return a segmentation model with the resize and normalisation of its torchvision weights."""
    check_names(classes, SEGMENT.name)
    (shorter,) = transforms.resize_size
    spec = ImageSpec(
        None,
        f"{SHORTER}_{shorter}",
        "antialias",
        "rgb",
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    if hasattr(model, "aux_classifier"):  # an output for training
        setattr(model, "aux_classifier", None)  # noqa: B010 - mypy takes it for a module
    scripted = script_module(DictOutput(model, _OUT))

    def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        def run(x: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [model(torch.from_numpy(x))[_OUT].numpy()]

        return reference_answer(image, spec, run, Semantic(spec), threshold, 1.0, classes=len(classes))

    return Imported(
        classes,
        spec,
        provenance,
        score_threshold,
        Semantic.preset.nms_threshold,
        [ProgramSource("torchscript", module_bytes(scripted), ("images",), (_OUT,), any_batch=True)],
        DecoderSpec("semantic", {"form": "logits"}),
        reference=reference,
        notes=notes,
        task=SEGMENT.name,
    )


class _Logits(nn.Module):
    """A classifier whose output is a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return (N, C) for (N, 3, h, w)."""
        return (self.model(images),)


def build_model(name: str, count: int, **options: Any) -> nn.Module:
    """Return a torchvision model with `count` classes and random weights; `options` are of its builder."""
    import torchvision

    segmenters = torchvision.models.list_models(module=torchvision.models.segmentation)
    backbone = {"weights_backbone": None} if name in (*_detectors(torchvision), *segmenters) else {}
    return torchvision.models.get_model(name, weights=None, num_classes=count, **backbone, **options)


def _detectors(torchvision: Any) -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.detection)


def _download(torchvision: Any, name: str, weights: Any) -> nn.Module:
    try:
        return torchvision.models.get_model(name, weights=weights)
    except OSError as error:  # URLError and its subclasses
        raise BundleError(f"weights={weights}: cannot be downloaded: {error}") from error


def _own_names(classes: Sequence[str] | None, coco: tuple[str, ...], weights: str) -> tuple[str, ...]:
    if classes is not None and len(classes) != len(coco):
        raise BundleError(f"classes: {len(classes)} names, but {weights} has {len(coco)} classes")
    return tuple(classes or coco)


def read_state(path: Path, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read the state dict of a `.pth` without its wrappers and prefixes. Nothing in the file is executed.

    Raises:
        BundleError: there is no file, or it is not a `.pth`, has a whole module, no tensors, or NaN weights.
    """
    if not path.is_file():
        raise BundleError(f"weights={str(path)!r}: neither a file nor one of {', '.join(names)}")
    return state_of(load_checkpoint(path), path)


def load_checkpoint(path: Path) -> Any:
    """Load what `torch.save` wrote without executing code; objects of `INERT` become empty ones.

    Raises:
        BundleError: there is no file, it is not a `.pth`, or it contains code.
    """
    what = f"weights={str(path)!r}"
    if not path.is_file():
        raise BundleError(f"{what}: no such file")
    _check_zip(path, what)
    inert: dict[str, type] = {}
    while True:
        try:
            # torch looks these names up in its allowlist and does not import them.
            known = torch.serialization.safe_globals(list(inert.values())) if inert else nullcontext()
            with known:  # since torch 2.5
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle fails in many ways
            if "weights_only" not in str(error) and "Unsupported" not in str(error):
                raise BundleError(f"{what}: do not fit: not a state dict: {first_line(error)}") from error
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            name = found.group(1) if found else ""
            if name in inert or len(inert) >= MAX_INERT or not name.startswith(INERT):
                kind = f" ({name})" if name else ""
                raise BundleError(
                    f"{what}: do not fit: holds more than weights{kind}, as a pickled module does, and was "
                    "not loaded: opening it would run its code; save model.state_dict() instead"
                ) from error
            module, _, last = name.rpartition(".")
            inert[name] = type(last, (_Inert,), {"__module__": module or "builtins"})


class _Inert:
    """A placeholder for an object of a training tool; it ignores its state."""

    def __new__(cls, *arguments: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def state_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the result of `load_checkpoint`; `path` is for errors.

    Raises:
        BundleError: it has no tensors, or NaN weights.
    """
    what = f"weights={str(path)!r}"
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    tensors = (
        {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not tensors:
        raise BundleError(f"{what}: do not fit: holds no state dict, but a {type(loaded).__name__}")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BundleError(f"{what}: {key} holds NaN or infinity")
    return tensors


def _check_zip(path: Path, what: str) -> None:
    """Raise BundleError for an archive that unpacks to more than its size, as torch does not compress."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            packed = sum(info.file_size for info in archive.infolist())
    except Exception as error:
        raise BundleError(f"{what}: do not fit: damaged: {first_line(error)}") from error
    if packed > 2 * path.stat().st_size + (1 << 20):
        raise BundleError(f"{what}: do not fit: unpacks to {packed} bytes, more than torch writes")


def _class_count(model: nn.Module, state: Mapping[str, Tensor], count: int) -> int | None:
    """Return the number of classes of weights, given `model` with `count` classes; None if unknown."""
    for key, own in model.state_dict().items():
        head = "cls_score" in key or "cls_logits" in key or "classification_head" in key
        if not head or not key.endswith("bias") or key not in state or own.shape[0] % count:
            continue
        each = own.shape[0] // count  # anchors of a cell
        if state[key].ndim == 1 and state[key].shape[0] % each == 0 and own.shape != state[key].shape:
            return state[key].shape[0] // each
        if own.shape == state[key].shape:
            return count
    return None


def _last_size(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a segmentation model's weights; None if unknown."""
    keys = [key for key in model.state_dict() if key.startswith("classifier.") and key.endswith("bias")]
    bias = state.get(keys[-1])
    return len(bias) if bias is not None and bias.ndim == 1 else None


def _segment_names(
    count: int | None, classes: Sequence[str] | None, voc: tuple[str, ...], path: Path, notes: list[str]
) -> tuple[str, ...]:
    if classes is not None or count == len(voc):
        if classes is None:
            notes.append(f"classes: the file names none: those of Pascal VOC are taken ({count})")
        elif count not in (None, len(classes)):
            raise BundleError(f"classes: {len(classes)} names, but {str(path)!r} has {count} classes")
        return tuple(classes or voc)
    raise BundleError(f"classes: {str(path)!r} has {count or 'an unknown number of'}: give --classes FILE")


def _names_for(
    count: int | None, classes: Sequence[str] | None, coco: tuple[str, ...], path: Path, notes: list[str]
) -> tuple[str, ...]:
    has = f"{str(path)!r} has {count} classes, the first of them the background"
    if classes is not None:
        if count is not None and len(classes) != count:
            raise BundleError(f"classes: {len(classes)} names, but {has}")
        return tuple(classes)
    if count not in (None, len(coco)):
        raise BundleError(f"classes: {has}: give --classes FILE")
    notes.append(f"classes: the file names none: COCO's {len(coco)} names are taken; give --classes FILE")
    return coco


def fill(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, name_of: Callable[[str], str] = str
) -> None:
    """Load weights into a model.

    Args:
        model: to fill.
        state: by their names in the file.
        path: for errors.
        name_of: maps the name of a parameter of `model` to that in the file.

    Raises:
        BundleError: weights are missing, unexpected or of another shape; the message names them.
    """
    own = {name_of(key): value for key, value in model.state_dict().items()}
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = [
        f"{len(found)} {word} ({_some(found)})"
        for word, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if found
    ]
    if parts:
        raise BundleError(f"weights={str(path)!r}: do not fit: {'; '.join(parts)}")
    named = {key: state[name_of(key)] for key in model.state_dict() if name_of(key) in state}
    model.load_state_dict(named, strict=False)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ..."
