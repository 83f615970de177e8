"""Several sweeps as one cloud: what stands still stays in place while the vehicle moves and turns."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from perception_rt.component.lidar_detector import LidarDetector
from perception_rt.model.runtime import Runtime
from perception_rt.stage.sweeps import joined, still_wanted
from perception_rt.stage.transforms import TransformBuffer, to_matrix, transform
from perception_rt.types import LidarFrame
from perception_rt.types.status import Level
from test.detectors import save_earlier_box

SPEED, YAW_RATE, PERIOD_NS, START_NS = 12.0, 0.4, 100_000_000, 10**9
CORNERS = np.array([[x, y, z] for x in (28, 32) for y in (-1, 1) for z in (0, 1)], float)  # in the world
MOUNTING = to_matrix(np.array([1.0, 0.5, 1.8]), Rotation.from_euler("z", 30, degrees=True).as_quat())


def base_pose(stamp_ns):
    """(4, 4) world from base on a circle."""
    turned = YAW_RATE * (stamp_ns - START_NS) / 1e9
    radius = SPEED / YAW_RATE
    place = np.array([radius * np.sin(turned), radius * (1 - np.cos(turned)), 0.0])
    return to_matrix(place, Rotation.from_euler("z", turned).as_quat())


def seen(stamp_ns, frame_id="lidar"):
    """What the lidar measures of the corners at that moment, and of the own bonnet."""
    points = transform(np.linalg.inv(base_pose(stamp_ns) @ MOUNTING), CORNERS)
    points = np.vstack((points, [0.5, 0.5, -1.0])).astype(np.float32)
    return LidarFrame(np.column_stack((points, np.ones(9, np.float32))), 0, stamp_ns, frame_id)


def tree(until_ns, mounted=True):
    """/tf at 100 Hz."""
    buffer = TransformBuffer()
    for stamp in range(START_NS - 5 * PERIOD_NS, until_ns + 1, 10_000_000):
        pose = base_pose(stamp)
        turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
        buffer.add("odom", "base_link", stamp, pose[:3, 3], turn)
    if mounted:
        turn = Rotation.from_matrix(MOUNTING[:3, :3]).as_quat()
        buffer.add("base_link", "lidar", 0, MOUNTING[:3, 3], turn, static=True)
    return buffer


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "earlier.pt"
    save_earlier_box(path, 3)
    return Runtime.open(path, "cpu", engine="reference")


def detector(runtime, transforms, **values):
    given = {parameter.name: parameter.default for parameter in LidarDetector.PARAMETERS} | values
    host = SimpleNamespace(transforms=lambda: transforms, create_publisher=lambda *_: None)
    component = LidarDetector(host, given)
    component.runtime = runtime
    component.open_outputs(["points"])
    return component


@pytest.mark.parametrize("late_ns", [0, 60_000_000])
def test_earlier_sweeps_lie_where_the_newest_is(runtime, late_ns):
    stamps = [START_NS + i * PERIOD_NS for i in range(5)]
    component = detector(runtime, tree(stamps[-1] - late_ns))
    counts = []
    for stamp in stamps:
        (placed,) = component.infer([seen(stamp)])
        counts.append(placed.joined)
        now = seen(stamp).points[:8, :3]
        (box,) = placed.detections.xyzlwh_yaw
        if placed.joined > 1:  # without the bonnet; a turn that went on unseen for 60 ms is guessed
            wanted = np.concatenate(((now.min(0) + now.max(0)) / 2, np.ptp(now, 0)))
            assert box[:6] == pytest.approx(wanted, abs=0.02 if late_ns else 1e-3)
            assert placed.detections.scores == pytest.approx(placed.joined / 10)
    assert counts == [1, 2, 3, 3, 3]
    assert not component.alone


@pytest.mark.parametrize(
    ("transforms", "values", "reason"),
    [
        (TransformBuffer(), {}, "no 'base_link' <- 'lidar'"),
        (tree(START_NS, mounted=False), {}, "no 'base_link' <- 'lidar'"),
        (tree(START_NS - PERIOD_NS), {}, "after the newest"),
        (tree(START_NS), {"fixed_frame": ""}, "fixed_frame is empty"),
        (tree(START_NS), {"base_frame": ""}, "base_frame or"),
    ],
)
def test_without_motion_the_newest_sweep_is_alone_and_it_is_said(runtime, transforms, values, reason):
    component = detector(runtime, transforms, **values)
    for i in (3, 4):
        (placed,) = component.infer([seen(START_NS + i * PERIOD_NS)])
        assert placed.joined == 1
        assert len(placed.detections) == 1
    assert reason in component.alone["lidar"]
    assert "takes 3 sweeps" in component.alone["lidar"]


def test_the_warning_ends_when_tf_comes(runtime):
    transforms = TransformBuffer()
    component = detector(runtime, transforms)
    component.infer([seen(START_NS)])
    assert component.alone
    for late in (tree(START_NS + 3 * PERIOD_NS),):
        component._transforms = late
    counts = [component.infer([seen(START_NS + i * PERIOD_NS)])[0].joined for i in (1, 2)]
    assert counts == [1, 2]
    assert not component.alone


def test_sweeps_of_another_time_and_of_other_lidars_stay_out(runtime):
    component = detector(runtime, tree(START_NS + 30 * PERIOD_NS))
    component.infer([seen(START_NS + 20 * PERIOD_NS)])
    (placed,) = component.infer([seen(START_NS + 5 * PERIOD_NS)])  # a recording began again
    assert placed.joined == 1
    (placed,) = component.infer([seen(START_NS + 16 * PERIOD_NS)])  # 1.1 s later
    assert placed.joined == 1
    (placed,) = component.infer([seen(START_NS + 17 * PERIOD_NS, "base_link")])
    assert placed.joined == 1


def test_clouds_without_points_are_joined_too():
    empty = LidarFrame(np.zeros((0, 4), np.float32), 0, START_NS, "lidar")
    newer = LidarFrame(np.ones((2, 4), np.float32), 0, START_NS + PERIOD_NS, "lidar")
    both = joined(newer, np.eye(4), [(empty, np.eye(4))])
    assert (len(both.points), both.ages_s.tolist()) == (2, [0, 0])
    other = joined(empty, np.eye(4), [(newer, np.eye(4))])
    np.testing.assert_array_equal(other.points, newer.points)
    assert newer.points.dtype == other.points.dtype == np.float32
    assert still_wanted([(newer, np.eye(4))], START_NS, 5) == []


def test_the_diagnostics_warn(runtime):
    component = detector(runtime, TransformBuffer())
    component.infer([seen(START_NS)])
    component.pipeline = SimpleNamespace(stats={})
    component.scheduler = SimpleNamespace(rate_hz=10.0, empty=0, skipped=0, deadline_misses=0)
    component.host.get_name, component.host.now_ns = lambda: "lidar_detector", lambda: START_NS
    component.active, component.watchdog.verdict = True, lambda now: (Level.OK, "running")
    component.stream_statuses = lambda *_: []
    (status,) = component.statuses()
    assert status.level is Level.WARN
    assert "takes 3 sweeps, and gets the newest alone" in status.message
