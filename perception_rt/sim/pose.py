"""From the world to the screen: all objects in view are placed, lit and measured in one go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_rt.sim.camera import NEAR_M, Camera
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.scene import Look, to_base, to_fixed
from perception_rt.sim.shapes import Figure, Mesh
from perception_rt.sim.world import WorldObjects

_LOD_M = 70.0


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """One object ready to paint.

    Attributes:
        row: its row in `WorldObjects`. shape: Mesh or Figure. points: (P, 3) in base_link, m.
        uv: (P, 2) px. fixed: the same for OpenCV. scale: (P,) px per m. depth: (P,) m.
        extent: (4,) xyxy px of what will be painted, not clipped to the image.
        colors: one [r, g, b] per kept face or per capsule. kept: indices of the faces turned to the camera.
        cut: True when it reaches behind the near plane, so that its faces must be clipped.
    """

    row: int
    shape: Mesh | Figure
    points: np.ndarray
    uv: np.ndarray
    fixed: np.ndarray
    scale: np.ndarray
    depth: np.ndarray
    extent: np.ndarray
    colors: list
    kept: np.ndarray
    cut: bool


def pose_objects(look: Look, ego: SimulatedEgo, objects: WorldObjects) -> list[Posed]:
    """The objects that touch the image, from far to near."""
    camera = look.camera
    rows, bx, by = _in_view(camera, ego, objects)
    if not len(rows):
        return []
    moving = np.hypot(*objects.velocity[rows].T) > 0.2
    shapes = [
        objects.entities[r].shape_at(float(objects.travelled[r]), bool(m))
        for r, m in zip(rows, moving, strict=True)
    ]
    counts = [len(shape.points) for shape in shapes]
    starts = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(rows)), counts)
    turn = objects.yaw[rows] - ego.yaw
    points = _turned(np.concatenate([shape.points for shape in shapes]), turn[owner])
    points[:, 0] += bx[owner]
    points[:, 1] += by[owner]
    uv, depth = camera.project(points)
    scale = camera.focal / np.maximum(depth, NEAR_M)
    nearest = np.minimum.reduceat(depth, starts[:-1])
    faces = _lit(look, ego, shapes, starts, turn, points, bx - camera.position[0])
    extents = _extents(uv, scale, shapes, faces, starts[:-1])
    fixed = to_fixed(uv)
    width, height = camera.size
    posed = []
    for i, (row, shape) in enumerate(zip(rows.tolist(), shapes, strict=True)):
        span, (colors, kept), extent = slice(starts[i], starts[i + 1]), faces[i], extents[i]
        cut = bool(nearest[i] <= NEAR_M)
        if cut:
            if isinstance(shape, Figure) or depth[span].max() <= NEAR_M:
                continue
            clipped = [clip_near(camera, points[span][shape.faces[f, : shape.counts[f]]]) for f in kept]
            corners = np.concatenate([np.zeros((0, 2)), *clipped])
            if not len(corners):
                continue
            extent = np.concatenate([corners.min(0), corners.max(0)])
        if extent[0] < width and extent[1] < height and extent[2] > 0 and extent[3] > 0:
            part = points[span], uv[span], fixed[span], scale[span], depth[span]
            posed.append(Posed(row, shape, *part, extent, colors, kept, cut))
    return posed


def clip_near(camera: Camera, face: np.ndarray) -> np.ndarray:
    """(M, 2) pixels of a face, (C, 3) in base_link, cut at the near plane; M is 0 when nothing is left."""
    plane = camera.position[0] + NEAR_M * 1.01
    out = []
    for a, b in zip(face, np.roll(face, -1, 0), strict=True):
        if a[0] >= plane:
            out.append(a)
        if (a[0] >= plane) != (b[0] >= plane):
            out.append(a + (b - a) * ((plane - a[0]) / (b[0] - a[0])))
    return camera.project(np.array(out))[0] if out else np.zeros((0, 2))


def _in_view(
    camera: Camera, ego: SimulatedEgo, objects: WorldObjects
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that may touch the image, from far to near, and their places in base_link."""
    bx, by = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    reach = np.hypot(objects.lwh[:, 0], objects.lwh[:, 1]) / 2 + 2.0
    ahead = bx - camera.position[0]
    half = camera.size[0] / 2 / camera.focal
    rows = np.flatnonzero((ahead + reach > NEAR_M) & (np.abs(by) - 1.3 * reach < half * (ahead + reach)))
    rows = rows[np.argsort(-np.hypot(ahead[rows], by[rows]), kind="stable")]
    return rows, bx[rows], by[rows]


