"""Make a detector for a bundle: from a torchvision model, an ONNX file, or the parameters of geometry."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception_rt.model.bev_cluster import CLASSES, BevCluster
from perception_rt.model.decoders import DECODERS
from perception_rt.model.detector import BundleDetector
from perception_rt.model.manifest import CloudSpec, ImageSpec
from perception_rt.model.onnx_network import convert_onnx, listed_network
from perception_rt.model.preprocess import Preprocess
from perception_rt.types.errors import BundleError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Imported:
    """A detector and what its manifest needs: the arguments of `perception_rt.model.bundle.save`.

    Attributes:
        module: the detector, ready to script.
        classes: class names, by label.
        input_spec: how images reach the network, or what clouds it takes.
        provenance: where the weights come from.
    """

    module: nn.Module
    classes: tuple[str, ...]
    input_spec: ImageSpec | CloudSpec
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """What the networks of one family expect, so that naming the decoder is enough."""

    resize: str
    filter: str
    order: str
    score_threshold: float
    nms_threshold: float
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


PRESETS = {
    "yolov5": Preset("letterbox", "bilinear", "rgb", 0.25, 0.45),
    "yolov8": Preset("letterbox", "bilinear", "rgb", 0.25, 0.7),
    "detr": Preset("stretch", "bilinear", "rgb", 0.7, 1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "fastestdet": Preset("stretch", "area", "bgr", 0.3, 0.45),
}

# fmt: off
COCO80 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)
# fmt: on


# --- torchvision ---------------------------------------------------------------------------------------


class TorchvisionDetector(nn.Module):
    """A torchvision detection model behind the bundle's call.

    The model resizes, normalises, decodes and suppresses by itself, and maps boxes back to the image.

    Args:
        model: any of `torchvision.models.detection`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        thresholds = model.roi_heads if hasattr(model, "roi_heads") else model
        self.score_threshold = float(thresholds.score_thresh)
        self.nms_threshold = float(thresholds.nms_thresh)

    def forward(
        self, images: Tensor, bgr: bool = False, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect objects; arguments and results are those of `BundleDetector.forward`."""
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
    name: str, weights: str | None = None, classes: Sequence[str] | None = None, seed: int = 0
) -> Imported:
    """Build a torchvision detection model.

    Args:
        name: as torchvision's, e.g. ``fasterrcnn_mobilenet_v3_large_320_fpn``.
        weights: a local ``.pth`` state dict, or one of torchvision's own names (``DEFAULT``, ``COCO_V1``;
            downloaded by torchvision); None draws random weights from `seed`.
        classes: class names from label 0 (torchvision's background) on; None takes torchvision's COCO names.
        seed: of random weights.

    Raises:
        BundleError: an unknown name, weights that are not there or do not fit.
    """
    import torchvision  # 1.7 s, and only export needs it

    names = torchvision.models.list_models(module=torchvision.models.detection)
    if name not in names:
        raise BundleError(f"model={name!r}: not a torchvision detection model; those are {', '.join(names)}")
    known = torchvision.models.get_model_weights(name)
    provenance: dict[str, Any] = {"model": name, "torchvision": torchvision.__version__}
    coco = known.DEFAULT.meta["categories"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights in known.__members__:
            if classes is not None and len(classes) != len(coco):
                raise BundleError(f"classes: {len(classes)} names, but {weights} has {len(coco)} classes")
            model = _download(torchvision, name, known[weights])
            provenance["weights"] = str(known[weights])
        else:
            names = tuple(classes or coco)
            model = torchvision.models.get_model(
                name, weights=None, weights_backbone=None, num_classes=len(names)
            )
            provenance["weights"] = f"random, seed {seed}"
            if weights is not None:
                provenance["weights"] = _load_state(model, Path(weights), list(known.__members__))
    module = TorchvisionDetector(model.eval())
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    return Imported(module, tuple(classes or coco), spec, provenance)


def _download(torchvision: Any, name: str, weights: Any) -> nn.Module:
    try:
        return torchvision.models.get_model(name, weights=weights)
    except OSError as error:  # URLError and its kin
        raise BundleError(f"weights={weights}: cannot be downloaded: {error}") from error


def _load_state(model: nn.Module, path: Path, names: list[str]) -> str:
    if not path.is_file():
        raise BundleError(f"weights={str(path)!r}: neither a file nor one of {', '.join(names)}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:
        raise BundleError(
            f"weights={str(path)!r}: do not fit: {str(error).strip().splitlines()[0]}"
        ) from error
    return f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


# --- ONNX ----------------------------------------------------------------------------------------------


def import_onnx(
    path: str | Path,
    decoder: str,
    classes: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    **changes: Any,
) -> Imported:
    """Build a detector from an ONNX file and a named decoder.

    Args:
        path: the ONNX file: one (1 or N, 3, H, W) float32 input.
        decoder: one of `perception_rt.model.decoders.DECODERS`; it also sets how images are prepared.
        classes: class names; None takes COCO's 80, where the network has 80.
        input_size: (height, width) where the file leaves them open.
        **changes: fields of `Preset` that differ for this network.

    Raises:
        BundleError: a file, decoder or class list that does not fit.
    """
    path = Path(path)
    if decoder not in DECODERS:
        raise BundleError(f"decoder={decoder!r}: must be one of {', '.join(DECODERS)}")
    network, size = convert_onnx(path, input_size)
    fields = {name: getattr(PRESETS[decoder], name) for name in Preset.__dataclass_fields__}
    preset = Preset(**{**fields, **{k: v for k, v in changes.items() if v is not None}})
    head = DECODERS[decoder](size)
    listed, raw = listed_network(network, size, path)
    names = _class_names(classes, head, raw, decoder)
    preprocess = Preprocess(
        size, preset.resize, preset.filter, preset.order, preset.scale, preset.mean, preset.std
    )
    module = BundleDetector(preprocess, listed, head, preset.score_threshold, preset.nms_threshold)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    provenance = {"onnx": path.name, "onnx_sha256": digest, "decoder": decoder}
    return Imported(module.eval(), names, preprocess.spec(), provenance)


def _class_names(
    classes: Sequence[str] | None, head: Any, raw: list[Tensor], decoder: str
) -> tuple[str, ...]:
    try:
        count = head.class_count(raw)
        head(raw)
    except (IndexError, RuntimeError) as error:
        shapes = [tuple(tensor.shape) for tensor in raw]
        raise BundleError(f"decoder={decoder!r}: does not fit the outputs {shapes}") from error
    if classes is None and count == len(COCO80):
        return COCO80
    if classes is None:
        raise BundleError(f"classes: the network has {count}, not COCO's 80: give their names")
    if len(classes) != count:
        raise BundleError(f"classes: {len(classes)} names, but the network has {count}")
    return tuple(classes)


def import_bev_cluster(parameters: Mapping[str, float], scores: Mapping[str, float]) -> Imported:
    """Make the detector of clouds that needs no training.

    Args:
        parameters: of `BevCluster`, by name; those not given keep their defaults.
        scores: what it reached with them, for the manifest.

    Raises:
        ConfigError: a parameter is out of its bounds.
    """
    module = BevCluster(**parameters)
    reach = module.max_range
    names = [name for name in inspect.signature(BevCluster).parameters if not name.endswith("threshold")]
    provenance = {
        "what": "geometry alone: ground model, clusters, L-shape fit, sizes; nothing is trained",
        "parameters": {name: getattr(module, name) for name in names},
        "scores": dict(scores),
    }
    spec = CloudSpec(range=(-reach, -reach, -reach, reach, reach, reach), intensity="unused")
    return Imported(module.eval(), CLASSES, spec, provenance)
