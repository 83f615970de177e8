"""The transform buffer: trees over time, against SciPy's rotations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from perception_rt.stage.transforms import MAX_FRAMES, TransformBuffer, inverse, slerp, to_matrix, transform
from perception_rt.types import TransformError
from test import drives
from test.transform_table import CASES

MS = 1_000_000
S = 1_000_000_000
STILL = (0.0, 0.0, 0.0, 1.0)
numbers = st.floats(-50, 50)
quaternions = st.tuples(*(st.floats(-1, 1),) * 4).filter(lambda q: np.linalg.norm(q) > 0.1)
poses = st.tuples(st.tuples(numbers, numbers, numbers), quaternions)


def yaw(radians: float) -> tuple[float, ...]:
    return 0.0, 0.0, np.sin(radians / 2), np.cos(radians / 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(poses, min_size=6, max_size=6), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_any_tree_gives_the_product_of_its_way(transforms, choices):
    """Frame k + 1 hangs on any earlier one; every pair agrees with the poses in the root."""
    buffer, in_root = TransformBuffer(), [np.eye(4)]
    for k, ((translation, quaternion), choice) in enumerate(zip(transforms, choices, strict=True)):
        parent = choice % (k + 1)
        buffer.add(f"f{parent}", f"f{k + 1}", 5 * S, translation, quaternion, static=k % 2 == 0)
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = Rotation.from_quat(quaternion).as_matrix(), translation
        in_root.append(in_root[parent] @ step)
    for a in range(7):
        for b in range(7):
            expected = np.linalg.inv(in_root[a]) @ in_root[b]
            np.testing.assert_allclose(buffer.lookup(f"f{a}", f"/f{b}", 5 * S), expected, atol=1e-9)


def test_points_of_the_source_arrive_in_the_target():
    buffer = TransformBuffer()
    buffer.add("base_link", "lidar", 0, (1.0, 0.0, 2.0), yaw(np.pi / 2), static=True)
    matrix = buffer.lookup("base_link", "lidar", 123)
    np.testing.assert_allclose(transform(matrix, np.array([[1.0, 0, 0]])), [[1.0, 1.0, 2.0]], atol=1e-12)
    np.testing.assert_allclose(inverse(matrix) @ matrix, np.eye(4), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(quaternions, quaternions, st.floats(0, 1))
def test_slerp_is_scipys(a, b, share):
    a, b = (np.array(q) / np.linalg.norm(q) for q in (a, b))
    if abs(a @ b) < 1e-3:
        return  # half a turn apart: both ways are as short
    found = Rotation.from_quat(slerp(a, b, share))
    expected = Slerp([0, 1], Rotation.from_quat([a, b]))([share])[0]
    assert (found.inv() * expected).magnitude() < 1e-5


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_rules_of_tf2(case):
    """`test/graph/test_transforms_tf2.py` asks tf2 the same."""
    buffer = TransformBuffer()
    for one in case.added:
        buffer.add(one.parent, one.child, one.stamp_ns, (one.x, 0, 0), STILL, one.static)
    if case.x is None:
        with pytest.raises(TransformError):
            buffer.lookup(case.target, case.source, case.stamp_ns)
    else:
        assert buffer.lookup(case.target, case.source, case.stamp_ns)[0, 3] == pytest.approx(case.x)


def test_the_rotation_between_two_stamps_is_between():
    buffer = TransformBuffer()
    buffer.add("odom", "base_link", 1 * S, (0.0, 0.0, 0.0), yaw(0.0))
    buffer.add("odom", "base_link", 2 * S, (10.0, 0.0, 0.0), yaw(1.0))
    half = buffer.lookup("odom", "base_link", 3 * S // 2)
    np.testing.assert_allclose(half, to_matrix(np.array([5.0, 0, 0]), np.array(yaw(0.5))), atol=1e-12)


def test_a_tolerance_holds_the_ends_for_as_long():
    buffer = TransformBuffer(tolerance_ns=20 * MS)
    buffer.add("odom", "base_link", 1 * S, (0.0, 0.0, 0.0), yaw(0.0))
    buffer.add("odom", "base_link", 2 * S, (10.0, 0.0, 0.0), yaw(1.0))
    for stamp, held in ((1 * S - 20 * MS, 0.0), (2 * S + 20 * MS, 10.0)):
        assert buffer.lookup("odom", "base_link", stamp)[0, 3] == held
    for stamp in (1 * S - 21 * MS, 2 * S + 21 * MS):
        with pytest.raises(TransformError):
            buffer.lookup("odom", "base_link", stamp)


def test_frames_with_ever_new_names_are_bounded_and_what_is_in_use_stays():
    buffer = TransformBuffer()
    buffer.add("base_link", "camera", 0, (1.0, 0, 0), STILL, static=True)
    for k in range(3 * MAX_FRAMES):
        buffer.add("odom", "base_link", k * MS, (2.0, 0, 0), STILL)
        buffer.add("map", f"frame_{k}", k * MS, (0, 0, 0), STILL)
    assert len(buffer._frames) == MAX_FRAMES
    assert buffer.lookup("odom", "camera", (3 * MAX_FRAMES - 1) * MS)[0, 3] == 3.0
    assert buffer.lookup("map", f"frame_{3 * MAX_FRAMES - 1}", 0) is not None
    with pytest.raises(TransformError):
        buffer.lookup("map", "frame_0", 0)


def test_static_frames_with_ever_new_names_are_bounded_too():
    buffer = TransformBuffer()
    for k in range(2 * MAX_FRAMES):
        buffer.add("map", f"frame_{k}", 0, (k, 0, 0), STILL, static=True)
    assert len(buffer._frames) == MAX_FRAMES
    assert buffer.lookup("map", f"frame_{2 * MAX_FRAMES - 1}", 0)[0, 3] == 2 * MAX_FRAMES - 1


def test_stamps_out_of_order_are_put_in_order_and_a_repeated_one_replaces():
    buffer = TransformBuffer()
    for stamp, x in ((3, 3.0), (1, 1.0), (2, 9.0), (2, 2.0)):
        buffer.add("odom", "base_link", stamp * S, (x, 0, 0), STILL)
    assert [buffer.lookup("odom", "base_link", t * S // 2)[0, 3] for t in (2, 3, 4, 5, 6)] == [
        1,
        1.5,
        2,
        2.5,
        3,
    ]


def test_history_is_bounded():
    buffer = TransformBuffer(history_ns=10 * S)
    for k in range(2001):
        buffer.add("odom", "base_link", k * 10 * MS, (k, 0, 0), STILL)
    assert buffer.lookup("odom", "base_link", 10 * S)[0, 3] == 1000
    with pytest.raises(TransformError):
        buffer.lookup("odom", "base_link", 9 * S)
    assert len(buffer._frames["base_link"]._stamps) == 1001


def test_what_comes_too_late_is_ignored_and_counted():
    buffer = TransformBuffer(history_ns=10 * S)
    for k in range(121):
        buffer.add("odom", "base_link", 100 * S + k * 100 * MS, (k, 0, 0), STILL)
    buffer.add("odom", "base_link", 101 * S, (-1.0, 0, 0), STILL)
    assert buffer.ignored == 1
    assert buffer.lookup("odom", "base_link", 112 * S)[0, 3] == 120
    assert buffer.lookup("odom", "base_link", 102 * S)[0, 3] == 20
    buffer.clear()  # the clock was set back
    buffer.add("odom", "base_link", 1 * S, (2.0, 0, 0), STILL)
    assert buffer.lookup("odom", "base_link", 1 * S)[0, 3] == 2.0


def test_clear_keeps_what_is_static():
    buffer = TransformBuffer()
    buffer.add("base_link", "camera", 0, (1.0, 0, 0), STILL, static=True)
    buffer.add("odom", "base_link", 0, (1.0, 0, 0), STILL)
    buffer.clear()
    assert buffer.lookup("base_link", "camera", 9 * S)[0, 3] == 1.0
    with pytest.raises(TransformError):
        buffer.lookup("odom", "camera", 0)


def test_what_is_not_known_is_named():
    buffer = TransformBuffer()
    with pytest.raises(TransformError) as error:
        buffer.lookup("lidar", "camera", 0)
    assert (error.value.target, error.value.source) == ("lidar", "camera")
    buffer.add("a", "lidar", 0, (0, 0, 0), STILL, static=True)
    buffer.add("b", "camera", 0, (0, 0, 0), STILL, static=True)
    with pytest.raises(TransformError):
        buffer.lookup("lidar", "camera", 0)
    np.testing.assert_array_equal(buffer.lookup("x", "x", 0), np.eye(4))


def test_a_frame_may_change_its_parent_but_not_become_its_own_ancestor():
    buffer = TransformBuffer()
    buffer.add("map", "odom", 0, (1.0, 0, 0), STILL, static=True)
    buffer.add("odom", "base_link", 0, (1.0, 0, 0), STILL, static=True)
    for parent, child in (("base_link", "map"), ("base_link", "odom"), ("odom", "odom")):
        with pytest.raises(TransformError):
            buffer.add(parent, child, 0, (0, 0, 0), STILL)
    assert buffer.lookup("map", "base_link", 0)[0, 3] == 2.0
    buffer.add("map", "base_link", 4 * S, (5.0, 0, 0), STILL)
    assert buffer.lookup("map", "base_link", 4 * S)[0, 3] == 5.0
    buffer.add("base_link", "odom", 4 * S, (0.5, 0, 0), STILL)  # now it may
    assert buffer.lookup("map", "odom", 4 * S)[0, 3] == 5.5


def test_what_was_known_below_another_parent_is_forgotten():
    buffer = TransformBuffer()
    buffer.add("trailer", "load", 1 * S, (1.0, 0, 0), STILL)
    buffer.add("dock", "load", 2 * S, (7.0, 0, 0), STILL)
    assert buffer.lookup("dock", "load", 2 * S)[0, 3] == 7.0
    with pytest.raises(TransformError):
        buffer.lookup("dock", "load", 1 * S)


@pytest.mark.parametrize(
    ("translation", "quaternion"),
    [
        ((0, 0, np.nan), STILL),
        ((0, 0, 0), (0, 0, np.inf, 1)),
        ((0, 0), STILL),
        ((0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_what_is_no_transform_is_refused(translation, quaternion):
    buffer = TransformBuffer()
    with pytest.raises(TransformError) as error:
        buffer.add("a", "b", 0, translation, quaternion)
    assert (error.value.target, error.value.source) == ("a", "b")
    with pytest.raises(TransformError):
        buffer.lookup("a", "b", 0)


@pytest.mark.parametrize("names", [("", "b"), ("a", ""), ("/", "b")])
def test_a_frame_without_a_name_is_refused(names):
    with pytest.raises(TransformError):
        TransformBuffer().add(*names, 0, (0, 0, 0), STILL)


def test_of_a_message_all_transforms_but_the_bad_ones_are_used():
    rows = [(7, "odom", "base", (1, 0, 0), 0.0), (7, "base", "wheel", (0, np.nan, 0), 0.0)]
    rows += [(7, "base", "odom", (0, 0, 0), 0.0), (7, "base", "lidar", (0, 0, 2), 0.0)]
    buffer, errors = TransformBuffer(), []
    assert buffer.add_message(drives.transforms(rows), False, errors.append) == 2
    np.testing.assert_array_equal(buffer.lookup("odom", "lidar", 7)[:3, 3], (1, 0, 2))
    assert ["'wheel'" in str(errors[0]), "its own ancestor" in str(errors[1])] == [True, True]
    assert buffer.add_message(b"\0\1\0\0\1", False, errors.append) == 0
    assert len(errors) == 3
