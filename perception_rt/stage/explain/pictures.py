"""Draw heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from perception_rt.stage.draw import draw_bev, draw_detections, draw_outlines
from perception_rt.stage.explain.probe import Target
from perception_rt.types import Detections2D, Detections3D

STRENGTH = 0.75  # of the strongest colour over the image
FULL = 99.8  # percentile of the positive values that has the strongest colour
FAINT = 0.1  # of the strongest; smaller values are noise
BEV_PX = 640  # side of the picture of a cloud
BEV_AROUND_M = 8.0  # shown beside the box


def draw_heat(
    image: np.ndarray,
    heat: np.ndarray,
    target: Target,
    classes: Sequence[str],
    marked: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the contributions to a detection on the image in warm colours, and the detection.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (H, W); negative values are not shown.
        target: the detection.
        classes: names by label.
        marked: (H, W) bool, the part of the check, outlined in white.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    level = _levels(heat)
    colours = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    weight = STRENGTH * level[..., None] ** 0.8
    picture = (image * (1 - weight) + colours * weight).astype(np.uint8)
    if marked is not None:
        found = cv2.findContours(marked.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        cv2.drawContours(picture, found, -1, (255, 255, 255), 1)
    if target.region is not None:
        return draw_outlines(picture, target.box[None])
    row = Detections2D(
        target.box[None].astype(np.float32), np.array([target.score], np.float32), np.array([target.label])
    )
    return draw_detections(picture, row, classes)


def draw_points(points: np.ndarray, heat: np.ndarray, target: Target, classes: Sequence[str]) -> np.ndarray:
    """Draw the surroundings of a box in bird's-eye view: positive contributions in warm colours, negative in
    blue.

    Args:
        points: (N, 3 or more) x y z in m.
        heat: (N,) relevance.
        target: the box.
        classes: names by label.

    Returns:
        (H, W, 3) uint8 RGB, x up and y to the left.
    """
    x, y = (float(value) for value in target.box[:2])
    reach = float(target.box[3:5].max()) / 2 + BEV_AROUND_M
    px_per_m = BEV_PX / (2 * reach)
    row = Detections3D(
        target.box[None].astype(np.float32), np.array([target.score], np.float32), np.array([target.label])
    )
    picture = draw_bev(points, row, classes, (x - reach, x + reach), (y - reach, y + reach), px_per_m)
    for sign, colour_map in ((-1, cv2.COLORMAP_OCEAN), (1, cv2.COLORMAP_HOT)):
        level = _levels(np.maximum(sign * heat, 0), np.abs(heat))
        order = np.argsort(level, kind="stable")
        order = order[level[order] > FAINT]
        if not len(order):
            continue  # OpenCV fails for an empty list
        colours = cv2.applyColorMap((60 + level[order] * 180).astype(np.uint8)[:, None], colour_map)[
            :, 0, ::-1
        ]
        places = ((np.array((y + reach, x + reach)) - points[order, 1::-1]) * px_per_m).round().astype(int)
        for place, colour in zip(places.tolist(), colours.tolist(), strict=True):
            cv2.circle(picture, place, 3, colour, -1, cv2.LINE_AA)
    return picture


def _levels(heat: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Return values from 0 to 1, relative to the greatest positive one."""
    positive = heat[heat > 0] if scale is None else scale[scale > 0]
    full = float(np.percentile(positive, FULL)) if positive.size else 1.0
    return np.clip(heat / max(full, 1e-12), 0, 1)
