"""The painter: objects from far to near, their pixel extents, and how much of each is seen."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from perception_rt.sim.camera import NEAR_M, Camera
from perception_rt.sim.path import EgoState
from perception_rt.sim.scene import SHIFT, Look, to_base, to_fixed
from perception_rt.sim.shapes import MAX_CORNERS, Figure, Mesh
from perception_rt.sim.world import Objects

_LOD_M = 70.0
_ID_SCALE = 0.5
_SCENERY_ID = 255


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What became of each object, in the order of `Objects`.

    Attributes:
        xyxy: (N, 4) float32 extent of the whole silhouette, clipped to the image; zeros where not drawn.
        unclipped_area: (N,) float32 px^2 of the extent before clipping.
        visible: (N,) float32, seen share of the silhouette's part inside the image.
    """

    xyxy: np.ndarray
    unclipped_area: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Posed:
    """One object ready to paint: row, shape, its points in base_link and in pixels, and depths."""

    row: int
    shape: Mesh | Figure
    points: np.ndarray
    uv: np.ndarray
    depth: np.ndarray
    color: list
    visible_faces: np.ndarray | None


def draw_objects(image: np.ndarray, look: Look, ego: EgoState, objects: Objects, min_height: float) -> Drawn:
    """Paint the objects onto the image and measure what can be seen of them.

    Args:
        image: (H, W, 3) uint8 RGB, painted in place. look: light and camera. ego: the vehicle's state.
        objects: what there is. min_height: objects lower than this many px are painted but not measured.
    """
    posed = _pose(look, ego, objects)
    _draw_shadows(image, look, ego, objects)
    n = len(objects)
    xyxy, area, visible = np.zeros((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    width, height = look.camera.size
    ids = np.zeros((round(height * _ID_SCALE), round(width * _ID_SCALE)), np.uint8)
    seen: list[tuple[int, int, tuple, int]] = []
    for item in posed:
        extent = _extent(look.camera, item)
        clipped = np.clip(extent, 0, (width, height, width, height))
        if clipped[2] - clipped[0] < 0.5 or clipped[3] - clipped[1] < 0.5:
            continue
        _paint(image, look.camera, item)
        row = item.row
        if objects.labels[row] < 0:
            if seen:
                _paint_id(ids, look.camera, item, _SCENERY_ID)
            continue
        xyxy[row], area[row] = clipped, (extent[2] - extent[0]) * (extent[3] - extent[1])
        if clipped[3] - clipped[1] < min_height or len(seen) >= _SCENERY_ID - 1:
            continue
        mark = len(seen) + 1
        _paint_id(ids, look.camera, item, mark)
        roi = _roi(clipped)
        seen.append((row, mark, roi, int(np.count_nonzero(ids[roi] == mark))))
    for row, mark, roi, total in seen:
        visible[row] = np.count_nonzero(ids[roi] == mark) / max(total, 1)
    return Drawn(xyxy, area, visible)


def _roi(box: np.ndarray) -> tuple[slice, slice]:
    x0, y0 = (max(0, int(v * _ID_SCALE) - 2) for v in box[:2])
    x1, y1 = (int(v * _ID_SCALE) + 3 for v in box[2:])
    return slice(y0, y1), slice(x0, x1)


def _pose(look: Look, ego: EgoState, objects: Objects) -> list[_Posed]:
    """The objects in view from far to near, with points projected and faces lit."""
    camera = look.camera
    bx, by = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    reach = np.hypot(objects.lwh[:, 0], objects.lwh[:, 1]) / 2 + 2.0
    ahead = bx - camera.position[0]
    half = camera.size[0] / 2 / camera.focal
    inside = (ahead + reach > NEAR_M) & (np.abs(by) - 1.3 * reach < half * (ahead + reach))
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(-np.hypot(ahead[rows], by[rows]), kind="stable")]
    moving = np.hypot(*objects.velocity.T) > 0.2
    shapes = [objects.entities[r].shape_at(objects.travelled[r], bool(moving[r])) for r in rows]
    if not shapes:
        return []
    counts = [len(shape.points) for shape in shapes]
    owner = np.repeat(np.arange(len(rows)), counts)
    turn = objects.yaw[rows] - ego.yaw
    points = _turned(np.concatenate([shape.points for shape in shapes]), turn[owner])
    points[:, 0] += bx[rows][owner]
    points[:, 1] += by[rows][owner]
    uv, depth = camera.project(points)
    starts = np.concatenate([[0], np.cumsum(counts)])
    faces = _light_meshes(look, ego, shapes, starts, turn, points, np.maximum(ahead[rows], 0))
    posed = []
    for i, (row, shape) in enumerate(zip(rows.tolist(), shapes, strict=True)):
        span = slice(starts[i], starts[i + 1])
        if depth[span].max() < NEAR_M or (isinstance(shape, Figure) and depth[span].min() < 2 * NEAR_M):
            continue
        if isinstance(shape, Mesh):
            color, kept = faces[i]
        else:
            lit = shape.colors * (look.ambient + 0.45 * look.diffuse)
            color, kept = np.clip(look.fade(lit, max(ahead[row], 0.0)), 0, 255).tolist(), None
        posed.append(_Posed(row, shape, points[span], uv[span], depth[span], color, kept))
    return posed


def _turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1], points[:, 2]], -1
    )


