"""Plain blocks, slopes, clumps of leaves and poles along a street, for sim/street.py."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perception_rt.sim.solids import Solids

Place = tuple[float, float, float]  # x y in m and yaw in rad
_SIDES = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2  # corners, in parts of length and width
_OUT = np.array([[1.0, 0], [0, -1], [-1, 0], [0, 1]])  # normals of the sides that begin there


@dataclass(slots=True)
class Surroundings:
    """Collects parts in the frame on the ground below the sensor (x forward, y left, z up, m).

    Attributes:
        blocks: rows x y z0 length width z1 yaw reflectivity stop depth owner (see Solids).
        quads: (4, 3) corners of slopes and kerbs, seen from above or from the sensor.
        balls: rows x y z radius reflectivity stop depth. poles: rows x y z0 z1 radius reflectivity.
    """

    blocks: list[tuple[float, ...]] = field(default_factory=list)
    quads: list[np.ndarray] = field(default_factory=list)
    balls: list[np.ndarray] = field(default_factory=list)
    poles: list[tuple[float, ...]] = field(default_factory=list)

    def block(
        self,
        at: Place,
        size: tuple[float, float],
        z: tuple[float, float],
        reflectivity: float,
        stop: float = 1.0,
        depth: float = 0.0,
        owner: int = -1,
    ) -> None:
        """Add an upright block: centre x y and yaw, length and width, bottom and top."""
        self.blocks.append((at[0], at[1], z[0], *size, z[1], at[2], reflectivity, stop, depth, owner))

    def clump(
        self,
        rng: np.random.Generator,
        at: Place,
        size: tuple[float, float],
        z: tuple[float, float],
        radius: float,
        stop: float,
    ) -> None:
        """Add balls of leaves that fill a block, given as in `block`; `radius` of the largest ball, m."""
        high = max(z[1] - z[0], 0.1)
        count = int(np.clip(size[0] * size[1] * high / (0.9 * radius**3) + 2, 3, 160))
        inner = np.maximum(np.array([*size, high]) - radius, 0.05)
        along, across, up = (rng.random((count, 3)) - 0.5).T * inner[:, None]
        c, s = np.cos(at[2]), np.sin(at[2])
        ball = np.empty((count, 7))
        ball[:, 0], ball[:, 1] = at[0] + c * along - s * across, at[1] + s * along + c * across
        ball[:, 3] = radius * rng.uniform(0.4, 1, count)
        ball[:, 2] = np.maximum((z[0] + z[1]) / 2 + up, z[0] + 0.8 * ball[:, 3])
        ball[:, 4:] = rng.uniform(0.25, 0.5), stop, rng.exponential(0.25)
        self.balls.append(ball)

    def joined(self, solids: Solids, height: float) -> Solids:
        """Return `solids` of a sensor at this height, m, and all parts that do not enclose the sensor."""
        lift = np.array([0, 0, height])
        if self.blocks:
            rows = np.array(self.blocks)
            corners, normals = _faces(rows)
            part = {
                name: np.repeat(rows[:, column], 5)
                for column, name in ((7, "reflectivity"), (8, "stop"), (9, "depth"))
            }
            owner = np.repeat(rows[:, 10].astype(np.int64), 5)
            solids = solids.with_faces(corners - lift, normals, owner=owner, **part)
        if self.quads:
            corners = np.stack(self.quads) - lift
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-9)[:, None]
            normals[(normals * corners[:, 0]).sum(1) > 0] *= -1  # towards the sensor
            solids = solids.with_faces(corners, normals, reflectivity=0.35)
        if self.balls:
            x, y, z, radius, reflectivity, stop, depth = np.concatenate(self.balls).T
            centre = np.stack([x, y, z - height], -1)
            kept = np.linalg.norm(centre, axis=1) > radius + 0.5
            solids = solids.with_capsules(
                np.stack([centre[kept]] * 2),
                radius[kept],
                reflectivity=reflectivity[kept],
                stop=stop[kept],
                depth=depth[kept],
            )
        if self.poles:
            x, y, low, high, radius, reflectivity = np.array(self.poles).T
            ends = np.stack([np.stack([x, y, z - height], -1) for z in (low, high)])
            kept = np.hypot(x, y) > radius + 0.5
            solids = solids.with_capsules(ends[:, kept], radius[kept], reflectivity=reflectivity[kept])
        return solids


def _faces(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (5 N, 4, 3) corners and (5 N, 3) normals of the sides and tops of N blocks."""
    x, y, z0, length, width, z1, yaw = rows[:, :7].T
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], 1)  # (N, 2, 2), row by row the axes
    ring = (_SIDES * np.stack([length, width], -1)[:, None]) @ turn + np.stack([x, y], -1)[:, None]
    corners, normals = np.zeros((len(rows), 5, 4, 3)), np.zeros((len(rows), 5, 3))
    for side in range(4):
        pair = ring[:, [side, (side + 1) % 4]]
        corners[:, side, :2, :2], corners[:, side, 2:, :2] = pair, pair[:, ::-1]
        corners[:, side, :2, 2], corners[:, side, 2:, 2] = z0[:, None], z1[:, None]
        normals[:, side, :2] = _OUT[side] @ turn
    corners[:, 4, :, :2], corners[:, 4, :, 2] = ring, z1[:, None]
    normals[:, 4, 2] = 1
    return corners.reshape(-1, 4, 3), normals.reshape(-1, 3)
