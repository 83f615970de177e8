"""Ids in made scenes with the nodes' settings: flickering names, double boxes, occlusion, crowds, rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

from perception_rt.stage.tracking.presets import config_2d, config_3d
from perception_rt.stage.tracking.tracker import DOUBLES, Tracker2D, Tracker3D
from perception_rt.types import Detections2D, Detections3D

SIZES = {
    "car": (4.2, 1.8, 1.55),
    "van": (4.9, 1.95, 2.1),
    "truck": (8.0, 2.5, 3.1),
    "bus": (11.0, 2.55, 3.1),
    "pedestrian": (0.6, 0.6, 1.7),
    "cyclist": (1.8, 0.6, 1.75),
    "bicycle": (1.75, 0.55, 1.05),
}
NAMES = tuple(SIZES)
STANDING = np.eye(4)
SEEDS = range(3)


@dataclass(frozen=True)
class Scene:
    """What moves, and how it is seen.

    Attributes:
        places: of the objects at a time in s: (N, 2) m; in the image (N, 3) centre and height, px.
        names: their classes.
        called: names that a detection takes at random, each time anew; the size follows the name.
        hidden: the object and the times, s, between which it is not seen.
        missed, lost: rates of detections, and of whole frames, that are missing.
        again: factors of the size of a second detection of each object, least and most.
        pose: odom_from_sensor at a time; None: without odometry.
        stated: covariance of x y of an object at a place, which the detections have and state.
        switches: changes of id at most.
        passing: second tracks of an object at most, each of which must end after `DOUBLES` detections.
    """

    places: Callable[[float], np.ndarray]
    names: list[str]
    seconds: float = 6.0
    hz: float = 10.0
    called: tuple[str, ...] = ()
    hidden: tuple[int, float, float] = (-1, 0.0, 0.0)
    missed: float = 0.0
    lost: float = 0.0
    again: tuple[float, float] | None = None
    pose: Callable[[float], np.ndarray] | None = None
    stated: Callable[[np.ndarray], np.ndarray] | None = None
    switches: int = 0
    passing: int = 0


class Seen(NamedTuple):
    """A detection of the object `who` at `place`: its name, factors of its size, and score."""

    who: int
    place: np.ndarray
    name: str
    factors: np.ndarray
    score: float


@dataclass
class Count:
    """Ids that were reported, and how often an object had another than before, or two at once."""

    ids: set[int] = field(default_factory=set)
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    switches: int = 0
    doubles: int = 0

    def take(self, ids: np.ndarray, detections: np.ndarray, seen: list[Seen]) -> None:
        """Count the tracks of one moment."""
        self.ids |= set(ids.tolist())
        now: set[int] = set()
        for track, detection in zip(ids.tolist(), detections.tolist(), strict=True):
            if detection < 0:
                continue
            who = seen[detection].who
            self.doubles += who in now
            now.add(who)
            self.first.setdefault(who, track)
            self.switches += self.last.get(who, track) != track
            self.last[who] = track

    def check(self, scene: Scene) -> None:
        """One id each, from beginning to end."""
        assert len(self.first) == len(scene.names) <= len(self.ids) <= len(scene.names) + scene.passing
        assert self.last == self.first
        assert self.doubles <= scene.passing * DOUBLES
        assert self.switches <= scene.switches + 2 * self.doubles


def moments(scene: Scene, rng: np.random.Generator):
    """Yield time and detections of each frame."""
    for step in range(int(scene.seconds * scene.hz)):
        t = step / scene.hz
        if step > 3 and rng.random() < scene.lost:
            continue
        who, start, end = scene.hidden
        seen = []
        for row, place in enumerate(scene.places(t)):
            if (row == who and start < t < end) or rng.random() < scene.missed:
                continue
            name = str(rng.choice(scene.called)) if scene.called else scene.names[row]
            seen.append(Seen(row, place, name, np.ones(3), rng.uniform(0.6, 0.95)))
            if scene.again:
                seen.append(Seen(row, place, name, rng.uniform(*scene.again, 3), rng.uniform(0.5, 0.8)))
        yield t, [seen[at] for at in rng.permutation(len(seen))]


def play_3d(scene: Scene, seed: int) -> Count:
    rng, count = np.random.default_rng(seed), Count()
    tracker = Tracker3D(config_3d(NAMES, scene.pose is not None))
    for t, seen in moments(scene, rng):
        moved = scene.places(t + 0.01) - scene.places(t)
        boxes, covariance = np.zeros((len(seen), 7), np.float32), np.zeros((len(seen), 3, 3))
        pose = scene.pose(t) if scene.pose else STANDING
        for box, spread, one in zip(boxes, covariance, seen, strict=True):
            spread[:2, :2] = scene.stated(one.place) if scene.stated else 0.0
            spread[2, 2] = np.pi**2 / 3
            size = np.array(SIZES[one.name])
            noise = 0.1 if size[1] > 1 else 0.06
            size = size * one.factors + rng.normal(0, noise, 3)
            off = rng.multivariate_normal((0, 0), spread[:2, :2] + noise**2 * np.eye(2))
            yaw = np.arctan2(*moved[one.who][::-1]) - np.arctan2(pose[1, 0], pose[0, 0])
            box[:2] = (one.place + off - pose[:2, 3]) @ pose[:2, :2]
            box[2:] = size[2] / 2 + rng.normal(0, 0.05), *size, yaw + rng.normal(0, 0.05)
        found = Detections3D(boxes, *scores_and_labels(seen))
        stated = covariance if scene.stated else None
        tracks = tracker.update(int(t * 1e9), found, pose if scene.pose else None, stated)
        count.take(tracks.ids, tracks.detection, seen)
    return count


def play_2d(scene: Scene, seed: int) -> Count:
    rng, count, tracker = np.random.default_rng(seed), Count(), Tracker2D(config_2d(NAMES))
    for t, seen in moments(scene, rng):
        boxes = np.zeros((len(seen), 4), np.float32)
        for box, one in zip(boxes, seen, strict=True):
            height, shape = one.place[2], SIZES[scene.names[one.who]]  # the name changes no pixel
            centre = one.place[:2] + rng.normal(0, 0.03 * height, 2)
            half = np.array([shape[1] / shape[2], 1]) * height / 2 * one.factors[:2]
            half += rng.normal(0, 0.015 * height, 2)
            box[:] = *(centre - half), *(centre + half)
        tracks = tracker.update(int(t * 1e9), Detections2D(boxes, *scores_and_labels(seen)))
        count.take(tracks.ids, tracks.detection, seen)
    return count


def scores_and_labels(seen: list[Seen]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array([one.score for one in seen], np.float32)
    return scores, np.array([NAMES.index(one.name) for one in seen], np.int64)


def lanes(t: float, speed: float = 8.0) -> np.ndarray:
    """Six vehicles in three lanes, one of them the other way."""
    return np.array([[15.0 * (i // 3) + speed * (1, 1, -1)[i % 3] * t, 3.5 * (i % 3)] for i in range(6)])


def riders(t: float, speed: float = 4.0) -> np.ndarray:
    """Four that go their ways, 2 m apart."""
    return np.array([[10.0 + speed * (1 + 0.1 * i) * t, 2.0 * i] for i in range(4)])


def crowd(t: float) -> np.ndarray:
    """Thirty people in six files that pass each other, the next neighbour 0.9 m away."""
    return np.array(
        [[10 + 0.9 * i + (1.2 if j % 2 else -1.2) * t + 0.3 * j, 0.9 * j] for i in range(5) for j in range(6)]
    )


def parked(t: float) -> np.ndarray:
    return np.array([[30.0, 5.0], [37.0, 5.0], [44.0, 5.0], [30.0, -6.0]])


def drive(t: float) -> np.ndarray:
    """The ego vehicle, 4 m/s, not quite straight."""
    pose, yaw = np.eye(4), 0.1 * np.sin(t)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:2, 3] = 4 * t, 0.3 * np.sin(t)
    return pose


def along_ray(place: np.ndarray) -> np.ndarray:
    """What a camera alone knows of a far place: a tenth of the distance along the ray, little across."""
    distance = np.linalg.norm(place)
    ray = place / distance
    turn = np.array([ray, [-ray[1], ray[0]]]).T
    return turn @ np.diag([0.1 * distance, 0.1 + 0.01 * distance]) ** 2 @ turn.T


def crossing(t: float) -> np.ndarray:
    return np.array([[45.0, -15 + 5 * t], [50.0, 15 - 5 * t]])


def hidden_4s(name: str) -> Scene:
    return Scene(parked, [name] * 4, 9, hidden=(1, 3.0, 7.0), pose=drive)


VEHICLES = ("car", "van", "truck", "bus")
PEOPLE = ["pedestrian"] * 4
SCENES_3D = {
    "car or van or truck": Scene(lanes, ["car"] * 6, called=VEHICLES[:3]),
    "any vehicle": Scene(lanes, ["van"] * 6, called=VEHICLES),
    "car or bus, with odometry": Scene(lanes, ["bus"] * 6, called=("car", "bus"), pose=drive),
    "person or rider": Scene(riders, ["cyclist"] * 4, called=("pedestrian", "cyclist")),
    "rider passes person": Scene(
        lambda t: np.array([[10 + 1.3 * t, 0], [5 + 3 * t, 0.9]]), ["pedestrian", "cyclist"], missed=0.1
    ),
    "cars twice": Scene(lanes, ["car"] * 6, again=(0.75, 1.3)),
    "trucks twice, any name": Scene(lanes, ["truck"] * 6, called=VEHICLES, again=(0.8, 1.2)),
    "people twice": Scene(lambda t: riders(t, 1.0), PEOPLE, again=(0.8, 1.2)),
    "far cars cross": Scene(crossing, ["car"] * 2, 6, stated=along_ray, switches=4),
    "far cars cross, with odometry": Scene(
        crossing, ["car"] * 2, 6, stated=along_ray, pose=lambda t: STANDING, switches=4
    ),
    "parked car hidden": hidden_4s("car"),
    "standing person hidden": hidden_4s("pedestrian"),
    "crowd": Scene(crowd, ["pedestrian"] * 30, 4, missed=0.02),
    "2 Hz": Scene(lanes, ["car"] * 6, hz=2),
    "2 Hz, lost frames": Scene(lanes, ["car"] * 6, hz=2, lost=0.2, pose=drive),
    "people, 5 Hz, missed": Scene(lambda t: riders(t, 1.0), PEOPLE, hz=5, missed=0.1),
    "30 Hz": Scene(lanes, ["car"] * 6, 4, hz=30),
    "30 Hz, lost frames": Scene(lanes, ["car"] * 6, 4, hz=30, lost=0.3),
}


@pytest.mark.parametrize("name", SCENES_3D)
def test_each_on_the_ground_has_one_id(name):
    for seed in SEEDS:
        play_3d(SCENES_3D[name], seed).check(SCENES_3D[name])


def street(t: float, speed: float = 20.0) -> np.ndarray:
    """Six in two rows of the image that move against each other, 80 px high."""
    return np.array(
        [[100.0 + 200 * i + speed * (1 if i % 2 else -1) * t, 300.0 + 120 * (i % 2), 80] for i in range(6)]
    )


def bicycle_ride(t: float) -> np.ndarray:
    """A person, and below it the bicycle: two boxes that overlap."""
    return np.array([[100 + 30 * t, 300.0, 80], [100 + 30 * t, 330.0, 50]])


SCENES_2D = {
    "any vehicle": Scene(street, ["van"] * 6, called=VEHICLES),
    "person or rider": Scene(street, ["pedestrian"] * 6, called=("pedestrian", "cyclist")),
    "person on a bicycle": Scene(bicycle_ride, ["pedestrian", "bicycle"], missed=0.1),
    "cars twice": Scene(street, ["car"] * 6, again=(0.95, 1.08), passing=1),
    "2 Hz": Scene(street, ["car"] * 6, hz=2),
    "2 Hz, lost frames": Scene(street, ["car"] * 6, hz=2, lost=0.2),
    "30 Hz, missed": Scene(street, ["pedestrian"] * 6, 4, hz=30, missed=0.2),
}


@pytest.mark.parametrize("name", SCENES_2D)
def test_each_in_the_image_has_one_id(name):
    for seed in SEEDS:
        play_2d(SCENES_2D[name], seed).check(SCENES_2D[name])


def test_what_leaves_its_place_while_hidden_is_not_taken_for_what_comes_to_park_beside_it():
    """One of two cars drives away unseen; another stops 2.5 m from there."""
    places = np.array([[30.0, 5.0], [32.5, 5.0]])
    tracker, ids = Tracker3D(config_3d(NAMES, True)), []
    for step in range(80):
        box = np.array([[*places[int(step >= 40)], 0.8, *SIZES["car"], 0.0]], np.float32)
        found = Detections3D(box, np.array([0.9], np.float32), np.array([0]))
        hidden = 30 <= step < 40
        tracks = tracker.update(step * 10**8, found[:0] if hidden else found, STANDING)
        ids.append(tracks.ids.tolist())
    assert ids[20] == [0]
    assert ids[-1] == [1]
