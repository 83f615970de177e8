"""One detection that makes no box costs the message nothing else."""

from types import SimpleNamespace as Struct

import numpy as np
import pytest

from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.types import CodecError


def hypothesis(score):
    return Struct(hypothesis=Struct(class_id="car", score=score), pose=Struct(covariance=[0.0] * 36))


def array(boxes, results=None):
    header = Struct(stamp=Struct(sec=1, nanosec=0), frame_id="lidar")
    rows = []
    for k, box in enumerate(boxes):
        hypotheses = [hypothesis(0.5)] if results is None else results[k]
        rows.append(Struct(header=header, bbox=box, results=hypotheses, id=str(k)))
    return Struct(header=header, detections=rows)


def box3(x=5.0, turn=(0.0, 0.0, 0.0, 1.0), size=(4.0, 2.0, 1.5)):
    orientation = Struct(**dict(zip("xyzw", turn, strict=True)))
    return Struct(
        center=Struct(position=Struct(x=x, y=0.0, z=0.0), orientation=orientation),
        size=Struct(**dict(zip("xyz", size, strict=True))),
    )


def box2(x=5.0, theta=0.0, width=3.0):
    return Struct(center=Struct(position=Struct(x=x, y=1.0), theta=theta), size_x=width, size_y=2.0)


def score(value):
    return [hypothesis(value)]


@pytest.mark.parametrize(
    "bad",
    [
        box3(x=np.nan),
        box3(x=1e300),
        box3(turn=(0.0, 0.0, 0.0, 0.0)),
        box3(turn=(np.nan, 0.0, 0.0, 1.0)),
        box3(turn=(0.1, 0.0, 0.0, 1.0)),
        box3(size=(-1.0, 2.0, 1.5)),
    ],
    ids=["nan", "overflow", "zero quaternion", "nan quaternion", "tilted", "negative size"],
)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_the_good_boxes_of_3d_are_kept(bad, at):
    boxes = [box3(x=float(k)) for k in range(3)]
    boxes.insert(at, bad)
    message = decode_named_detections3d(array(boxes))
    assert message.detections.xyzlwh_yaw[:, 0].tolist() == [0, 1, 2]
    assert message.ids == [str(k) for k in range(4) if k != at]
    assert len(message.rejected) == 1
    assert message.rejected[0].startswith(f"detections[{at}]: ")


@pytest.mark.parametrize("bad", [box2(x=np.inf), box2(theta=np.nan), box2(width=-1.0)])
def test_the_good_boxes_of_2d_are_kept(bad):
    message = decode_named_detections(array([box2(), bad, box2(x=9.0)]))
    assert message.detections.xyxy[:, 0].tolist() == [3.5, 7.5]
    assert len(message.rejected) == 1


@pytest.mark.parametrize("results", [[], score(np.nan), score(1e300)], ids=["none", "nan", "overflow"])
def test_a_detection_without_a_usable_score_is_left_out(results):
    message = decode_named_detections3d(array([box3(), box3()], [score(0.5), results]))
    assert len(message.detections) == 1
    assert len(message.rejected) == 1


def test_a_message_without_a_good_box_is_an_error():
    with pytest.raises(CodecError, match="orientation"):
        decode_named_detections3d(array([box3(turn=(0.0, 0.0, 0.0, 0.0))]))


def test_an_empty_message_is_a_result():
    message = decode_named_detections3d(array([]))
    assert len(message.detections) == 0
    assert message.rejected == ()
