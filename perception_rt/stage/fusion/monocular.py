"""Estimate the position of an object in one camera from its size and the ground below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.stage.fusion.project import unproject
from perception_rt.stage.road_users import ROAD_USERS, RoadUser
from perception_rt.stage.transforms import inverse, transform

EDGE_SIGMA_PX = 3.0  # accuracy of a detector's box
PITCH_SIGMA = 0.01  # rad: the car pitches, and the ground is not flat
CUT_SIGMA = 0.5  # of the depth, where the image cuts the object
CUT_PX = 2.0


def place(
    xyxy: np.ndarray,
    names: Sequence[str],
    model: CameraModel,
    camera_from_lidar: np.ndarray,
    ground_z: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes of usual size at the depth that two estimates give, weighted by their variances.

    By height: depth = focal length * usual height / height in the image. By the ground: where the ray through
    the middle of the bottom edge meets the plane z = `ground_z`. An object that the image cuts above or below
    lacks one or both; then the smallest possible depth is used, with half of it as standard deviation. The
    heading is unknown and set to the direction of the ray.

    Args:
        xyxy: (N, 4) px.
        names: N canonical names.
        model: the camera.
        camera_from_lidar: (4, 4) takes points of the lidar's frame to the optical frame.
        ground_z: height of the ground in the lidar's frame, m; None if unknown.

    Returns:
        (N, 7) float32 xyzlwh_yaw in the lidar's frame; (N, 6, 6) float64 covariance of x y z and the turns
        about x y z, large along the ray; (N,) bool, false where the class has no usual size, the box no
        height, or the lens no ray (the rest of such a row is zero).
    """
    count = len(names)
    boxes, covariance, known = (
        np.zeros((count, 7), np.float32),
        np.zeros((count, 6, 6)),
        np.zeros(count, bool),
    )
    xyxy = np.asarray(xyxy, np.float64).reshape(-1, 4)
    rows = np.flatnonzero(
        (xyxy[:, 3] - xyxy[:, 1] >= 1.0) & np.array([name in ROAD_USERS for name in names], bool)
    )
    if not len(rows):
        return boxes, covariance, known
    left, top, right, bottom = xyxy[rows].T
    x = (left + right) / 2
    pixels = np.stack((x, top, x, (top + bottom) / 2, x, bottom), 1)
    rays = unproject(pixels.reshape(-1, 2), model).reshape(-1, 3, 2)
    found = np.isfinite(rays).all((1, 2))
    rows, rays = rows[found], rays[found]
    known[rows] = True
    users = [ROAD_USERS[names[row]] for row in rows.tolist()]
    boxes[rows], covariance[rows] = _place(
        xyxy[rows], rays, users, model, inverse(camera_from_lidar), ground_z
    )
    return boxes, covariance, known


def _place(
    xyxy: np.ndarray,
    rays: np.ndarray,
    users: Sequence[RoadUser],
    model: CameraModel,
    lidar_from_camera: np.ndarray,
    ground_z: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (M, 7) boxes and (M, 6, 6) covariances.

    Args:
        xyxy: (M, 4) px.
        rays: (M, 3, 2) through the centres of upper edge, box and lower edge.
        users: M usual sizes.
        model: see `place`.
        lidar_from_camera: (4, 4) takes points of the optical frame to the lidar's.
        ground_z: see `place`.
    """
    length, width, height, height_sigma = np.array([user[1:] for user in users]).reshape(-1, 4).T
    points = transform(lidar_from_camera, np.concatenate((rays, np.ones((len(rays), 3, 1))), 2))
    origin = lidar_from_camera[:3, 3]
    directions = points - origin  # for a depth of 1 m
    depth, sigma = _depth(xyxy, rays, directions[:, 2, 2], origin[2], height, height_sigma, model, ground_z)
    middle = directions[:, 1]
    forward = np.arctan2(middle[:, 1], middle[:, 0])
    cos, sin = np.cos(forward), np.sin(forward)
    centre = origin + depth[:, None] * middle
    # The visible part is the near side.
    centre[:, :2] += np.stack((cos, sin), 1) * ((length + width) / 4)[:, None]
    cut_aside = (xyxy[:, 0] < CUT_PX) | (xyxy[:, 2] > model.width - CUT_PX)  # its middle may lie beyond
    across = np.hypot(np.where(cut_aside, length / 2, width / 4), depth * EDGE_SIGMA_PX / model.k[0, 0])
    along_variance, across_variance = sigma**2 + (length / 4) ** 2, across**2
    slope = middle[:, 2] / np.sqrt(middle[:, 0] ** 2 + middle[:, 1] ** 2)
    covariance = np.zeros((len(rays), 6, 6))
    covariance[:, 0, 0] = cos**2 * along_variance + sin**2 * across_variance
    covariance[:, 1, 1] = sin**2 * along_variance + cos**2 * across_variance
    covariance[:, 0, 1] = covariance[:, 1, 0] = cos * sin * (along_variance - across_variance)
    covariance[:, 2, 2] = (slope * sigma) ** 2 + height_sigma**2 + across_variance
    covariance[:, 3, 3] = covariance[:, 4, 4] = 0.05**2
    covariance[:, 5, 5] = np.pi**2 / 3  # all headings are equally likely
    return np.stack((*centre.T, length, width, height, forward), 1), covariance


def _depth(
    xyxy: np.ndarray,
    rays: np.ndarray,
    fall: np.ndarray,
    origin_z: float,
    height: np.ndarray,
    height_sigma: np.ndarray,
    model: CameraModel,
    ground_z: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (M,) depths and their standard deviations, m.

    Args as of `_place`; `fall` and `origin_z` are z of the lower rays and of the camera in the lidar's frame.
    """
    cut_below = xyxy[:, 3] > model.height - CUT_PX
    whole = ~cut_below & (xyxy[:, 1] >= CUT_PX)
    above = 0.0 if ground_z is None else max(origin_z - ground_z, 0.0)
    meets = (fall < 0) & (above > 0)
    by_height = height / (rays[:, 2, 1] - rays[:, 0, 1])
    by_ground = above / np.where(meets, -fall, 1.0)
    relative = np.hypot(height_sigma / height, EDGE_SIGMA_PX / (xyxy[:, 3] - xyxy[:, 1]))
    angle = np.hypot(PITCH_SIGMA, EDGE_SIGMA_PX / model.k[1, 1])
    # One that is not known has no weight.
    ground_sigma = by_ground**2 / (above or 1.0) * angle
    weight_of_height = np.where(whole, by_height * relative, np.inf) ** -2.0
    weight_of_ground = np.where(meets, ground_sigma, np.inf) ** -2.0
    weights = weight_of_height + weight_of_ground
    # An object that the image cuts below is even nearer than its hidden part.
    least = np.where(meets, np.minimum(by_ground, by_height), by_height)
    rough = (meets & cut_below) | (weights == 0)
    weights = np.where(rough, 1.0, weights)
    depth = (np.where(whole, by_height, 0.0) * weight_of_height + by_ground * weight_of_ground) / weights
    return np.where(rough, least, depth), np.where(rough, CUT_SIGMA * least, weights**-0.5)
