"""The live view in Rerun, read back by Rerun's own reader; and sent to its server."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception_rt.codec import encode_compressed, parse_camera_info, parse_image, parse_points
from perception_rt.replay.bag import BagMessage
from perception_rt.replay.live import open_live
from perception_rt.types import ConfigError

from . import looks

pytest.importorskip("rerun", reason="pip install rerun-sdk")

FRAMES = 3
LIMIT_S = 20


def show(live, messages: list[BagMessage]) -> None:
    for message in messages:
        live.message(message.topic, message.message_type, message.log_ns, message.data)


def rows(path: Path) -> dict[str, list[dict]]:
    """The rows of a recording by entity, in order of time: values by component, and `bag_time` in ns."""
    from rerun.chunk import RrdReader

    found: dict[str, list[dict]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        if "bag_time" in batch.schema.names:
            index = batch.schema.get_field_index("bag_time")
            batch = batch.set_column(index, "bag_time", batch.column(index).cast("int64"))
        found.setdefault(chunk.entity_path, []).extend(batch.to_pylist())
    return {entity: sorted(of, key=lambda row: row.get("bag_time", 0)) for entity, of in found.items()}


@pytest.fixture(scope="module")
def messages(shared_data) -> list[BagMessage]:
    return looks.seen(shared_data, FRAMES)


@pytest.fixture(scope="module")
def drawn(messages, tmp_path_factory) -> dict[str, list[dict]]:
    """What the file says of `messages`, and of an age after each image."""
    path = tmp_path_factory.mktemp("rerun") / "drive.rrd"
    live = open_live(f"rerun:{path}")
    assert live.begin({}, LIMIT_S)
    assert str(path) in live.where
    for message in messages:
        show(live, [message])
        if message.topic == looks.DETECTIONS:
            live.ages(looks.DETECTIONS, message.log_ns, 20.5)
    live.close()
    return rows(path)


def of(messages: list[BagMessage], topic: str) -> list[BagMessage]:
    return [message for message in messages if message.topic == topic]


@pytest.mark.parametrize(
    "topic",
    [
        looks.IMAGE,
        looks.CAMERA_INFO,
        looks.POINTS,
        looks.DETECTIONS,
        looks.TRACKS,
        looks.PREDICTIONS,
        looks.ODOMETRY,
        looks.PATH,
    ],
)
def test_every_message_is_a_row_at_its_log_time(messages, drawn, topic):
    assert [row["bag_time"] for row in drawn[topic]] == [message.log_ns for message in of(messages, topic)]


def test_what_rerun_draws_itself_is_left_out(drawn):
    assert not {looks.ANNOTATED, looks.MARKERS, "/diagnostics", "/notes"} & drawn.keys()


def test_a_picture_is_that_of_the_message(messages, drawn):
    for message, row in zip(of(messages, looks.IMAGE), drawn[looks.IMAGE], strict=True):
        ((blob,), (media_type,)) = row["EncodedImage:blob"], row["EncodedImage:media_type"]
        assert media_type == "image/jpeg"
        seen = cv2.imdecode(np.frombuffer(bytes(blob), np.uint8), cv2.IMREAD_COLOR).astype(int)
        assert np.abs(seen - parse_image(message.data).decode().pixels).mean() < 4  # 0 to 255: it is a JPEG


def test_a_cloud_is_that_of_the_message(messages, drawn):
    for message, row in zip(of(messages, looks.POINTS), drawn[looks.POINTS], strict=True):
        cloud = parse_points(message.data).decode()
        assert np.array_equal(np.array(row["Points3D:positions"], np.float32), cloud.points[:, :3])
        assert len(row["Points3D:colors"]) == len(cloud.points)
        assert row["CoordinateFrame:frame"] == [cloud.frame_id]


def test_boxes_have_place_size_turn_and_words(drawn):
    row = drawn[looks.TRACKS][0]
    boxes = looks.BOXES.xyzlwh_yaw
    assert np.allclose(row["Boxes3D:centers"], boxes[:, :3])
    assert np.allclose(row["Boxes3D:half_sizes"], boxes[:, 3:6] / 2)
    x, y, z, w = np.array(row["Boxes3D:quaternions"]).T
    assert np.allclose(2 * np.arctan2(z, w), boxes[:, 6])
    assert not np.any((x, y))
    assert row["Boxes3D:labels"] == ["Car 1 0.90", "Pedestrian 2 0.50"]
    flat = drawn[looks.DETECTIONS][0]
    centres, halves = np.array(flat["Boxes2D:centers"]), np.array(flat["Boxes2D:half_sizes"])
    assert np.allclose(np.hstack((centres - halves, centres + halves)), looks.BOXES_2D.xyxy)
    assert flat["Boxes2D:labels"] == ["Car 0.90", "Pedestrian 0.50"]
    assert flat["Boxes2D:colors"] == row["Boxes3D:colors"]  # a class has one colour


def test_predictions_are_a_line_for_each_track(drawn):
    lines = np.array(drawn[looks.PREDICTIONS][0]["LineStrips3D:strips"])
    boxes = looks.predicted().xyzlwh_yaw
    assert np.allclose(lines, boxes[:, :3].reshape(len(looks.BOXES), looks.STEPS, 3))


def test_the_vehicle_and_its_path(drawn):
    arrow = drawn[looks.ODOMETRY][0]
    assert np.allclose(arrow["Arrows3D:origins"], [[3, 4, 0]])
    assert np.allclose(arrow["Arrows3D:vectors"], [[2 * np.cos(0.5), 2 * np.sin(0.5), 0]])
    assert np.allclose(drawn[looks.PATH][0]["LineStrips3D:strips"], [[[3, 4, 0], [4, 5, 0], [5, 6, 0]]])
    assert arrow["CoordinateFrame:frame"] == ["odom"]


def test_cameras_and_sensors_are_where_the_recording_says(messages, drawn):
    camera = parse_camera_info(of(messages, looks.CAMERA_INFO)[0].data)
    pinhole = drawn[looks.CAMERA_INFO][0]
    assert np.allclose(np.array(pinhole["Pinhole:image_from_camera"]).reshape(3, 3).T, camera.k)
    assert pinhole["Pinhole:resolution"] == [[camera.width, camera.height]]
    plane = pinhole["Pinhole:child_frame"]
    assert drawn[looks.IMAGE][0]["CoordinateFrame:frame"] == plane
    assert drawn[looks.DETECTIONS][0]["CoordinateFrame:frame"] == plane
    (moved,) = drawn["/tf_static/camera_front"]
    assert "bag_time" not in moved  # it holds always
    assert (moved["Transform3D:parent_frame"], moved["Transform3D:child_frame"]) == (
        ["velodyne"],
        pinhole["Pinhole:parent_frame"],
    )


def test_ages_are_a_curve_with_a_name(drawn):
    curve = drawn[f"/age_ms{looks.DETECTIONS}"]
    points = [row["Scalars:scalars"] for row in curve if "bag_time" in row]
    assert points == [[20.5]] * FRAMES
    assert [row["SeriesLines:names"] for row in curve if "bag_time" not in row] == [[looks.DETECTIONS]]


def test_the_views_are_told(messages, tmp_path):
    from rerun.chunk import RrdReader

    path = tmp_path / "views.rrd"
    live = open_live(f"rerun:{path}")
    show(live, messages)
    live.close()
    reader = RrdReader(path)
    last = max(
        ({chunk.entity_path: chunk for chunk in reader.stream(store=store)} for store in reader.blueprints()),
        key=len,
    )
    classes = [
        batch.to_pylist()[0]["ViewBlueprint:class_identifier"]
        for batch in (chunk.to_record_batch() for chunk in last.values())
        if "ViewBlueprint:class_identifier" in batch.schema.names
    ]
    assert sorted(name for (name,) in classes) == ["2D", "3D", "TextLog", "TimeSeries"]


def test_what_does_not_parse_is_a_note_and_what_is_empty_clears(messages, tmp_path):
    path = tmp_path / "odd.rrd"
    live = open_live(f"rerun:{path}")
    live.message(looks.POINTS, "sensor_msgs/msg/PointCloud2", 1, b"\0\1\0\0cut")
    live.message("/strange", "strange_msgs/msg/Thing", 2, b"\0\1\0\0")
    empty = looks.Detection3DEncoder(looks.CLASSES).encode(looks.BOXES[:0], 3, "velodyne")
    live.message(looks.TRACKS, "vision_msgs/msg/Detection3DArray", 3, empty)
    live.message(looks.PREDICTIONS, "vision_msgs/msg/Detection3DArray", 3, empty)
    live.close()
    found = rows(path)
    ((note,),) = (row["TextLog:text"] for row in found["/notes"])
    assert note.startswith(f"{looks.POINTS}: ")
    assert "/strange" not in found
    assert found[looks.TRACKS][0]["Boxes3D:centers"] == []
    assert found[looks.PREDICTIONS][0]["LineStrips3D:strips"] == []


def test_a_compressed_picture_passes_as_it_is(messages, tmp_path):
    path = tmp_path / "png.rrd"
    frame = parse_image(of(messages, looks.IMAGE)[0].data).decode()
    _, png = cv2.imencode(".png", frame.pixels)
    live = open_live(f"rerun:{path}")
    data = encode_compressed(png, "png", frame.stamp_ns, frame.frame_id)
    live.message("/camera/compressed", "sensor_msgs/msg/CompressedImage", 1, data)
    live.close()
    (row,) = rows(path)["/camera/compressed"]
    assert row["EncodedImage:media_type"] == ["image/png"]
    assert bytes(row["EncodedImage:blob"][0]) == png.tobytes()


@contextmanager
def server(path: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """Rerun's own server, which saves what it is sent: its port, and the process."""
    import rerun_cli

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(rerun_cli.__file__).with_name("rerun")
    command = [program, "--save", path, "--bind", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        within_limit(lambda: listens(port))
        yield port, process
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def within_limit(done: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_viewer_elsewhere_gets_the_same(messages, drawn, tmp_path):
    path = tmp_path / "received.rrd"
    expected = {entity: len(found) for entity, found in drawn.items() if "age_ms" not in entity}

    def complete() -> bool:
        try:
            return {entity: len(found) for entity, found in rows(path).items()} == expected
        except (OSError, RuntimeError, ValueError):  # it is being written
            return False

    with server(path) as (port, _):
        live = open_live(f"rerun:127.0.0.1:{port}")
        show(live, messages)
        live.close()
        within_limit(complete)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["closed", "hangs"])
def test_a_viewer_that_goes_does_not_take_the_replay_with_it(messages, tmp_path, monkeypatch, end):
    from perception_rt.replay.live import rerun

    monkeypatch.setattr(rerun, "_FLUSH_S", 1.0)
    with server(tmp_path / "received.rrd") as (port, process):
        live = open_live(f"rerun:127.0.0.1:{port}")
        show(live, messages)
        process.send_signal(end)
        for _ in range(20):
            show(live, messages)
        began = time.monotonic()
        live.close()
        assert time.monotonic() - began < 5


def test_what_cannot_be_opened_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no such folder"):
        open_live(f"rerun:{tmp_path / 'none' / 'drive.rrd'}")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConfigError, match=f"no viewer at 127.0.0.1:{port} .*; start one there: rerun"):
            open_live(f"rerun:127.0.0.1:{port}")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="no display here; use rerun:FILE"):
        open_live("rerun")
