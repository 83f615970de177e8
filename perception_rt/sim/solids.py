"""The objects around the vehicle as one set of faces and capsules for raycast.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.raycast import FACING_M, dot
from perception_rt.sim.scene import to_base
from perception_rt.sim.shapes import MAX_CORNERS, Figure, Mesh
from perception_rt.sim.world import WorldObjects

_LUMA = np.array([0.299, 0.587, 0.114]) / 255
_TYRE = 40.0
FOLIAGE_STOP = 0.6  # of the rays that hit a clump of leaves; the others pass
FOLIAGE_DEPTH_M = 0.25
_OPAQUE = {"owner": -1, "reflectivity": 0.3, "glass": False, "stop": 1.0, "depth": 0.0, "bias": 0.0}
_LAYER_M = 1e-4  # a later face of a mesh lies on an earlier one, like a window on the body


@dataclass(frozen=True, slots=True, eq=False)
class Solids:
    """F faces, then K capsules; both are parts, P = F + K.

    Attributes:
        corners: (F, MAX_CORNERS, 3) m, padded by repeating the last. normals: (F, 3) outward.
        ends: (2, K, 3) m. radius: (K,) m.
        owner: (P,) row in WorldObjects, -1 for none. reflectivity: (P,) in [0, 1]. glass: (P,) bool.
        stop: (P,) share of the rays that the part stops; the others pass.
        depth: (P,) m, mean distance of a ray's end behind the surface, as in leaves.
        bias: (P,) m, by which the part counts as nearer than a touching part.
    """

    corners: np.ndarray
    normals: np.ndarray
    ends: np.ndarray
    radius: np.ndarray
    owner: np.ndarray
    reflectivity: np.ndarray
    glass: np.ndarray
    stop: np.ndarray
    depth: np.ndarray
    bias: np.ndarray

    def with_faces(self, corners: np.ndarray, normals: np.ndarray, **parts: ArrayLike) -> Solids:
        """Return a copy with G more quads, (G, 4, 3) corners and (G, 3) normals.

        Args:
            corners: m. normals: outward.
            parts: attributes that differ from an opaque face without owner, (G,) each or one value for all.
        """
        corners = np.concatenate([corners, np.repeat(corners[:, -1:], MAX_CORNERS - 4, axis=1)], 1)
        return replace(
            self,
            corners=np.concatenate([self.corners, corners]),
            normals=np.concatenate([self.normals, normals]),
            **self._inserted(len(self.normals), len(corners), parts),
        )

    def with_capsules(self, ends: np.ndarray, radius: np.ndarray, **parts: ArrayLike) -> Solids:
        """Return a copy with G more capsules: (2, G, 3) ends, (G,) radius, m, `parts` as in `with_faces`."""
        return replace(
            self,
            ends=np.concatenate([self.ends, ends], 1),
            radius=np.append(self.radius, radius),
            **self._inserted(len(self.owner), len(radius), parts),
        )

    def _inserted(self, place: int, count: int, parts: dict[str, ArrayLike]) -> dict[str, np.ndarray]:
        return {
            name: np.insert(getattr(self, name), place, np.broadcast_to(parts.get(name, usual), count))
            for name, usual in _OPAQUE.items()
        }


class _Parts(NamedTuple):
    """The faces (of a Mesh) or capsules (of a Figure) of a shape in its own frame, with their materials.

    Attributes:
        points: (3, V) m. indices: (parts, MAX_CORNERS) of faces or (parts, 2) of capsules, into the points.
        normals: (3, parts) of faces. radius: (parts,) of capsules, m.
        reflectivity, see_through, bias: (parts,); glass of faces, foliage of capsules (see Solids).
    """

    points: np.ndarray
    indices: np.ndarray
    normals: np.ndarray
    radius: np.ndarray
    reflectivity: np.ndarray
    see_through: np.ndarray
    bias: np.ndarray


@lru_cache(maxsize=4096)
def _parts(shape: Mesh | Figure) -> _Parts:
    if isinstance(shape, Mesh):
        n = shape.far_faces
        return _Parts(
            shape.points.T.copy(),
            shape.faces[:n],
            shape.normals[:n].T.copy(),
            np.zeros(0),
            _reflectivity(shape.colors[:n]),
            shape.glass[:n],
            np.arange(n) * _LAYER_M,
        )
    tyres = [np.stack([ring, np.roll(ring, -1)], -1) for ring in shape.rings]
    index = np.concatenate([shape.ends, *tyres])
    rims = len(index) - len(shape.ends)
    balls = shape.ends[:, 0] == shape.ends[:, 1]
    return _Parts(
        shape.points.T.copy(),
        index,
        np.zeros((3, 0)),
        np.append(shape.radii, np.full(rims, shape.ring_radius)),
        np.append(_reflectivity(shape.colors), np.full(rims, _reflectivity(np.full(3, _TYRE)))),
        np.append(balls & shape.foliage, np.zeros(rims, bool)),
        np.zeros(len(index)),
    )


def _reflectivity(colors: np.ndarray) -> np.ndarray:
    return 0.06 + 0.64 * colors @ _LUMA


def solids_of(
    ego: SimulatedEgo, objects: WorldObjects, origin: tuple[float, float, float], range_m: float
) -> Solids:
    """Return the solids within range of a sensor, without the faces that are turned away from it.

    Args:
        ego: the vehicle. objects: the objects around. origin: the sensor's position in base_link, m. The
            solids are in its frame, whose axes are parallel to base_link.
        range_m: horizontal, to the centres.
    """
    x, y = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    place = np.stack([x, y, np.zeros(len(x))]) - np.array(origin)[:, None]
    moving = np.hypot(*objects.velocity.T) > 0.2
    meshes: list[tuple[int, _Parts]] = []
    figures: list[tuple[int, _Parts]] = []
    for row in np.flatnonzero(np.hypot(*place[:2]) < range_m).tolist():
        shape = objects.entities[row].shape_at(float(objects.travelled[row]), bool(moving[row]))
        (meshes if isinstance(shape, Mesh) else figures).append((row, _parts(shape)))
    turn = _Turn(objects.yaw - ego.yaw, place)
    faces, capsules = _Group.of(meshes, MAX_CORNERS), _Group.of(figures, 2)
    normals = turn(np.concatenate([np.zeros((3, 0)), *(p.normals for _, p in meshes)], 1), faces.owner, False)
    corners = turn(faces.points, faces.point_owner)
    front = np.flatnonzero(dot(normals.T, corners[:, faces.indices[:, 0]].T) < -FACING_M)
    ends = turn(capsules.points, capsules.point_owner)
    kept = np.concatenate([front, len(faces.owner) + np.arange(len(capsules.owner))])
    see_through = np.append(faces.see_through[front], capsules.see_through)
    of_face = np.arange(len(kept)) < len(front)
    foliage = see_through & ~of_face
    return Solids(
        np.moveaxis(corners[:, faces.indices[front]], 0, -1),
        normals[:, front].T,
        np.moveaxis(ends[:, capsules.indices.T], 0, -1),
        np.concatenate([np.zeros(0), *(p.radius for _, p in figures)]),
        np.append(faces.owner, capsules.owner)[kept],
        np.append(faces.reflectivity, capsules.reflectivity)[kept],
        see_through & of_face,
        np.where(foliage, FOLIAGE_STOP, 1.0),
        np.where(foliage, FOLIAGE_DEPTH_M, 0.0),
        np.append(faces.bias, capsules.bias)[kept],
    )


class _Turn(NamedTuple):
    """Transforms points (3, N) from the objects' own frames to the vehicle's."""

    yaw: np.ndarray
    place: np.ndarray

    def __call__(self, points: np.ndarray, owner: np.ndarray, move: bool = True) -> np.ndarray:
        x, y, z = points
        c, s = np.cos(self.yaw)[owner], np.sin(self.yaw)[owner]
        turned = np.stack([c * x - s * y, s * x + c * y, z])
        if move:
            turned += self.place[:, owner]
        return turned


class _Group(NamedTuple):
    """The parts of several shapes, end to end (see _Parts), with the row in WorldObjects that owns each."""

    points: np.ndarray
    point_owner: np.ndarray
    indices: np.ndarray
    owner: np.ndarray
    reflectivity: np.ndarray
    see_through: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, shapes: list[tuple[int, _Parts]], corners: int) -> _Group:
        """Join shapes whose parts have the given number of corners."""
        rows = np.array([row for row, _ in shapes], np.int64)
        sizes = np.array([parts.points.shape[1] for _, parts in shapes], np.int64)
        counts = np.array([len(parts.indices) for _, parts in shapes], np.int64)
        index = np.concatenate([np.zeros((0, corners), np.int64), *(parts.indices for _, parts in shapes)])
        return cls(
            np.concatenate([np.zeros((3, 0)), *(parts.points for _, parts in shapes)], 1),
            np.repeat(rows, sizes),
            index + np.repeat(np.cumsum(sizes) - sizes, counts)[:, None],
            np.repeat(rows, counts),
            np.concatenate([np.zeros(0), *(parts.reflectivity for _, parts in shapes)]),
            np.concatenate([np.zeros(0, bool), *(parts.see_through for _, parts in shapes)]),
            np.concatenate([np.zeros(0), *(parts.bias for _, parts in shapes)]),
        )
