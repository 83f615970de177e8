"""The painter: objects from far to near, their pixel extents, and how much of each is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from perception_rt.sim.camera import NEAR_M, Camera
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.pose import Posed, clip_near, pose_objects
from perception_rt.sim.scene import SHIFT, Look, to_base, to_fixed
from perception_rt.sim.shapes import Figure
from perception_rt.sim.world import WorldObjects

_ID_SCALE = 0.5
_SCENERY_ID = 255
_MARGIN_PX = 8.0  # more than the rounding to the id image's pixels moves an outline
_THIN_PX = 4.0  # scenery that is no wider hides nothing worth counting


@dataclass(frozen=True, slots=True, eq=False)
class RenderedFrame:
    """What became of each object, in the order of `WorldObjects`.

    Attributes:
        xyxy: (N, 4) float32 extent of the whole silhouette, clipped to the image; zeros where not drawn.
        unclipped_area: (N,) float32 px^2 of the extent before clipping.
        visible: (N,) float32, seen share of the silhouette's part inside the image.
    """

    xyxy: np.ndarray
    unclipped_area: np.ndarray
    visible: np.ndarray


def draw_objects(
    image: np.ndarray, look: Look, ego: SimulatedEgo, objects: WorldObjects, min_height: float
) -> RenderedFrame:
    """Paint the objects onto the image and measure what can be seen of them.

    Args:
        image: (H, W, 3) uint8 RGB, painted in place. look: light and camera. ego: the vehicle's state.
        objects: what there is. min_height: objects lower than this many px are painted but not measured.
    """
    posed = pose_objects(look, ego, objects)
    _draw_shadows(image, look, ego, objects)
    n = len(objects)
    xyxy, area, visible = np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    width, height = look.camera.size
    bounds = np.array([width, height, width, height], float)
    ids = np.zeros((round(height * _ID_SCALE), round(width * _ID_SCALE)), np.uint8)
    seen: list[_Seen] = []
    for item in posed:
        paint(image, look.camera, item)
        row = item.row
        if objects.labels[row] < 0:
            if item.extent[2] - item.extent[0] > _THIN_PX and any(_meet(item.extent, s.box) for s in seen):
                _paint_id(ids, look.camera, item, _SCENERY_ID)
            continue
        clipped = np.minimum(np.maximum(item.extent, 0), bounds)
        area[row] = np.prod(item.extent[2:] - item.extent[:2])
        if clipped[3] - clipped[1] >= min_height and len(seen) < _SCENERY_ID - 1:
            mark = len(seen) + 1
            truncated = bool((clipped != item.extent).any())
            _paint_id(ids, look.camera, item, mark, exact=truncated)
            roi = _roi(clipped)
            own = ids[roi] == mark
            seen.append(_Seen(row, mark, roi, int(np.count_nonzero(own)), clipped))
            if truncated:
                clipped = _tight(own, roi, clipped)
        xyxy[row] = clipped
    for s in seen:
        visible[s.row] = np.count_nonzero(ids[s.roi] == s.mark) / max(s.total, 1)
    return RenderedFrame(xyxy, area, visible)


class _Seen(NamedTuple):
    """A measured object: its row, its mark in the id image, where that lies, how many px, and its box."""

    row: int
    mark: int
    roi: tuple[slice, slice]
    total: int
    box: np.ndarray


def _meet(extent: np.ndarray, box: np.ndarray) -> bool:
    """Whether two xyxy boxes may share pixels of the id image."""
    a0, b0, a1, b1 = extent.tolist()
    c0, d0, c1, d1 = box.tolist()
    return a0 < c1 + _MARGIN_PX and c0 < a1 + _MARGIN_PX and b0 < d1 + _MARGIN_PX and d0 < b1 + _MARGIN_PX


def _tight(own: np.ndarray, roi: tuple[slice, slice], box: np.ndarray) -> np.ndarray:
    """The part of the box that holds own pixels: what lies outside the image may not widen it."""
    columns, rows = np.flatnonzero(own.any(0)), np.flatnonzero(own.any(1))
    if not len(columns):
        return np.zeros(4)
    x0, y0 = roi[1].start, roi[0].start
    held = np.array([columns[0] + x0, rows[0] + y0, columns[-1] + x0 + 1, rows[-1] + y0 + 1]) / _ID_SCALE
    return np.concatenate([np.maximum(box[:2], held[:2]), np.minimum(box[2:], held[2:])])


def _roi(box: np.ndarray) -> tuple[slice, slice]:
    x0, y0 = (max(0, int(v * _ID_SCALE) - 2) for v in box[:2])
    x1, y1 = (int(v * _ID_SCALE) + 3 for v in box[2:])
    return slice(y0, y1), slice(x0, x1)


def paint(image: np.ndarray, camera: Camera, item: Posed) -> None:
    """Paint one object onto the image, in place."""
    shape = item.shape
    if isinstance(shape, Figure):
        _paint_figure(image, item, 1.0, None)
        return
    faces, counts = shape.faces[item.kept], shape.counts[item.kept].tolist()
    if item.cut:
        for face, count, color in zip(item.points[faces], counts, item.colors, strict=True):
            corners = clip_near(camera, face[:count])
            if len(corners) > 2:
                cv2.fillConvexPoly(image, to_fixed(corners), color, cv2.LINE_AA, SHIFT)
        return
    for corners, count, color in zip(item.fixed[faces], counts, item.colors, strict=True):
        cv2.fillConvexPoly(image, corners[:count], color, cv2.LINE_AA, SHIFT)


def _paint_figure(image: np.ndarray, item: Posed, zoom: float, flat: int | None) -> None:
    """Paint capsules and rings, at a zoom of the image; with `flat`, all of them in that value."""
    shape = item.shape
    assert isinstance(shape, Figure)
    line = cv2.LINE_AA if flat is None else cv2.LINE_8
    fixed = item.fixed if zoom == 1.0 else to_fixed(item.uv * zoom)
    for wheel in shape.rings:
        thick = max(1, round(2 * shape.ring_radius * zoom * item.scale[wheel[0]]))
        cv2.polylines(image, [fixed[wheel]], True, (30, 30, 32) if flat is None else flat, thick, line, SHIFT)
    order = np.argsort(-item.depth[shape.ends].sum(-1), kind="stable")
    a, b = shape.ends[order].T
    reach = shape.radii[order] * zoom * item.scale[a]
    ball = a == b
    size = np.where(
        ball, np.maximum(8, np.rint(reach * (1 << SHIFT))), np.maximum(1, np.rint(2 * reach - 0.7))
    )
    colors = [item.colors[k] for k in order.tolist()] if flat is None else [flat] * len(order)
    rows = fixed[a].tolist(), fixed[b].tolist(), ball.tolist(), size.astype(int).tolist(), colors
    for start, end, is_ball, thick, color in zip(*rows, strict=True):
        if is_ball:
            cv2.circle(image, start, thick, color, -1, line, SHIFT)
        else:
            cv2.line(image, start, end, color, thick, line, SHIFT)


def _paint_id(ids: np.ndarray, camera: Camera, item: Posed, mark: int, exact: bool = False) -> None:
    """Paint the silhouette into the id image; a mesh by its convex hull, or with `exact` face by face."""
    if isinstance(item.shape, Figure):
        _paint_figure(ids, item, _ID_SCALE, mark)
        return
    if not (item.cut or exact):
        hull = cv2.convexHull((item.uv * _ID_SCALE).astype(np.float32))
        cv2.fillConvexPoly(ids, to_fixed(hull), mark, cv2.LINE_8, SHIFT)
        return
    faces, counts = item.shape.faces[item.kept], item.shape.counts[item.kept].tolist()
    if item.cut:
        polygons = [
            to_fixed(clip_near(camera, f[:n]) * _ID_SCALE)
            for f, n in zip(item.points[faces], counts, strict=True)
        ]
    else:
        polygons = [f[:n] for f, n in zip(to_fixed(item.uv * _ID_SCALE)[faces], counts, strict=True)]
    for corners in polygons:
        if len(corners) > 2:
            cv2.fillConvexPoly(ids, corners, mark, cv2.LINE_8, SHIFT)


def _draw_shadows(image: np.ndarray, look: Look, ego: SimulatedEgo, objects: WorldObjects) -> None:
    """Darken the ground where cars, people and the like stand between it and the sun."""
    camera = look.camera
    bx, by = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    low = objects.lwh[:, 2] < 3.0
    rows = np.flatnonzero(low & (bx > 3.5) & (bx < 75) & (np.abs(by) < 0.75 * bx + 3))
    top = image.shape[0] // 2
    mask = np.zeros(image.shape[:2], np.uint8)[top:]
    sign = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2
    turn = objects.yaw[rows] - ego.yaw
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    lx, ly = sign[:, 0] * objects.lwh[rows, :1] * 0.94, sign[:, 1] * objects.lwh[rows, 1:2] * 0.94
    x, y = bx[rows, None] + c * lx - s * ly, by[rows, None] + s * lx + c * ly
    sx, sy = to_base(SimulatedEgo(0, 0, ego.yaw, 0, 0, 0), look.sun[0], look.sun[1])
    drop = objects.lwh[rows, 2:3] * 0.85 / look.sun[2]
    x, y = np.concatenate([x, x - sx * drop], 1), np.concatenate([y, y - sy * drop], 1)
    x = np.maximum(x, camera.position[0] + 2 * NEAR_M)
    uv, _ = camera.project(np.stack([x, y, np.zeros_like(x)], -1))
    fixed = to_fixed(uv - (0, top))
    for corners in fixed:
        cv2.fillConvexPoly(mask, cv2.convexHull(corners), 255, cv2.LINE_8, SHIFT)
    ground = image[top:]
    cv2.copyTo(cv2.convertScaleAbs(ground, alpha=look.shadow), mask, ground)
    for corners in fixed[objects.labels[rows] == 0]:
        cv2.fillConvexPoly(image, np.add(corners[:4], (0, top << SHIFT)), (26, 26, 30), cv2.LINE_AA, SHIFT)
