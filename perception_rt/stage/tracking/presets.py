"""Tracker settings by the group of road users that a class name belongs to, of nodes and benchmark.

Where they come from: `python -m bench.tune --part tracks3d` for boxes in space (six sequences of KITTI with
PointRCNN's detections, no odometry), `--part tracks2d` for boxes in the image (TUD-Campus, Venice-2, twelve
class-sequences of KITTI with RRC's detections). Each prints what recordings that were left out score. Noise
of measurements and motion with odometry follow from the sizes and speeds of road users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from perception_rt.stage.road_users import ROAD_USERS, canonical, group
from perception_rt.stage.tracking.config import (
    PEDESTRIAN,
    VEHICLE,
    Life,
    Motion2D,
    Motion3D,
    TrackerConfig2D,
    TrackerConfig3D,
)


class Preset3D(NamedTuple):
    """Of one group: life, motion, and motion without odometry, where the ego vehicle's is theirs too."""

    life: Life
    motion: Motion3D
    swept: Motion3D


# A half is where PointRCNN is undecided.
_LIFE = Life(
    least_score=0.3, high_score=0.5, birth_score=0.5, sure_score=0.98, hits_to_confirm=2, coast_s=0.55
)
# A rider turns as a vehicle does, but is a thing of a person's size and of a bicycle's speed; of KITTI's
# sequences too few hold one to choose on.
_TWO_WHEELER = replace(VEHICLE, speed=6.0, position_sd=0.15, yaw_sd=0.4, size_sd=0.25)
_OTHER = Preset3D(_LIFE, VEHICLE, replace(VEHICLE, acceleration=10.0))
PRESETS_3D = {
    "vehicle": _OTHER,
    "pedestrian": Preset3D(
        replace(_LIFE, hits_to_confirm=3, memory_s=0.5), PEDESTRIAN, replace(PEDESTRIAN, speed=5.0)
    ),
    "two-wheeler": Preset3D(_LIFE, _TWO_WHEELER, replace(_TWO_WHEELER, acceleration=10.0, speed=12.0)),
}
PRESET_2D = (
    Life(
        least_score=0.12, high_score=0.42, birth_score=0.65, sure_score=0.9, hits_to_confirm=4,
        probation_s=0.064, memory_s=2.2, coast_s=0.0,
    ),
    Motion2D(),
)  # fmt: skip


def config_3d(classes: Sequence[str], odometry: bool) -> TrackerConfig3D:
    """For each class name the preset of its group; names that mean no road user move as vehicles.

    Args:
        classes: names by label.
        odometry: whether tracks live in a frame that stands still.
    """
    presets = [PRESETS_3D.get(group(canonical(name)), _OTHER) for name in classes]
    motions = tuple(preset.motion if odometry else preset.swept for preset in presets)
    return TrackerConfig3D(tuple(preset.life for preset in presets), motions, groups_of(classes))


def config_2d(classes: Sequence[str]) -> TrackerConfig2D:
    """Return the same life and motion for every class: names tell little of motion in an image.

    Args:
        classes: names by label.
    """
    lives, motions = zip(*(PRESET_2D for _ in classes), strict=True)
    return TrackerConfig2D(lives, motions, groups_of(classes))


def groups_of(classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The groups of each class; what is no road user is taken for nothing else.

    A person on a bicycle is taken for one on foot, which a bicycle alone is not.

    Args:
        classes: names by label.
    """
    names = [canonical(name) for name in classes]
    return tuple(
        (group(name), "pedestrian") if name == "cyclist"
        else (group(name),) if name in ROAD_USERS
        else (f"{label} {name}",)
        for label, name in enumerate(names)
    )  # fmt: skip
