"""Explain one detection: heat map, occlusion check, picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import util

import cv2
import numpy as np

from perception_rt.stage.explain import images, points
from perception_rt.stage.explain.check import OcclusionCheck, strongest
from perception_rt.stage.explain.pictures import draw_heat, draw_points
from perception_rt.stage.explain.probe import Probe, Target
from perception_rt.types import ConfigError

METHODS = ("rise", "gradients", "cam")
CALLS = {True: 400, False: 200}  # of the network for a heat map; the key is whether the input is an image
CHECK_CALLS = 2 + images.PARTS * 2


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The explanation of a detection.

    Attributes:
        target: the detection.
        method: one of `METHODS`.
        calls: number of network runs, including the check.
        heat: (H, W) of an image, (N,) of a cloud: the contribution of each pixel or point to the detection;
            only relative values have a meaning.
        check: the check of the marked part.
        picture: (H, W, 3) uint8 RGB.
    """

    target: Target
    method: str
    calls: int
    heat: np.ndarray
    check: OcclusionCheck
    picture: np.ndarray


def explain(
    probe: Probe,
    target: Target,
    method: str = "rise",
    calls: int | None = None,
    seed: int = 0,
    on_call: Callable[[], None] = lambda: None,
) -> Explanation:
    """Find which pixels or points caused a detection, and check them.

    Args:
        probe: of the image or the cloud.
        target: one of `probe.targets()`.
        method: ``rise`` perturbs the input, with any engine; ``gradients`` are integrated gradients by
            captum, ``cam`` gradient times activation of a deep layer, both of images and networks in torch.
        calls: of the network by ``rise``; None for `CALLS`.
        seed: random seed.
        on_call: called after each call of ``rise``.

    Raises:
        ConfigError: the method does not support this bundle, or needs a package.
        ModelError: the network failed.
    """
    if method not in METHODS:
        raise ConfigError(f"method={method!r}: must be one of {', '.join(METHODS)}")
    before = probe.calls
    is_image = probe.data.ndim == 4
    count = calls or CALLS[is_image]
    classes = probe.runtime.manifest.classes
    if not is_image:
        if method != "rise":
            raise ConfigError(f"method={method!r}: a cloud is explained by rise")
        heat = points.point_relevance(probe, target, count, seed, on_call)
        check = points.occlusion_check(probe, target, heat, seed)
        picture = draw_points(probe.data, heat, target, classes)
        return Explanation(target, method, probe.calls - before, heat, check, picture)
    if method == "rise":
        heat = images.rise(probe, target, count, seed, on_call)
    else:
        heat = _by_gradients(probe, target, method)
    check = images.occlusion_check(probe, target, heat, seed)
    picture = draw_heat(probe.data[0], heat, target, classes, strongest(heat, check.size))
    return Explanation(target, method, probe.calls - before, heat, check, picture)


def _by_gradients(probe: Probe, target: Target, method: str) -> np.ndarray:
    """Return the heat map of captum."""
    if target.region is not None:
        raise ConfigError(f"method={method!r}: classes of pixels are explained by rise")
    if util.find_spec("captum") is None:
        raise ConfigError(f"method={method!r}: needs captum (pip install 'perception_rt[explain]')")
    from perception_rt.model.gradients import GradientNetwork

    image = probe.data[0]
    network = GradientNetwork(probe.runtime, layers=method == "cam")
    if method == "cam":
        return network.class_activation(image, target.label, target.box)
    heat = network.integrated(image, images.blurred(image, target), target.label, target.box)
    x1, y1, x2, y2 = target.box
    spread = max(float(min(x2 - x1, y2 - y1)) / 12, 2.0)  # single pixels have no meaning
    return cv2.GaussianBlur(heat, (0, 0), min(spread, max(image.shape) / 40))
