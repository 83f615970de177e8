"""Transform, light and project all objects in view at once."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from perception_rt.sim.camera import NEAR_M, Camera
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.scene import SHIFT, Look, to_base, to_fixed
from perception_rt.sim.shapes import MAX_CORNERS, Figure, Mesh
from perception_rt.sim.world import WorldObjects

_LOD_M = 70.0
ID_SCALE = 0.5  # of the id image, in which render.py measures visibility


class InView(NamedTuple):
    """All objects in view, end to end.

    Attributes:
        points: (P, 3) in base_link, m. uv: (P, 2) px. depth: (P,) m. scale: (P,) px per m.
        fixed: (P, 2) for OpenCV. small: the same in the id image.
        faces: of the meshes. strokes: of the figures.
    """

    points: np.ndarray
    uv: np.ndarray
    depth: np.ndarray
    scale: np.ndarray
    fixed: np.ndarray
    small: np.ndarray
    faces: Faces
    strokes: Strokes


class Faces(NamedTuple):
    """Faces of meshes that are turned to the camera.

    Attributes:
        corners: (F, MAX_CORNERS) into the points. counts: (F,) corners of each. colors: (F, 3) RGB.
    """

    corners: np.ndarray
    counts: np.ndarray
    colors: np.ndarray


class Strokes(NamedTuple):
    """Capsules of figures as OpenCV draws them, each figure's from far to near.

    Attributes:
        ends: (2, S) into the points. ball: (S,) whether they coincide.
        size: (S,) fixed-point radius of a ball, or thickness. small_size: the same in the id image.
        colors: (S, 3) RGB.
    """

    ends: np.ndarray
    ball: np.ndarray
    size: np.ndarray
    small_size: np.ndarray
    colors: np.ndarray


class Posed(NamedTuple):
    """One object ready to paint.

    Attributes:
        row: its row in `WorldObjects`. shape: Mesh or Figure.
        view: of all objects. points: its own ones. parts: its faces or strokes.
        extent: xyxy px of the painted area, not clipped to the image.
        cut: True if it reaches behind the near plane, so that its faces must be clipped.
    """

    row: int
    shape: Mesh | Figure
    view: InView
    points: slice
    parts: slice
    extent: tuple[float, ...]
    cut: bool


def pose_objects(look: Look, ego: SimulatedEgo, objects: WorldObjects) -> list[Posed]:
    """Return the objects that touch the image, from far to near."""
    camera = look.camera
    rows, bx, by = _in_view(camera, ego, objects)
    if not len(rows):
        return []
    moving = (np.hypot(*objects.velocity[rows].T) > 0.2).tolist()
    travelled = objects.travelled[rows].tolist()
    shapes = [
        objects.entities[r].shape_at(far, moves)
        for r, far, moves in zip(rows.tolist(), travelled, moving, strict=True)
    ]
    counts = [len(shape.points) for shape in shapes]
    starts = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(rows)), counts)
    turn = objects.yaw[rows] - ego.yaw
    points = _turned(np.concatenate([shape.points for shape in shapes]), turn, owner)
    points[:, 0] += bx[owner]
    points[:, 1] += by[owner]
    uv, depth = camera.project(points)
    scale = camera.focal / np.maximum(depth, NEAR_M)
    ahead = bx - camera.position[0]
    meshes = [(i, shape) for i, shape in enumerate(shapes) if isinstance(shape, Mesh)]
    figures = [(i, shape) for i, shape in enumerate(shapes) if isinstance(shape, Figure)]
    faces, parts = _lit_faces(look, ego, meshes, starts, turn, points, ahead)
    strokes, more = _strokes(look, figures, starts, ahead, depth, scale)
    parts |= more
    view = InView(points, uv, depth, scale, to_fixed(uv), to_fixed(uv * ID_SCALE), faces, strokes)
    reach = np.concatenate([shape.reach for shape in shapes])
    painted = np.concatenate([faces.corners.ravel(), strokes.ends.ravel(), *_rings(figures, starts)])
    extents = _extents(uv, scale, reach, painted, starts[:-1])
    nearest, farthest = (f.reduceat(depth, starts[:-1]).tolist() for f in (np.minimum, np.maximum))
    width, height = camera.size
    posed = []
    for i, (row, shape, span, extent) in enumerate(
        zip(rows.tolist(), shapes, pairwise(starts.tolist()), extents.tolist(), strict=True)
    ):
        cut = nearest[i] <= NEAR_M
        if cut:
            if isinstance(shape, Figure) or farthest[i] <= NEAR_M:
                continue
            own = faces.corners[parts[i]], faces.counts[parts[i]]
            clipped = [clip_near(camera, points[face[:n]]) for face, n in zip(*own, strict=True)]
            corners = np.concatenate([np.zeros((0, 2)), *clipped])
            if not len(corners):
                continue
            extent = [*corners.min(0).tolist(), *corners.max(0).tolist()]
        if extent[0] < width and extent[1] < height and extent[2] > 0 and extent[3] > 0:
            posed.append(Posed(row, shape, view, slice(*span), parts[i], tuple(extent), cut))
    return posed


def clip_near(camera: Camera, face: np.ndarray) -> np.ndarray:
    """Return (M, 2) pixels of a face, (C, 3) in base_link, clipped at the near plane; M may be 0."""
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
    """Return the rows that may touch the image, from far to near, and their positions in base_link."""
    bx, by = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    reach = np.hypot(objects.lwh[:, 0], objects.lwh[:, 1]) / 2 + 2.0
    ahead = bx - camera.position[0]
    half = camera.size[0] / 2 / camera.focal
    rows = np.flatnonzero((ahead + reach > NEAR_M) & (np.abs(by) - 1.3 * reach < half * (ahead + reach)))
    rows = rows[np.argsort(-np.hypot(ahead[rows], by[rows]), kind="stable")]
    return rows, bx[rows], by[rows]


def _extents(
    uv: np.ndarray, scale: np.ndarray, reach: np.ndarray, painted: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Return (N, 4) xyxy of each object's painted area."""
    beyond = np.full(len(uv), -np.inf)
    beyond[painted] = np.where(reach > 0, np.maximum(reach * scale, 0.5), 0.0)[painted]
    low, high = uv - beyond[:, None], uv + beyond[:, None]
    return np.concatenate([np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)], axis=1)


