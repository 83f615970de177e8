"""Our transform buffer and tf2's give the same answers; most of it needs a ROS installation with tf2_ros."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from perception_rt.types import TransformError
from test.transform_table import CASES


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_tf2_agrees(case, bench):
    pytest.importorskip("tf2_ros", reason="tf2_ros is not installed: source a ROS installation")
    from geometry_msgs.msg import TransformStamped

    from perception_rt.node.transforms import Tf2Listener, subscribe_transforms

    listener = subscribe_transforms(bench.node)
    assert isinstance(listener, Tf2Listener)
    for one in case.added:
        message = TransformStamped()
        message.header.frame_id, message.child_frame_id = one.parent, one.child
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(one.stamp_ns, 10**9)
        message.transform.translation.x = one.x
        add = listener._buffer.set_transform_static if one.static else listener._buffer.set_transform
        add(message, "test")
    try:
        if case.x is None:
            with pytest.raises(TransformError):
                listener.lookup(case.target, case.source, case.stamp_ns)
        else:
            matrix = listener.lookup(case.target, case.source, case.stamp_ns)
            assert matrix[0, 3] == pytest.approx(case.x)
    finally:
        listener.close()


def test_a_stamp_before_zero_is_a_transform_error(bench):
    from perception_rt.node.transforms import Tf2Listener

    tf2_ros = SimpleNamespace(Buffer=Mock(), TransformListener=Mock(), TransformException=LookupError)
    listener = Tf2Listener(bench.node, tf2_ros)
    with pytest.raises(TransformError, match=r"stamp -0.100000 s is negative"):
        listener.lookup("odom", "lidar", -100_000_000)
    listener.close()
