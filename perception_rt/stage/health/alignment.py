"""Check the extrinsic calibration between a lidar and a camera.

Edges in depth are edges in the picture (Levinson and Thrun, Automatic Online Calibration of Cameras and
Lasers, RSS 2013). Small rotations about the camera are tried; if one fits clearly better than the calibration
in most pictures of the last seconds, the calibration has this error.

OpenCV is imported on use, as in `stage.fusion.project`.
"""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.stage.fusion.project import undistortion
from perception_rt.stage.health.checks import NEVER, Check, Finding, Limits
from perception_rt.stage.transforms import transform

TRIED_DEG = np.arange(-5.0, 5.1, 1.0)  # pitch and yaw
TRIED_ROLL_DEG = np.array([-3.0, 0.0, 3.0])
LOOKS, LEAST_LOOKS = 6, 5
LEAST_EDGES, MOST_EDGES = 60, 300
PICTURE_PX = 480  # width of the small picture that is compared
BLUR_PX = 2.0
AZIMUTH_BIN, ELEVATION_BIN = np.radians(0.4), np.radians(0.5)
NEAR_M, FAR_M = 3.0, 40.0
STEP_M, STEP_SHARE = 0.6, 0.06  # of depth, that makes an edge
GAIN, ROLL_GAIN, AGREE = 0.7, 0.4, 0.7
"""How much better a rotation must fit than none, in deviations of all tried ones; the same of roll alone; and
in which share of the looks."""
NEAR_DEG, ROLL_MARGIN = 1.0, -0.35
"""With pitch and yaw up to `NEAR_DEG`, how much worse roll may fit than no roll: a little of those passes for
roll, which moves edges least."""
MOVED = 2.0
"""Mean change of the small picture, grey values, that makes a new look: a still scene tells nothing new."""

LIMITS = {"rotation_deg": Limits(1.9, NEVER, "camera and lidar are not aligned", raise_s=0.5)}


def tried_rotations() -> tuple[np.ndarray, np.ndarray]:
    """Return (R, 3) degrees about x (pitch), y (yaw), z (roll) of the optical frame, and their matrices."""
    degrees = np.array(list(itertools.product(TRIED_DEG, TRIED_DEG, TRIED_ROLL_DEG)))
    turns = np.radians(degrees)
    angles = np.linalg.norm(turns, axis=1)[:, None, None]
    crossed = np.cross(np.eye(3), (turns / np.maximum(angles[..., 0], 1e-12))[:, None])
    matrices = np.eye(3) + np.sin(angles) * crossed + (1 - np.cos(angles)) * crossed @ crossed  # Rodrigues
    return degrees, matrices.astype(np.float32)


