"""Tracker settings by the group of road users that a class name belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perception_rt.stage.road_users import canonical, group
from perception_rt.stage.tracking.config import (
    PEDESTRIAN,
    VEHICLE,
    Life,
    Motion2D,
    Motion3D,
    TrackerConfig2D,
    TrackerConfig3D,
)

# A rider turns as a vehicle does, but is a thing of a person's size and of a bicycle's speed.
TWO_WHEELER = replace(VEHICLE, speed=6.0, position_sd=0.15, yaw_sd=0.4, size_sd=0.25)
_OF_GROUP = {"pedestrian": PEDESTRIAN, "two-wheeler": TWO_WHEELER}
# Detectors call things that are there 0.3 to 0.5 often enough; two in a row are seldom wrong.
_LIFE = Life(least_score=0.1, high_score=0.4, birth_score=0.4, hits_to_confirm=3, probation_s=0.25)
# Chosen on TUD-Campus, Venice-2 and twelve class-sequences of KITTI (RRC's detections) together.
_LIFE_2D = Life(
    least_score=0.12, high_score=0.42, birth_score=0.65, sure_score=0.9, hits_to_confirm=4, probation_s=0.064,
    memory_s=2.2, coast_s=0.0,
)  # fmt: skip
# Without odometry the ego vehicle's motion is that of all that stands, too.
_EGO_SPEED, _EGO_ACCELERATION = 15.0, 10.0


def config_3d(classes: Sequence[str], odometry: bool) -> TrackerConfig3D:
    """For each class name what is usual of its group; names that mean no road user move as vehicles.

    Args:
        classes: names by label.
        odometry: whether tracks live in a frame that stands still.
    """
    motions = [_OF_GROUP.get(group(canonical(name)), VEHICLE) for name in classes]
    if not odometry:
        motions = [_swept(motion) for motion in motions]
    return TrackerConfig3D(tuple(_LIFE for _ in classes), tuple(motions))


def _swept(motion: Motion3D) -> Motion3D:
    return replace(
        motion,
        speed=max(motion.speed, _EGO_SPEED),
        acceleration=max(motion.acceleration, _EGO_ACCELERATION),
    )


def config_2d(classes: Sequence[str]) -> TrackerConfig2D:
    """Return the same life and motion for every class: names tell little of motion in an image.

    Args:
        classes: names by label.
    """
    return TrackerConfig2D(tuple(_LIFE_2D for _ in classes), tuple(Motion2D() for _ in classes))
