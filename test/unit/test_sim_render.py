"""The simulator's camera: boxes hold exactly what was painted, and hidden things are not labelled."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from perception_rt.sim.camera import Camera
from perception_rt.sim.content import make_entity
from perception_rt.sim.drive import MIN_VISIBLE, Drive
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.pose import pose_objects
from perception_rt.sim.render import draw_objects, paint
from perception_rt.sim.scene import Look
from perception_rt.sim.world import WorldObjects

SIZE = (640, 360)
STILL = SimulatedEgo(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@lru_cache(maxsize=4)
def drive(seed: int) -> Drive:
    return Drive(seed, SIZE)


def only(objects: WorldObjects, row: int) -> WorldObjects:
    arrays = (
        objects.ids,
        objects.labels,
        objects.xyz,
        objects.lwh,
        objects.yaw,
        objects.velocity,
        objects.travelled,
    )
    return WorldObjects((objects.entities[row],), *(a[row : row + 1] for a in arrays))


def placed(*things: tuple[str, float, float, float], seed: int = 1) -> WorldObjects:
    """Things given as (kind, x, y, yaw) before a camera at the origin."""
    entities = tuple(make_entity(kind, np.random.default_rng(seed)) for kind, *_ in things)
    n, lwh = len(things), np.array([e.lwh for e in entities])
    pose = np.array([thing[1:] for thing in things], float)
    return WorldObjects(
        entities,
        np.arange(n),
        np.array([e.label for e in entities]),
        np.column_stack([pose[:, :2], lwh[:, 2] / 2]),
        lwh,
        pose[:, 2],
        np.zeros((n, 2)),
        np.zeros(n),
    )


def painted_extent(look: Look, ego: SimulatedEgo, one: WorldObjects) -> np.ndarray:
    """The extent of the pixels that the thing covers by half or more: painted on black and on white."""
    width, height = look.camera.size
    black = np.zeros((height, width, 3), np.uint8)
    white = np.full((height, width, 3), 255, np.uint8)
    for item in pose_objects(look, ego, one):
        paint(black, look.camera, item)
        paint(white, look.camera, item)
    rows, columns = np.nonzero((white.astype(int) - black).max(2) < 128)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("seed", range(4))
def test_truth_boxes_are_tight_around_what_is_painted(seed):
    d, checked = drive(seed), 0
    for t in (0.5, 2.0, 4.5, 7.0):
        sample, objects = d.sample(t), d.world.objects(t)
        for box, key in zip(sample.truth.xyxy, sample.truth_ids, strict=True):
            row = int(np.flatnonzero(objects.ids == key)[0])
            pixels = painted_extent(d.look, sample.ego, only(objects, row))
            # Boxes cut by the image's edge are measured at half resolution.
            cut = box.min() <= 0 or box[2] >= SIZE[0] or box[3] >= SIZE[1]
            assert np.abs(pixels - box).max() <= (3.1 if cut else 2.0), (t, key, pixels, box)
            checked += 1
    assert checked > 20


def test_boxes_in_space_project_onto_boxes_in_the_image():
    d, checked = drive(1), 0
    for t in (1.0, 6.0):
        sample = d.sample(t)
        rows = {key: i for i, key in enumerate(sample.objects3d.ids.tolist())}
        optical_from_base = np.linalg.inv(sample.camera.base_from_optical)
        for box, key, label in zip(
            sample.truth.xyxy, sample.truth_ids.tolist(), sample.truth.labels, strict=True
        ):
            x, y, z, length, width, height, yaw = sample.objects3d.xyzlwh_yaw[rows[key]]
            corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / 2
            corners = corners * (length, width, height)
            c, s = np.cos(yaw), np.sin(yaw)
            corners = corners @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + (x, y, z)
            optical = corners @ optical_from_base[:3, :3].T + optical_from_base[:3, 3]
            if label != 0 or optical[:, 2].min() < 1:
                continue
            pixels = optical @ sample.camera.k.T
            uv = pixels[:, :2] / pixels[:, 2:]
            around = np.concatenate([uv.min(0), uv.max(0)])
            inside = np.clip(around, 0, (*SIZE, *SIZE))
            assert (box[:2] >= inside[:2] - 3).all()
            assert (box[2:] <= inside[2:] + 3).all()
            assert np.prod(box[2:] - box[:2]) > 0.6 * np.prod(inside[2:] - inside[:2])
            checked += 1
    assert checked > 5


def test_projection_follows_rep_103():
    camera = Camera.of_size(SIZE)
    x, _, z = camera.position
    uv, depth = camera.project(np.array([[x + 10, 0, z], [x + 10, 2, z], [x + 10, 0, z + 1]]))
    assert depth == pytest.approx([10, 10, 10])
    assert uv[0] == pytest.approx((320, 180))
    assert uv[1, 0] < 320
    assert uv[2, 1] < 180


def test_a_hidden_thing_counts_as_hidden():
    look = Look(Camera.of_size(SIZE), 0)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    drawn = draw_objects(
        image, look, STILL, placed(("car", 12, 0, 0), ("car", 24, 0, 0), ("car", 24, 6, 0)), 14
    )
    assert drawn.visible[0] == 1
    assert drawn.visible[1] < MIN_VISIBLE
    assert drawn.visible[2] > 0.95


def test_scenery_hides_too_and_is_never_labelled():
    look = Look(Camera.of_size(SIZE), 0)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    drawn = draw_objects(image, look, STILL, placed(("trailer", 9, 0, 0), ("pedestrian", 20, 0, 0)), 14)
    assert drawn.visible[1] < MIN_VISIBLE
    assert not drawn.xyxy[0].any()


@pytest.mark.parametrize("kind", ["car", "pedestrian", "cyclist"])
@pytest.mark.parametrize("yaw", np.arange(0, 6.2, 0.7).tolist())
def test_every_class_is_painted_from_every_side(kind, yaw):
    look = Look(Camera.of_size(SIZE), 0)
    for y in (-5.0, 0.0, 4.0):
        one = placed((kind, 12, y, yaw))
        image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        box = draw_objects(image, look, STILL, one, 14).xyxy[0]
        assert painted_extent(look, STILL, one) == pytest.approx(box, abs=2.0)
        height = look.camera.focal * one.lwh[0, 2] / (12 - look.camera.position[0])
        assert box[3] - box[1] == pytest.approx(height, rel=0.3)


def test_a_thing_beside_the_camera_is_cut_cleanly():
    look = Look(Camera.of_size(SIZE), 0)
    for x in np.arange(-3, 8, 0.25):
        image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        one = placed(("car", float(x), 2.4, 0.0))
        drawn = draw_objects(image, look, STILL, one, 14)
        assert (drawn.xyxy >= 0).all()
        assert (drawn.xyxy <= (*SIZE, *SIZE)).all()
        if drawn.xyxy[0].any():
            assert np.abs(painted_extent(look, STILL, one) - drawn.xyxy[0]).max() <= 3.1


@pytest.mark.parametrize("size", [(64, 64), (333, 217), (1280, 720)])
def test_any_size_works(size):
    sample = Drive(5, size).sample(2.0)
    assert sample.image.shape == (size[1], size[0], 3)
    assert (sample.truth.xyxy <= (*size, *size)).all()
