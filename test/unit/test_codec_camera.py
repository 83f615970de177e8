"""CameraInfo to a camera model, and frames to tensors."""

import gc
import warnings

import numpy as np
import pytest
import torch
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import encode_image, parse_camera_info, parse_image
from perception_rt.codec.tensor import as_tensor
from perception_rt.types import CameraFrame, CodecError

STORE = get_typestore(Stores.ROS2_JAZZY)
K = np.array([[700.0, 0, 480], [0, 710, 270], [0, 0, 1]])


def message(height=540, width=960, k=K, d=(0.1, -0.2, 0.0, 0.0, 0.01)):
    types = STORE.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](5, 6), "camera")
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return types["sensor_msgs/msg/CameraInfo"](
        header, height, width, "plumb_bob", np.array(d), k.ravel(), np.eye(3).ravel(), np.zeros(12), 0, 0, roi
    )


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, "sensor_msgs/msg/CameraInfo", little_endian=little))


@pytest.mark.parametrize("form", ["object", "little", "big"])
@pytest.mark.parametrize("d", [(), (0.1, -0.2, 0.0, 0.0, 0.01)])
def test_camera_info(form, d):
    msg = message(d=d)
    camera = parse_camera_info(msg if form == "object" else serialized(msg, form == "little"))
    assert (camera.stamp_ns, camera.frame_id, camera.height, camera.width) == (
        5_000_000_006,
        "camera",
        540,
        960,
    )
    assert camera.distortion_model == "plumb_bob"
    assert camera.k.dtype == camera.d.dtype == np.float64
    np.testing.assert_array_equal(camera.k, K)
    np.testing.assert_array_equal(camera.d, d)


@pytest.mark.parametrize(
    ("field", "msg"),
    [("k", message(k=np.zeros((3, 3)))), ("k", message(k=K * np.nan)), ("height, width", message(width=0))],
)
def test_camera_that_cannot_be_used_names_the_field(field, msg):
    with pytest.raises(CodecError) as error:
        parse_camera_info(msg)
    assert error.value.field == field


def test_camera_info_truncated_anywhere_is_an_error():
    raw = serialized(message())
    for end in range(
        raw.index(np.float64(270).tobytes())
    ):  # K's last two rows and what follows are not all read
        with pytest.raises(CodecError):
            parse_camera_info(raw[:end])
    with pytest.raises(CodecError, match="not a sensor_msgs/CameraInfo"):
        parse_camera_info(object())


def test_tensor_shares_the_message_without_a_warning():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    frame = parse_image(encode_image(pixels, "rgb8", 0, "camera")).decode()
    address = frame.pixels.__array_interface__["data"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(frame.pixels)
    assert tensor.data_ptr() == address
    assert (tensor.dtype, tensor.shape) == (torch.uint8, (4, 6, 3))
    del frame
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), pixels)


@pytest.mark.parametrize(
    ("view", "shared"),
    [
        (lambda p: p[:, :4], True),
        (lambda p: p[1:, 1:5], True),
        (lambda p: p[::-1], False),
        (lambda p: p[..., ::-1], False),
        (lambda p: np.broadcast_to(p[..., :1], p.shape), True),
    ],
    ids=["padded rows", "crop", "upside down", "channels reversed", "grey"],
)
@pytest.mark.parametrize("writeable", [True, False])
def test_tensor_of_any_strides(view, shared, writeable):
    base = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    base.flags.writeable = writeable
    pixels = view(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(CameraFrame(pixels, False, 0, "camera").pixels)
    np.testing.assert_array_equal(tensor.numpy(), pixels)
    assert np.shares_memory(tensor.numpy(), base) == shared