def _light_meshes(
    look: Look,
    ego: EgoState,
    shapes: list,
    starts: np.ndarray,
    turn: np.ndarray,
    points: np.ndarray,
    depth: np.ndarray,
) -> dict[int, tuple[list, np.ndarray]]:
    """Per mesh: face colours, and which faces are turned to the camera (all meshes in one go)."""
    meshes = [i for i, shape in enumerate(shapes) if isinstance(shape, Mesh)]
    if not meshes:
        return {}
    used = [shapes[i].far_faces if depth[i] > _LOD_M else len(shapes[i].faces) for i in meshes]
    owner = np.repeat(meshes, used)
    normals = _turned(
        np.concatenate([shapes[i].normals[:n] for i, n in zip(meshes, used, strict=True)]), turn[owner]
    )
    first = np.concatenate([shapes[i].faces[:n, 0] + starts[i] for i, n in zip(meshes, used, strict=True)])
    colors = np.concatenate([shapes[i].colors[:n] for i, n in zip(meshes, used, strict=True)])
    glow = np.concatenate([shapes[i].glow[:n] for i, n in zip(meshes, used, strict=True)])
    facing = ((points[first] - look.camera.position) * normals).sum(-1) < 0
    c, s = np.cos(-ego.yaw), np.sin(-ego.yaw)
    sun = np.array([c * look.sun[0] - s * look.sun[1], s * look.sun[0] + c * look.sun[1], look.sun[2]])
    light = look.ambient + look.diffuse * np.maximum(normals @ sun, 0)[:, None]
    light[glow] = 1.0
    final = np.clip(look.fade(colors * light, depth[owner]), 0, 255)
    ends = np.cumsum(used)
    out = {}
    for i, end, n in zip(meshes, ends, used, strict=True):
        kept = np.flatnonzero(facing[end - n : end])
        out[i] = (final[end - n : end][kept].tolist(), kept)
    return out


def _extent(camera: Camera, item: _Posed) -> np.ndarray:
    """(4,) xyxy of what will be painted, not clipped to the image."""
    if isinstance(item.shape, Figure):
        scale = camera.focal / item.depth
        radius = np.zeros(len(scale))
        np.maximum.at(radius, item.shape.ends.ravel(), np.repeat(item.shape.radii, 2))
        for wheel in item.shape.rings:
            radius[wheel] = item.shape.ring_radius
        reach = np.maximum(radius * scale, 0.5)[:, None]
        return np.concatenate([(item.uv - reach).min(0), (item.uv + reach).max(0)])
    if item.depth.min() > NEAR_M:
        uv = item.uv
    else:
        uv = np.concatenate([_clip_near(camera, face) for face in _faces(item)] or [np.zeros((1, 2))])
    return np.concatenate([uv.min(0), uv.max(0)])


