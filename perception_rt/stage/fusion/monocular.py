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
    lidar_from_camera = inverse(camera_from_lidar)
    for row, (box, name) in enumerate(zip(np.asarray(xyxy, np.float64), names, strict=True)):
        if name not in ROAD_USERS or box[3] - box[1] < 1.0:
            continue
        x, y = (box[0] + box[2]) / 2, np.array((box[1], (box[1] + box[3]) / 2, box[3]))
        rays = unproject(np.stack((np.full(3, x), y), 1), model)
        known[row] = np.isfinite(rays).all()
        if known[row]:
            boxes[row], covariance[row] = _place(box, rays, name, model, lidar_from_camera, ground_z)
    return boxes, covariance, known


def _place(
    box: np.ndarray,
    rays: np.ndarray,
    name: str,
    model: CameraModel,
    lidar_from_camera: np.ndarray,
    ground_z: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return box and covariance from the (3, 2) rays through centres of upper edge, box and lower edge."""
    user = ROAD_USERS[name]
    points = transform(lidar_from_camera, np.concatenate((rays, np.ones((3, 1))), 1))
    origin = lidar_from_camera[:3, 3]
    directions = points - origin  # for a depth of 1 m
    depth, sigma = _depth(box, rays, directions[2], origin, user, model, ground_z)
    centre = origin + depth * directions[1]
    forward = np.arctan2(directions[1, 1], directions[1, 0])
    along = np.array([np.cos(forward), np.sin(forward)])
    centre[:2] += along * (user.length + user.width) / 4  # the visible part is the near side
    turn = np.array([[along[0], -along[1]], [along[1], along[0]]])
    cut_aside = box[0] < CUT_PX or box[2] > model.width - CUT_PX  # its middle may lie beyond the border
    across = np.hypot(user.length / 2 if cut_aside else user.width / 4, depth * EDGE_SIGMA_PX / model.k[0, 0])
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = turn @ np.diag([sigma**2 + (user.length / 4) ** 2, across**2]) @ turn.T
    slope = directions[1, 2] / np.linalg.norm(directions[1, :2])
    covariance[2, 2] = (slope * sigma) ** 2 + user.height_sigma**2 + across**2
    covariance[3, 3] = covariance[4, 4] = 0.05**2
    covariance[5, 5] = np.pi**2 / 3  # all headings are equally likely
    return np.array([*centre, user.length, user.width, user.height, forward]), covariance


def _depth(
    box: np.ndarray,
    rays: np.ndarray,
    bottom: np.ndarray,
    origin: np.ndarray,
    user: RoadUser,
    model: CameraModel,
    ground_z: float | None,
) -> tuple[float, float]:
    """Return the depth and its standard deviation, m."""
    cut_above, cut_below = box[1] < CUT_PX, box[3] > model.height - CUT_PX
    by_height = user.height / (rays[2, 1] - rays[0, 1])
    estimates = []
    if not (cut_above or cut_below):
        relative = np.hypot(user.height_sigma / user.height, EDGE_SIGMA_PX / (box[3] - box[1]))
        estimates.append((by_height, by_height * relative))
    if ground_z is not None and bottom[2] < 0 < origin[2] - ground_z:
        above = origin[2] - ground_z
        by_ground = above / -bottom[2]
        if cut_below:  # the hidden part is even nearer
            return min(by_ground, by_height), CUT_SIGMA * min(by_ground, by_height)
        angle = np.hypot(PITCH_SIGMA, EDGE_SIGMA_PX / model.k[1, 1])
        estimates.append((by_ground, by_ground**2 / above * angle))
    if not estimates:
        return by_height, CUT_SIGMA * by_height
    depths, sigmas = np.array(estimates).T
    weights = sigmas**-2
    return float(depths @ weights / weights.sum()), float(weights.sum() ** -0.5)
