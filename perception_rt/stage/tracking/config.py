"""What a tracker must know of each class: how it moves, how it is measured, when its tracks live and die."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from perception_rt.types.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Life:
    """Birth, association and death of the tracks of a class.

    Attributes:
        least_score: detections below are left out.
        high_score: detections from here on take part in the first association, those below only in the
            second (Zhang et al., ByteTrack, arXiv:2110.06864).
        birth_score: a detection without a track begins one from here on; at least `least_score`.
        sure_score: a track whose detection has this score is confirmed at once.
        hits_to_confirm: a track is confirmed with this many detections, whatever their scores.
        probation_s: a track that is not confirmed dies after this time without a detection, s.
        memory_s: a confirmed track dies after this time without a detection, s: the longest occlusion that
            an id outlives.
        coast_s: a confirmed track is reported for this time without a detection, s, while it is in the field
            of view.
        gate: probability that a detection of a track lies inside its Mahalanobis gate, in space.
        wide_gate: of the second association, in space.
    """

    least_score: float = 0.1
    high_score: float = 0.5
    birth_score: float = 0.5
    sure_score: float = 0.9
    hits_to_confirm: int = 3
    probation_s: float = 0.15
    memory_s: float = 1.0
    coast_s: float = 0.3
    gate: float = 0.99
    wide_gate: float = 0.999

    def __post_init__(self) -> None:
        for name in ("least_score", "high_score", "birth_score", "sure_score"):
            _check(name, getattr(self, name), 0.0, 1.0)
        for name in ("probation_s", "memory_s", "coast_s"):
            _check(name, getattr(self, name), 0.0, 3600.0)
        for name in ("gate", "wide_gate"):
            _check(name, getattr(self, name), 0.5, 1.0 - 1e-9)
        if self.birth_score < self.least_score:
            raise ConfigError(f"birth_score={self.birth_score}: must be at least {self.least_score=}")
        if self.hits_to_confirm < 1:
            raise ConfigError(f"hits_to_confirm={self.hits_to_confirm}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Motion3D:
    """How boxes of a class move over the ground, and how well a detector measures them.

    Without odometry the tracks live in the sensor's frame, where the ego vehicle's own motion is theirs too:
    then give them more speed and, as its turns swing all that is far away, more acceleration.

    Attributes:
        turns: constant turn rate and velocity (vehicles); otherwise constant velocity, the heading wandering.
        acceleration: standard deviation of the acceleration, m/s^2.
        turning: of the turn rate's change, rad/s^2; where `turns` is false, of the heading's wandering,
            rad/sqrt(s).
        speed: of the velocity of a new track, m/s.
        position_sd: of a measured x or y, m.
        yaw_sd: of a measured yaw, rad.
        height_sd: of a measured z, m.
        size_sd: of a measured length, width or height, m.
        drift: how z wanders, m/sqrt(s).
    """

    turns: bool = False
    acceleration: float = 3.0
    turning: float = 0.5
    speed: float = 5.0
    position_sd: float = 0.3
    yaw_sd: float = 0.2
    height_sd: float = 0.15
    size_sd: float = 0.2
    drift: float = 0.3

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name != "turns":
                _check(entry.name, getattr(self, entry.name), 1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class Motion2D:
    """How boxes of a class move in the image, in units of their own height.

    Attributes:
        acceleration: standard deviation of the centre's acceleration, heights/s^2.
        growth: of the second derivative of width and height, heights/s^2.
        speed: of the velocity of a new track, heights/s.
        position_sd: of a measured centre, heights.
        size_sd: of a measured width or height, heights.
        buffer: by how much of their size boxes are widened on each side before they are compared.
        min_iou, min_iou_low: least IoU of widened boxes, for detections of high and of low score.
    """

    acceleration: float = 0.8
    growth: float = 2.1
    speed: float = 0.8
    position_sd: float = 0.034
    size_sd: float = 0.156
    buffer: float = 0.24
    min_iou: float = 0.32
    min_iou_low: float = 0.45

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry.name, getattr(self, entry.name), 1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class TrackerConfig3D:
    """Everything that a `Tracker3D` is told: one entry a class, in the order of the detector's labels.

    Attributes:
        lives: of each class.
        motions: of each class.
        groups: names of the groups that each class is of: detectors take classes that share one for each
            other, so that their tracks and detections match. Empty: each class is alone.
    """

    lives: tuple[Life, ...]
    motions: tuple[Motion3D, ...]
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_classes(self.lives, self.motions, self.groups)


@dataclass(frozen=True, slots=True)
class TrackerConfig2D:
    """Everything that a `Tracker2D` is told: one entry a class, in the order of the detector's labels.

    Attributes:
        lives: of each class.
        motions: of each class.
        groups: as of `TrackerConfig3D`.
    """

    lives: tuple[Life, ...]
    motions: tuple[Motion2D, ...]
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_classes(self.lives, self.motions, self.groups)


def _check_classes(
    lives: tuple[object, ...], motions: tuple[object, ...], groups: tuple[tuple[str, ...], ...]
) -> None:
    if not lives or len(lives) != len(motions):
        raise ConfigError(f"{len(lives)} lives and {len(motions)} motions: must be one of each per class")
    if groups and len(groups) != len(lives):
        raise ConfigError(f"{len(groups)} groups of {len(lives)} classes: must be one per class, or none")


def _check(name: str, value: float, least: float, most: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and least <= value <= most):
        raise ConfigError(f"{name}={value!r}: must be a number from {least:g} to {most:g}")


VEHICLE = Motion3D(
    turns=True, acceleration=4.0, speed=12.0, position_sd=0.25, yaw_sd=0.2, height_sd=0.3, size_sd=0.4
)
PEDESTRIAN = Motion3D(acceleration=3.0, turning=1.0, speed=2.0, position_sd=0.12, yaw_sd=0.5, size_sd=0.25)