def _extents(uv: np.ndarray, scale: np.ndarray, shapes: list, faces: list, starts: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy of each object's painted points with the paint around them."""
    reach = np.concatenate([shape.reach for shape in shapes])
    corners = [
        (shape.faces[kept].ravel() if isinstance(shape, Mesh) else np.arange(len(shape.points))) + start
        for shape, (_, kept), start in zip(shapes, faces, starts, strict=True)
    ]
    beyond = np.full(len(uv), -np.inf)
    painted = np.concatenate(corners)
    beyond[painted] = np.where(reach > 0, np.maximum(reach * scale, 0.5), 0.0)[painted]
    low, high = uv - beyond[:, None], uv + beyond[:, None]
    return np.concatenate([np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)], axis=1)


def _turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1], points[:, 2]], -1
    )


def _lit(
    look: Look,
    ego: SimulatedEgo,
    shapes: list,
    starts: np.ndarray,
    turn: np.ndarray,
    points: np.ndarray,
    depth: np.ndarray,
) -> list[tuple[list, np.ndarray]]:
    """Per shape: the colours to paint with, and for a mesh the faces that are turned to the camera."""
    meshes = [i for i, shape in enumerate(shapes) if isinstance(shape, Mesh)]
    used = [
        (shape.far_faces if depth[i] > _LOD_M else len(shape.faces))
        if isinstance(shape, Mesh)
        else len(shape.ends)
        for i, shape in enumerate(shapes)
    ]
    owner = np.repeat(np.arange(len(shapes)), used)
    light = np.empty((len(owner), 3))
    light[:] = look.ambient + 0.45 * look.diffuse
    facing = np.ones(len(owner), bool)
    if meshes:
        of_mesh = np.repeat([isinstance(shape, Mesh) for shape in shapes], used)
        light[of_mesh], facing[of_mesh] = _lit_meshes(
            look, ego, [(i, shapes[i], used[i]) for i in meshes], starts, turn, points
        )
    colors = np.concatenate([shape.colors[:n] for shape, n in zip(shapes, used, strict=True)])
    final = np.clip(look.fade(colors * light, depth[owner]), 0, 255)
    ends = np.cumsum(used).tolist()
    out = []
    for end, n in zip(ends, used, strict=True):
        kept = np.flatnonzero(facing[end - n : end])
        out.append((final[end - n : end][kept].tolist(), kept))
    return out


def _lit_meshes(
    look: Look, ego: SimulatedEgo, meshes: list, starts: np.ndarray, turn: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(F, 3) light on the faces of all meshes, and (F,) whether they are turned to the camera."""
    owner = np.repeat([i for i, _, _ in meshes], [n for _, _, n in meshes])
    normals = _turned(np.concatenate([shape.normals[:n] for _, shape, n in meshes]), turn[owner])
    first = np.concatenate([shape.faces[:n, 0] + starts[i] for i, shape, n in meshes])
    glow = np.concatenate([shape.glow[:n] for _, shape, n in meshes])
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    sun = np.array([c * look.sun[0] + s * look.sun[1], c * look.sun[1] - s * look.sun[0], look.sun[2]])
    light = look.ambient + look.diffuse * np.maximum(normals @ sun, 0)[:, None]
    light[glow] = 1.0
    return light, ((points[first] - look.camera.position) * normals).sum(-1) < 0
