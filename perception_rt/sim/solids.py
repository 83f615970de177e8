"""The things around the vehicle as one set of faces and capsules, as raycast.py takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.scene import to_base
from perception_rt.sim.shapes import MAX_CORNERS, Figure, Mesh
from perception_rt.sim.world import WorldObjects

_LUMA = np.array([0.299, 0.587, 0.114]) / 255
_TYRE = 40.0
_LAYER_M = 1e-4  # a later face of a mesh lies on an earlier one, e.g. a window on the body


@dataclass(frozen=True, slots=True, eq=False)
class Solids:
    """F faces, then K capsules; a part is one of either, P = F + K.

    Attributes:
        corners: (F, MAX_CORNERS, 3) m, padded by repeating the last. normals: (F, 3) outward.
        ends: (2, K, 3) m. radius: (K,) m.
        owner: (P,) row in WorldObjects. reflectivity: (P,) in [0, 1]. glass: (P,) bool.
        foliage: (P,) bool. bias: (P,) m, how much nearer the part counts than one that it touches.
    """

    corners: np.ndarray
    normals: np.ndarray
    ends: np.ndarray
    radius: np.ndarray
    owner: np.ndarray
    reflectivity: np.ndarray
    glass: np.ndarray
    foliage: np.ndarray
    bias: np.ndarray


def solids_of(
    ego: SimulatedEgo, objects: WorldObjects, origin: tuple[float, float, float], range_m: float
) -> Solids:
    """What stands within range of a sensor.

    Args:
        ego: the vehicle. objects: everything around. origin: the sensor's place in base_link, m; what is
            returned is in its frame, whose axes are those of base_link.
        range_m: horizontal, to the centres.
    """
    x, y = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    place = np.column_stack([x, y, np.zeros(len(x))]) - origin
    moving = np.hypot(*objects.velocity.T) > 0.2
    meshes: list[tuple[int, Any]] = []
    figures: list[tuple[int, Any]] = []
    for row in np.flatnonzero(np.hypot(*place[:, :2].T) < range_m).tolist():
        shape = objects.entities[row].shape_at(float(objects.travelled[row]), bool(moving[row]))
        (meshes if isinstance(shape, Mesh) else figures).append((row, shape))
    yaw = objects.yaw - ego.yaw
    return Solids(*_faces(meshes, place, yaw), *_capsules(figures, place, yaw), *_materials(meshes, figures))


def _materials(
    meshes: list[tuple[int, Mesh]], figures: list[tuple[int, Figure]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Owner, reflectivity, glass, foliage and bias of the parts (see Solids)."""
    owner, colors = [np.zeros(0, np.int64)], [np.zeros((0, 3))]
    glass, foliage, bias = ([np.zeros(0, kind)] for kind in (bool, bool, float))
    for row, mesh in meshes:
        n = mesh.far_faces
        owner.append(np.full(n, row))
        colors.append(mesh.colors[:n])
        glass.append(mesh.glass[:n])
        foliage.append(np.zeros(n, bool))
        bias.append(np.arange(n) * _LAYER_M)
    for row, figure in figures:
        tyres = sum(map(len, figure.rings))
        n = len(figure.radii) + tyres
        owner.append(np.full(n, row))
        colors += [figure.colors, np.full((tyres, 3), _TYRE)]
        glass.append(np.zeros(n, bool))
        balls = figure.ends[:, 0] == figure.ends[:, 1]
        foliage += [balls & figure.foliage, np.zeros(tyres, bool)]
        bias.append(np.zeros(n))
    reflectivity = 0.06 + 0.64 * np.concatenate(colors) @ _LUMA
    return (
        np.concatenate(owner),
        reflectivity,
        np.concatenate(glass),
        np.concatenate(foliage),
        np.concatenate(bias),
    )


def _placed(points: list, rows: list, place: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Points of several shapes, turned and moved to where the shapes stand."""
    owner = np.repeat(np.array(rows, np.int64), [len(p) for p in points])
    x, y, z = np.concatenate([np.zeros((0, 3)), *points]).T
    c, s = np.cos(yaw)[owner], np.sin(yaw)[owner]
    return np.stack([c * x - s * y, s * x + c * y, z], -1) + place[owner]


def _faces(
    meshes: list[tuple[int, Mesh]], place: np.ndarray, yaw: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = [r for r, _ in meshes]
    points = _placed([s.points for _, s in meshes], rows, place, yaw)
    normals = _placed([s.normals[: s.far_faces] for _, s in meshes], rows, np.zeros_like(place), yaw)
    starts = np.cumsum([0, *(len(s.points) for _, s in meshes)])
    index = [s.faces[: s.far_faces] + start for (_, s), start in zip(meshes, starts, strict=False)]
    return points[np.concatenate([np.zeros((0, MAX_CORNERS), np.int64), *index])], normals


def _capsules(
    figures: list[tuple[int, Figure]], place: np.ndarray, yaw: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    points = _placed([s.points for _, s in figures], [r for r, _ in figures], place, yaw)
    starts = np.cumsum([0, *(len(s.points) for _, s in figures)])
    index, radii = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for (_, s), start in zip(figures, starts, strict=False):
        tyres = [np.stack([ring, np.roll(ring, -1)], -1) for ring in s.rings]
        index += [part + start for part in (s.ends, *tyres)]
        radii += [s.radii, np.full(sum(map(len, s.rings)), s.ring_radius)]
    pairs = np.concatenate(index)
    return np.stack([points[pairs[:, 0]], points[pairs[:, 1]]]), np.concatenate(radii)