def _turned(points: np.ndarray, angle: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return (P, 3) points or normals, rotated about z by the angle of their owner."""
    c, s = np.cos(angle)[owner], np.sin(angle)[owner]
    turned = points.copy()
    turned[:, 0] = c * points[:, 0] - s * points[:, 1]
    turned[:, 1] = s * points[:, 0] + c * points[:, 1]
    return turned


def _lit_faces(
    look: Look,
    ego: SimulatedEgo,
    meshes: list[tuple[int, Mesh]],
    starts: np.ndarray,
    turn: np.ndarray,
    points: np.ndarray,
    ahead: np.ndarray,
) -> tuple[Faces, dict[int, slice]]:
    """Return the faces that are turned to the camera, with light and fog, and the faces of each object."""
    if not meshes:
        return Faces(np.zeros((0, MAX_CORNERS), np.int64), np.zeros(0, np.int64), np.zeros((0, 3))), {}
    rows = [i for i, _ in meshes]
    used = [mesh.far_faces if ahead[i] > _LOD_M else len(mesh.faces) for i, mesh in meshes]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(mesh, name)[:n] for (_, mesh), n in zip(meshes, used, strict=True)])

    owner = np.repeat(rows, used)
    normals = _turned(joined("normals"), turn, owner)
    corners = joined("faces") + starts[owner, None]
    away = (points[corners[:, 0]] - look.camera.position) * normals
    kept = np.flatnonzero(away.sum(-1) < 0)
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    sun = np.array([c * look.sun[0] + s * look.sun[1], c * look.sun[1] - s * look.sun[0], look.sun[2]])
    light = look.ambient + look.diffuse * np.maximum(normals @ sun, 0)[:, None]
    light[joined("glow")] = 1.0
    colors = np.clip(look.fade((joined("colors") * light)[kept], ahead[owner[kept]]), 0, 255)
    begin = np.searchsorted(kept, np.concatenate([[0], np.cumsum(used)])).tolist()
    faces = Faces(corners[kept], joined("counts")[kept], colors)
    return faces, _slices(rows, begin)


def _strokes(
    look: Look,
    figures: list[tuple[int, Figure]],
    starts: np.ndarray,
    ahead: np.ndarray,
    depth: np.ndarray,
    scale: np.ndarray,
) -> tuple[Strokes, dict[int, slice]]:
    """Return the capsules of all figures, and the capsules of each object."""
    if not figures:
        none = np.zeros(0, int)
        return Strokes(np.zeros((2, 0), np.int64), none, none, none, np.zeros((0, 3))), {}
    rows = [i for i, _ in figures]
    counts = [len(figure.ends) for _, figure in figures]
    owner = np.repeat(rows, counts)
    ends = np.concatenate([figure.ends for _, figure in figures]) + starts[owner, None]
    order = np.lexsort((-depth[ends].sum(-1), owner))
    light = look.ambient + 0.45 * look.diffuse
    colors = np.concatenate([figure.colors for _, figure in figures]) * light
    colors = np.clip(look.fade(colors, ahead[owner]), 0, 255)[order]
    ends = ends[order].T
    ball = ends[0] == ends[1]
    radii = np.concatenate([figure.radii for _, figure in figures])[order]

    def sizes(zoom: float) -> np.ndarray:
        reach = radii * zoom * scale[ends[0]]
        radius = np.maximum(8, np.rint(reach * (1 << SHIFT)))
        return np.where(ball, radius, np.maximum(1, np.rint(2 * reach - 0.7))).astype(int)

    strokes = Strokes(ends, ball, sizes(1.0), sizes(ID_SCALE), colors)
    return strokes, _slices(rows, np.concatenate([[0], np.cumsum(counts)]).tolist())


def _rings(figures: list[tuple[int, Figure]], starts: np.ndarray) -> list[np.ndarray]:
    """Return the points of the figures' rings."""
    return [wheel + starts[i] for i, figure in figures for wheel in figure.rings]


def _slices(rows: list[int], starts: list[int]) -> dict[int, slice]:
    return {row: slice(a, b) for row, (a, b) in zip(rows, pairwise(starts), strict=True)}
