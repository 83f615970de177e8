"""Run the network of an image bundle with gradients, for explanations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from perception_rt.model.archive import Archive
from perception_rt.model.host_image import Placement
from perception_rt.model.network import ImageNetwork
from perception_rt.model.torchscript import load_module
from perception_rt.types.errors import BundleError, ConfigError, first_line

STEPS = 24  # of the path from the blurred to the plain image
LEAST_CELLS = 25  # that the gradient of a layer must reach, for its map to have a shape


class GradientNetwork:
    """Gradient heat maps of one image's candidates.

    Args:
        runtime: of a bundle of images.
        layers: whether the layers of the network must be accessible, which TorchScript does not allow.

    Raises:
        ConfigError: the bundle's network cannot be differentiated.
    """

    def __init__(self, runtime: Any, layers: bool = False) -> None:
        network, manifest = runtime._detect, runtime.manifest
        if not isinstance(network, ImageNetwork) or manifest.input.dtype == "float16":
            raise ConfigError(f"{manifest.name}: its network has no gradients: use method rise")
        if runtime.device.type != "cpu":
            raise ConfigError(f"device={runtime.device}: gradients are computed on the CPU")
        self._prepare, self._decode = network._prepare, network._decode
        self._module = _module(runtime._archive, layers)
        self._channels = 3 if manifest.input.layout == "NHWC" else 1

    def integrated(self, image: np.ndarray, blurred: np.ndarray, label: int, box: np.ndarray) -> np.ndarray:
        """Integrated gradients (Sundararajan et al., 2017) from the blurred image to the image.

        Args:
            image, blurred: (H, W, 3) uint8 RGB.
            label: class of the detection.
            box: (4,) xyxy in px.

        Returns:
            (H, W) float32: the part of each pixel in the difference of the scores.
        """
        from captum.attr import IntegratedGradients

        x, place = self._input(image)
        baseline, _ = self._input(blurred)
        score = self._score(x, place, label, box)
        parts = IntegratedGradients(score).attribute(x, baseline, n_steps=STEPS, internal_batch_size=1)
        return _to_image(parts.sum(self._channels, keepdim=True).view(1, 1, *place.size), place)

    def class_activation(self, image: np.ndarray, label: int, box: np.ndarray) -> np.ndarray:
        """Return gradient times activation of the deepest layer with more than one cell (HiResCAM, Draelos,
        2020).

        Args:
            image: (H, W, 3) uint8 RGB.
            label: class of the detection.
            box: (4,) xyxy in px.

        Returns:
            (H, W) float32, not negative.

        Raises:
            ConfigError: no layer has gradients.
        """
        from captum.attr import LayerGradientXActivation

        x, place = self._input(image)
        score = self._score(x, place, label, box)
        layer = self._deepest(score, x)
        parts = LayerGradientXActivation(score, layer).attribute(x)
        return _to_image(parts.sum(1, keepdim=True).relu(), place)

    def _input(self, image: np.ndarray) -> tuple[Tensor, Placement]:
        inputs, place = self._prepare(torch.from_numpy(np.ascontiguousarray(image))[None], False)
        return next(iter(inputs.values())).float().clone(), place

    def _score(self, x: Tensor, place: Placement, label: int, box: np.ndarray) -> Any:
        """Return the score of the detection's candidate as a function of the network's input."""
        mine = torch.from_numpy(np.asarray(box, np.float32))[None]

        def score(images: Tensor) -> Tensor:
            scores = []
            for i in range(len(images)):
                found = self._candidates(images[i : i + 1], place)
                boxes = place.to_native(found._replace(extras={})).boxes.detach()
                alike = box_iou(boxes, mine)[:, 0] * found.scores.detach() * (found.labels == label)
                scores.append(found.scores[alike.argmax()] * bool(alike.max() > 0))
            return torch.stack(scores)

        with torch.no_grad():
            if not float(score(x)) > 0:
                raise ConfigError("the network in torch does not find this detection: use method rise")
        return score

    def _candidates(self, x: Tensor, place: Placement) -> Any:
        found = self._module(x)
        outputs = [found] if isinstance(found, Tensor) else list(found)
        return self._decode(outputs, place.size, -1.0)

    def _deepest(self, score: Any, x: Tensor) -> nn.Module:
        """Return the last convolution whose gradient reaches several cells."""
        seen: list[tuple[nn.Module, Tensor]] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen.append((module, output))

        convolutions = [module for module in self._module.modules() if isinstance(module, nn.Conv2d)]
        hooks = [module.register_forward_hook(keep) for module in convolutions]
        try:
            value = score(x.clone().requires_grad_())[0]
            tensors = [output for _, output in seen]
            grads = torch.autograd.grad(value, tensors, allow_unused=True) if tensors else ()
        finally:
            for hook in hooks:
                hook.remove()
        for (module, _), grad in zip(reversed(seen), reversed(grads), strict=True):
            if grad is not None and int((grad.abs().sum(1) > 0).sum()) >= LEAST_CELLS:
                return module
        raise ConfigError("no layer of the network has gradients: use method rise")


def _module(archive: Archive, layers: bool) -> nn.Module:
    """Return the network as a torch module that keeps its gradients.

    Raises:
        ConfigError: the bundle has no program that torch can differentiate.
    """
    programs = {program.kind: program for program in reversed(archive.manifest.programs) if _plain(program)}
    if not layers and "torchscript" in programs:
        program = programs["torchscript"]
        return load_module(archive.members[program.file], torch.device("cpu"), program.file)
    if "onnx" not in programs:
        what = "its layers are hidden in TorchScript" if layers else "it has no network in fp32"
        raise ConfigError(f"{archive.manifest.name}: {what}: use method rise")
    program = programs["onnx"]
    try:
        return _from_onnx(archive.members[program.file], program.outputs)
    except BundleError as error:
        raise ConfigError(f"{archive.manifest.name}: {error}: use method rise") from error


def _plain(program: Any) -> bool:
    return program.precision == "fp32" and len(program.inputs) == 1


def _from_onnx(data: bytes, outputs: tuple[str, ...]) -> nn.Module:
    try:
        import onnx
        import onnx2torch
    except ImportError as error:
        raise BundleError(f"needs the package {error.name}") from error
    from perception_rt.model.importers.onnx_torch import Chosen, slice_shuffles

    try:
        model = onnx.load_from_string(data)
        slice_shuffles(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = onnx2torch.convert(model).eval()
    except Exception as error:  # KeyError, NotImplementedError, RuntimeError and more
        raise BundleError(f"onnx2torch cannot convert it ({first_line(error)})") from error
    names = [output.name for output in model.graph.output]
    return Chosen(module, [names.index(name) for name in outputs or names])


def _to_image(heat: Tensor, place: Placement) -> np.ndarray:
    """Map (1, 1, h, w) over the network's input to (H, W) float32 over the image."""
    heat = heat.detach().float()
    if heat.shape[2:] != place.size:
        heat = F.interpolate(heat, place.size, mode="bilinear", align_corners=False)
    rows, columns = place.window
    whole = heat.new_zeros((1, 1, place.height, place.width))
    whole[:, :, place.seen[0], place.seen[1]] = heat[:, :, rows, columns]
    return F.interpolate(whole, place.native, mode="bilinear", align_corners=False)[0, 0].numpy()
