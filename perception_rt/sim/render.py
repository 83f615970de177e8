"""Draw objects from far to near, and measure their pixel extents and visibility."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from perception_rt.sim.camera import NEAR_M, Camera
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.pose import ID_SCALE, Posed, clip_near, pose_objects
from perception_rt.sim.scene import SHIFT, Look, to_base, to_fixed
from perception_rt.sim.shapes import Figure
from perception_rt.sim.world import WorldObjects

_SCENERY_ID = 255
_TYRE: cv2.typing.Scalar = (30, 30, 32)
_MARGIN_PX = 8.0  # more than the rounding error of an outline in the id image
_THIN_PX = 4.0  # narrower scenery hides too little to count

_Box = tuple[float, ...]  # xyxy, px


@dataclass(frozen=True, slots=True, eq=False)
class RenderedFrame:
    """The drawn objects, in the order of `WorldObjects`.

    Attributes:
        xyxy: (N, 4) float32 extent of the whole silhouette, clipped to the image; zeros where not drawn.
        unclipped_area: (N,) float32 px^2 of the extent before clipping.
        visible: (N,) float32, visible share of the silhouette inside the image.
    """

    xyxy: np.ndarray
    unclipped_area: np.ndarray
    visible: np.ndarray


def draw_objects(
    image: np.ndarray, look: Look, ego: SimulatedEgo, objects: WorldObjects, min_height: float
) -> RenderedFrame:
    """Draw the objects onto the image and measure their visibility.

    Args:
        image: (H, W, 3) uint8 RGB, painted in place. look: light and camera. ego: the vehicle's state.
        objects: the objects to draw. min_height: objects lower than this many px are drawn but not measured.
    """
    posed = pose_objects(look, ego, objects)
    _draw_shadows(image, look, ego, objects)
    n = len(objects)
    xyxy, area, visible = np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    width, height = look.camera.size
    ids = np.zeros((round(height * ID_SCALE), round(width * ID_SCALE)), np.uint8)
    labelled = (objects.labels >= 0).tolist()
    seen: list[_Seen] = []
    for item in posed:
        paint(image, look.camera, item)
        row, extent = item.row, item.extent
        if not labelled[row]:
            if extent[2] - extent[0] > _THIN_PX and any(_meet(extent, s.box) for s in seen):
                _paint_id(ids, look.camera, item, _SCENERY_ID)
            continue
        x0, y0, x1, y1 = extent
        box = min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(x1, width), min(y1, height)
        area[row] = (x1 - x0) * (y1 - y0)
        xyxy[row] = box
        if box[3] - box[1] >= min_height and len(seen) < _SCENERY_ID - 1:
            mark = len(seen) + 1
            truncated = box != extent
            _paint_id(ids, look.camera, item, mark, exact=truncated)
            roi = _roi(box)
            own = ids[roi] == mark
            seen.append(_Seen(row, mark, roi, int(np.count_nonzero(own)), box))
            if truncated:
                xyxy[row] = _tight(own, roi, np.array(box))
    for s in seen:
        visible[s.row] = np.count_nonzero(ids[s.roi] == s.mark) / max(s.total, 1)
    return RenderedFrame(xyxy, area, visible)


class _Seen(NamedTuple):
    """A measured object: its row, its mark in the id image, the marked area and px count, and its box."""

    row: int
    mark: int
    roi: tuple[slice, slice]
    total: int
    box: _Box


def _meet(extent: _Box, box: _Box) -> bool:
    """Return whether two xyxy boxes may share pixels of the id image."""
    a0, b0, a1, b1 = extent
    c0, d0, c1, d1 = box
    return a0 < c1 + _MARGIN_PX and c0 < a1 + _MARGIN_PX and b0 < d1 + _MARGIN_PX and d0 < b1 + _MARGIN_PX


def _tight(own: np.ndarray, roi: tuple[slice, slice], box: np.ndarray) -> np.ndarray:
    """Return the part of the box with visible pixels, so that parts outside the image do not widen it."""
    columns, rows = np.flatnonzero(own.any(0)), np.flatnonzero(own.any(1))
    if not len(columns):
        return np.zeros(4)
    x0, y0 = roi[1].start, roi[0].start
    held = np.array([columns[0] + x0, rows[0] + y0, columns[-1] + x0 + 1, rows[-1] + y0 + 1]) / ID_SCALE
    return np.concatenate([np.maximum(box[:2], held[:2]), np.minimum(box[2:], held[2:])])


def _roi(box: _Box) -> tuple[slice, slice]:
    x0, y0 = (max(0, int(v * ID_SCALE) - 2) for v in box[:2])
    x1, y1 = (int(v * ID_SCALE) + 3 for v in box[2:])
    return slice(y0, y1), slice(x0, x1)


def paint(image: np.ndarray, camera: Camera, item: Posed) -> None:
    """Paint one object onto the image, in place."""
    if isinstance(item.shape, Figure):
        _paint_figure(image, item, None)
        return
    colors = item.view.faces.colors[item.parts].tolist()
    for polygon, color in zip(_polygons(camera, item, 1.0), colors, strict=True):
        if len(polygon) > 2:
            cv2.fillConvexPoly(image, polygon, color, cv2.LINE_AA, SHIFT)


def _polygons(camera: Camera, item: Posed, zoom: float) -> Iterator[np.ndarray]:
    """Return (K, 2) fixed-point corners of each face of a mesh, in the image or in the id image."""
    view, corners = item.view, item.view.faces.corners[item.parts]
    counts = view.faces.counts[item.parts].tolist()
    if item.cut:
        for face, count in zip(view.points[corners], counts, strict=True):
            yield to_fixed(clip_near(camera, face[:count]) * zoom)
    else:
        for face, count in zip((view.fixed if zoom == 1 else view.small)[corners], counts, strict=True):
            yield face[:count]


def _paint_figure(image: np.ndarray, item: Posed, mark: int | None) -> None:
    """Paint capsules and rings; with a mark, all of them in that value and at the id image's scale."""
    shape = item.shape
    assert isinstance(shape, Figure)
    view, strokes, own = item.view, item.view.strokes, item.parts
    if mark is None:
        line, zoom, pixels, tyre = cv2.LINE_AA, 1.0, view.fixed, _TYRE
        sizes, colors = strokes.size[own].tolist(), strokes.colors[own].tolist()
    else:
        line, zoom, pixels, tyre = cv2.LINE_8, ID_SCALE, view.small, mark
        sizes = strokes.small_size[own].tolist()
        colors = [mark] * len(sizes)
    first = item.points.start
    for wheel in shape.rings:
        thick = max(1, round(2 * shape.ring_radius * zoom * view.scale[first + wheel[0]]))
        cv2.polylines(image, [pixels[first + wheel]], True, tyre, thick, line, SHIFT)
    starts, ends = pixels[strokes.ends[:, own]].tolist()
    for start, end, ball, size, color in zip(
        starts, ends, strokes.ball[own].tolist(), sizes, colors, strict=True
    ):
        if ball:
            cv2.circle(image, start, size, color, -1, line, SHIFT)
        else:
            cv2.line(image, start, end, color, size, line, SHIFT)


def _paint_id(ids: np.ndarray, camera: Camera, item: Posed, mark: int, exact: bool = False) -> None:
    """Paint the silhouette into the id image; a mesh by its convex hull, or with `exact` face by face."""
    if isinstance(item.shape, Figure):
        _paint_figure(ids, item, mark)
        return
    if not (item.cut or exact):
        uv = (item.view.uv[item.points] * ID_SCALE).astype(np.float32)
        hull = cv2.convexHull(uv, returnPoints=False)[:, 0]
        cv2.fillConvexPoly(ids, item.view.small[item.points][hull], mark, cv2.LINE_8, SHIFT)
        return
    for polygon in _polygons(camera, item, ID_SCALE):
        if len(polygon) > 2:
            cv2.fillConvexPoly(ids, polygon, mark, cv2.LINE_8, SHIFT)


def _draw_shadows(image: np.ndarray, look: Look, ego: SimulatedEgo, objects: WorldObjects) -> None:
    """Draw the shadows of cars, people and similar objects on the ground."""
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