def _faces(item: _Posed) -> list[np.ndarray]:
    """The base_link corners of each face that is turned to the camera and reaches before the near plane."""
    shape = item.shape
    kept = [item.points[shape.faces[f, : shape.counts[f]]] for f in item.visible_faces]
    return [face for face in kept]


def _clip_near(camera: Camera, face: np.ndarray) -> np.ndarray:
    """(M, 2) pixels of a face cut at the near plane; (0, 2) when nothing is left."""
    plane = camera.position[0] + NEAR_M * 1.01
    out = []
    for a, b in zip(face, np.roll(face, -1, 0), strict=True):
        if a[0] >= plane:
            out.append(a)
        if (a[0] >= plane) != (b[0] >= plane):
            out.append(a + (b - a) * ((plane - a[0]) / (b[0] - a[0])))
    return camera.project(np.array(out))[0] if out else np.zeros((0, 2))


def _paint(image: np.ndarray, camera: Camera, item: _Posed) -> None:
    if isinstance(item.shape, Figure):
        _paint_figure(image, camera, item, 1.0, None)
        return
    shape = item.shape
    if item.depth.min() <= NEAR_M:
        for face, color in zip(_faces(item), item.color, strict=True):
            corners = _clip_near(camera, face)
            if len(corners) > 2:
                cv2.fillConvexPoly(image, to_fixed(corners), color, cv2.LINE_AA, SHIFT)
        return
    fixed = to_fixed(item.uv)[shape.faces[item.visible_faces]]
    for corners, count, color in zip(
        fixed, shape.counts[item.visible_faces].tolist(), item.color, strict=True
    ):
        cv2.fillConvexPoly(
            image, corners if count == MAX_CORNERS else corners[:count], color, cv2.LINE_AA, SHIFT
        )


def _paint_figure(image: np.ndarray, camera: Camera, item: _Posed, zoom: float, flat: int | None) -> None:
    shape, line = item.shape, cv2.LINE_AA if flat is None else cv2.LINE_8
    fixed = to_fixed(item.uv * zoom)
    scale = camera.focal / item.depth * zoom
    for wheel in shape.rings:
        thick = max(1, round(2 * shape.ring_radius * scale[wheel[0]]))
        color = (30, 30, 32) if flat is None else flat
        cv2.polylines(image, [fixed[wheel]], True, color, thick, line, SHIFT)
    ends = shape.ends
    reach = shape.radii * scale[ends[:, 0]]
    order = np.argsort(-item.depth[ends].sum(-1), kind="stable").tolist()
    pairs, reach = ends.tolist(), reach.tolist()
    corners = fixed.tolist()
    for k in order:
        a, b = pairs[k]
        color = item.color[k] if flat is None else flat
        if a == b:
            cv2.circle(image, corners[a], max(8, round(reach[k] * (1 << SHIFT))), color, -1, line, SHIFT)
        else:
            cv2.line(image, corners[a], corners[b], color, max(1, round(2 * reach[k])), line, SHIFT)


def _paint_id(ids: np.ndarray, camera: Camera, item: _Posed, mark: int) -> None:
    if isinstance(item.shape, Figure):
        _paint_figure(ids, camera, item, _ID_SCALE, mark)
        return
    uv = item.uv
    if item.depth.min() <= NEAR_M:
        uv = np.concatenate([_clip_near(camera, face) for face in _faces(item)] or [np.zeros((1, 2))])
    hull = cv2.convexHull((uv * _ID_SCALE).astype(np.float32))
    cv2.fillConvexPoly(ids, to_fixed(hull), mark, cv2.LINE_8, SHIFT)


def _draw_shadows(image: np.ndarray, look: Look, ego: EgoState, objects: Objects) -> None:
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
    sx, sy = to_base(EgoState(0, 0, ego.yaw, 0, 0, 0), look.sun[0], look.sun[1])
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
        cv2.fillConvexPoly(image, corners[:4] + (0, top << SHIFT), (26, 26, 30), cv2.LINE_AA, SHIFT)