def depth_edges(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points of (N, 3), optical frame, before a step in depth: (M, 3) beside and (K, 3) below one."""
    points = points[(points[:, 2] > 1.0) & (np.abs(points[:, 0]) < 2 * points[:, 2])]
    if not len(points):
        return points, points
    x, y, z = points.T
    level = np.hypot(x, z)
    column = np.round(np.arctan2(x, z) / AZIMUTH_BIN).astype(np.int32)
    row = np.round(np.arctan2(y, level) / ELEVATION_BIN).astype(np.int32)
    column -= column.min() - 2
    row -= row.min() - 2
    shape = row.max() + 3, column.max() + 3
    order = np.argsort(-level)  # the nearest one is written last
    depth = np.full(shape, np.inf, np.float32)
    index = np.full(shape, -1, np.int64)
    depth[row[order], column[order]] = level[order]
    index[row[order], column[order]] = order
    here = (depth > NEAR_M) & (depth < FAR_M)
    edge = depth + np.maximum(STEP_M, STEP_SHARE * depth)
    # Two bins on, as one may lack a return; at least one must have been measured.
    beside = np.zeros(shape, bool)
    for side in (1, -1):
        behind = np.minimum(np.roll(depth, side, 1), np.roll(depth, 2 * side, 1))
        beside |= here & (behind < np.inf) & (behind > edge)
    above = np.minimum(np.roll(depth, 1, 0), np.roll(depth, 2, 0))
    below = here & (above < np.inf) & (above > edge + 2 * STEP_M)
    return points[_spread(index[beside])], points[_spread(index[below & ~beside])]


def _spread(chosen: np.ndarray) -> np.ndarray:
    """Return at most `MOST_EDGES` of these, evenly spread."""
    if len(chosen) > MOST_EDGES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MOST_EDGES).astype(int)]
    return chosen


def edge_pictures(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vertical and horizontal edges of (h, w) uint8, (h, w) float32 each, mean 0, deviation 1."""
    import cv2

    found = []
    for direction in ((1, 0), (0, 1)):
        # The square root reduces the influence of a few strong edges.
        edges = np.sqrt(np.abs(cv2.Sobel(grey, cv2.CV_32F, *direction)))
        edges -= cv2.blur(edges, (61, 61))
        edges = cv2.GaussianBlur(edges, (0, 0), BLUR_PX)
        found.append(edges / max(float(edges.std()), 1e-6))
    return found[0], found[1]


class AlignmentHealth:
    """Checks the calibration between one camera and one lidar.

    Args:
        sensor: topic of the camera. findings: list that faults are added to.
    """

    def __init__(self, sensor: str, findings: list[Finding]) -> None:
        self.checks = {name: Check(sensor, name, limits, findings) for name, limits in LIMITS.items()}
        self.degrees, self._matrices = tried_rotations()
        self._zero = int(np.abs(self.degrees).sum(1).argmin())
        self._looks: deque[np.ndarray] = deque(maxlen=LOOKS)
        self._maps: tuple[bytes, tuple[np.ndarray, np.ndarray] | None] = b"", None
        self._last: np.ndarray | None = None  # small picture
        self.best_deg: np.ndarray | None = None

    def reset(self) -> None:
        """Forget the latest results after the clock was set back."""
        self._looks.clear()
        for check in self.checks.values():
            check.clear(0)

    def look(
        self,
        now_ns: int,
        pixels: np.ndarray,
        points: np.ndarray,
        model: CameraModel,
        camera_from_lidar: np.ndarray,
    ) -> None:
        """Process a picture and a cloud of the same time.

        Args:
            pixels: (H, W) or (H, W, 3) uint8. points: (N, 3) or more columns, in the lidar's frame, m.
            model: the camera. camera_from_lidar: (4, 4).

        Raises:
            CodecError: the camera's distortion model is not known.
        """
        scores = self.scores(pixels, points, model, camera_from_lidar)
        if scores is not None:
            self._looks.append(scores)
        if len(self._looks) >= LEAST_LOOKS:
            self.checks["rotation_deg"].update(now_ns, self._rotation_deg())

    def scores(
        self, pixels: np.ndarray, points: np.ndarray, model: CameraModel, camera_from_lidar: np.ndarray
    ) -> np.ndarray | None:
        """Return (R,) edge scores under each rotation, in deviations; None with few or outdated edges."""
        import cv2

        beside, below = depth_edges(transform(camera_from_lidar, points[:, :3].astype(np.float64)))
        if len(beside) + len(below) < LEAST_EDGES:
            return None
        grey, k = self._small(pixels, model)
        last, self._last = self._last, grey
        if last is not None and last.shape == grey.shape and cv2.absdiff(grey, last).mean() < MOVED:
            self._last = last
            return None
        total = np.zeros(len(self._matrices), np.float32)
        for edges, picture in zip((beside, below), edge_pictures(grey), strict=True):
            total += self._sampled(edges.astype(np.float32), picture, k)
        return total / max(float(total.std()), 1e-9)

    def _small(self, pixels: np.ndarray, model: CameraModel) -> tuple[np.ndarray, np.ndarray]:
        """Return a small grey picture without distortion, and its (3, 3) intrinsics."""
        import cv2

        grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels[::2, ::2].copy(), cv2.COLOR_RGB2GRAY)
        size = PICTURE_PX, max(1, round(pixels.shape[0] * PICTURE_PX / pixels.shape[1]))
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        k = np.diag((size[0] / model.width, size[1] / model.height, 1.0)) @ model.k
        key = k.tobytes() + model.d.tobytes()
        if self._maps[0] != key:
            self._maps = key, undistortion(model, k, size)
        if self._maps[1] is not None:
            small = cv2.remap(small, *self._maps[1], cv2.INTER_LINEAR)
        return small, k.astype(np.float32)

    def _sampled(self, edges: np.ndarray, picture: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Return (R,) sums of a picture at (N, 3) edges under each rotation; outside it is 0, its mean."""
        h, w = picture.shape
        padded = np.zeros((h + 2, w + 2), np.float32)
        padded[1:-1, 1:-1] = picture
        turned = (self._matrices.reshape(-1, 3) @ edges.T).reshape(-1, 3, len(edges))
        inverse = 1 / np.maximum(turned[:, 2], np.float32(0.1))
        u = np.clip(turned[:, 0] * inverse * k[0, 0] + (k[0, 2] + 1), 0, w + 1).astype(np.int32)
        v = np.clip(turned[:, 1] * inverse * k[1, 1] + (k[1, 2] + 1), 0, h + 1).astype(np.int32)
        return padded.ravel().take(v * (w + 2) + u).sum(1)

    def _rotation_deg(self) -> float:
        """Return the rotation that fits clearly better than none, degrees; 0 if there is none."""
        looks = np.array(self._looks)
        best = int(looks.mean(0).argmax())
        gains = looks[:, best] - looks[:, self._zero]
        self.best_deg = self.degrees[best]
        if np.linalg.norm(self.best_deg[:2]) < LIMITS["rotation_deg"].warn:
            return self._roll_deg(looks)
        clear = gains.mean() > GAIN and (gains > GAIN / 2).mean() >= AGREE
        return float(np.linalg.norm(self.best_deg)) if clear else 0.0

    def _roll_deg(self, looks: np.ndarray) -> float:
        """The roll that fits clearly better than none in (L, R) looks, degrees; 0 where none does."""
        pitch, yaw, roll = np.abs(self.degrees).T
        near = (pitch <= NEAR_DEG) & (yaw <= NEAR_DEG)
        fits = np.where(near, looks.mean(0), -np.inf)
        level = fits[roll == 0].max()
        for index in np.flatnonzero((pitch == 0) & (yaw == 0) & (roll > 0)):
            gains = looks[:, index] - looks[:, self._zero]
            margin = fits[self.degrees[:, 2] == self.degrees[index, 2]].max() - level
            if gains.mean() > ROLL_GAIN and (gains > 0).mean() >= AGREE and margin > ROLL_MARGIN:
                self.best_deg = self.degrees[index]
                return float(roll[index])
        return 0.0
