"""CameraInfo to a camera model, and frames to tensors."""

import gc
import warnings

import numpy as np
import pytest
import torch
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from perception_rt.codec import encode_image, parse_camera_info, parse_image
from perception_rt.codec.tensor import as_tensor
from perception_rt.types import CameraFrame, CodecError

STORE = get_typestore(Stores.ROS2_JAZZY)
K = np.array([[700.0, 0, 480], [0, 710, 270], [0, 0, 1]])


P = np.array([[690.0, 0, 470, -69], [0, 690, 265, 0], [0, 0, 1, 0]])


def message(height=540, width=960, k=K, d=(0.1, -0.2, 0.0, 0.0, 0.01), frame="camera", **more):
    """`roi`: x, y, height, width."""
    values = {"r": np.eye(3), "p": P, "binning": (0, 0), "roi": (0, 0, 0, 0)} | more
    types = STORE.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](5, 6), frame)
    roi = types["sensor_msgs/msg/RegionOfInterest"](*values["roi"], False)
    matrices = (np.array(k).ravel(), np.array(values["r"]).ravel(), values["p"].ravel())
    return types["sensor_msgs/msg/CameraInfo"](
        header, height, width, "plumb_bob", np.array(d), *matrices, *values["binning"], roi
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
    [
        ("k", message(k=np.zeros((3, 3)))),
        ("k", message(k=K * np.nan)),
        ("k", message(k=np.diag((700.0, 710, 0)))),  # singular
        ("k", message(k=np.eye(3))),  # a focal length of one pixel
        ("k", message(k=np.fliplr(K))),
        ("d", message(d=(0.1, np.inf))),
        ("r", message(r=np.ones((3, 3)))),
        ("height, width", message(width=0)),
        ("roi", message(roi=(10, 0, 540, 960))),
        ("roi", message(roi=(960, 0, 0, 0))),
        ("roi", message(roi=(0, 100, 500, 960))),
    ],
)
def test_camera_that_cannot_be_used_names_the_field(field, msg):
    with pytest.raises(CodecError) as error:
        parse_camera_info(msg)
    assert error.value.field == field


def test_camera_info_truncated_anywhere_is_an_error():
    raw = serialized(message())
    for end in range(len(raw) - 1):  # whether its region is to be rectified is not read
        with pytest.raises(CodecError):
            parse_camera_info(raw[:end])
    with pytest.raises(CodecError, match="not a sensor_msgs/CameraInfo"):
        parse_camera_info(object())
    for field, rectified in (("k", False), ("r", False), ("p", True)):
        msg = message()
        setattr(msg, field, [1.0, 2.0])
        with pytest.raises(CodecError, match="numbers") as error:
            parse_camera_info(msg, image_is_rectified=rectified)
        assert error.value.field == field


@pytest.mark.parametrize("form", ["object", "bytes"])
def test_binning_and_region_of_interest(form):
    """The region is of the whole sensor, the binning comes after (sensor_msgs/CameraInfo)."""
    msg = message(binning=(2, 2), roi=(100, 40, 400, 800))
    camera = parse_camera_info(msg if form == "object" else serialized(msg))
    assert (camera.width, camera.height) == (400, 200)
    np.testing.assert_allclose(camera.k, [[350, 0, 190], [0, 355, 115], [0, 0, 1]])
    point = np.array([0.3, 0.2, 2.0])
    whole = K @ point / point[2]
    np.testing.assert_allclose((camera.k @ point / point[2])[:2], (whole[:2] - (100, 40)) / 2)


def test_a_region_of_one_pixel_is_a_region():
    camera = parse_camera_info(message(roi=(959, 539, 1, 1)))
    assert (camera.width, camera.height) == (1, 1)


def test_of_a_rectified_image_p_holds_and_its_baseline():
    camera = parse_camera_info(message(binning=(2, 1)), image_is_rectified=True)
    assert camera.d.size == 0
    np.testing.assert_allclose(camera.k, [[345, 0, 235], [0, 690, 265], [0, 0, 1]])
    point = np.array([1.0, 0.5, 4.0])
    u, v, w = P @ (*point, 1)
    pixel = camera.k @ (camera.camera_from_frame @ (*point, 1))[:3]
    np.testing.assert_allclose(pixel[:2] / pixel[2], (u / w / 2, v / w))
    with pytest.raises(CodecError, match="p="):
        parse_camera_info(message(p=np.zeros((3, 4))), image_is_rectified=True)


def test_of_a_raw_image_the_rectification_is_undone():
    turn = Rotation.from_euler("y", 2, degrees=True).as_matrix()
    camera = parse_camera_info(message(r=turn))
    np.testing.assert_allclose(camera.camera_from_frame[:3, :3], turn.T)
    np.testing.assert_array_equal(parse_camera_info(message(r=np.zeros((3, 3)))).camera_from_frame, np.eye(4))


def test_a_leading_slash_of_the_frame_goes():
    assert parse_camera_info(message(frame="/camera")).frame_id == "camera"


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
