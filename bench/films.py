"""Films of two real recordings, with pictures; writes out/films/six_cameras.mp4 and out/films/deskew.mp4.

`six_cameras`: the keyframe of six cameras and a lidar, by `config/six_cameras.yaml`: the detections of each
camera, of the lidar, and both fused in base_link, on all six pictures and from above.

`deskew`: the drive through a city on a made vehicle at 15 m/s in a turn: each sweep is bent as its motion
bends it, and its points get times. Left as measured, right with the motion undone by /tf, of which odometry
tells 97 %; white are the boxes of the recorded clouds, which deskewing should give.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.serialization import serialize_message
from rich.console import Console
from sensor_msgs.msg import PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from bench.command import command, no_arguments
from bench.deskew import ODOMETRY, TWISTS, bent, centre_errors
from bench.inputs import CITY, DATA
from perception_rt.cli.demo.film import Film
from perception_rt.cli.main import main as perception_rt
from perception_rt.codec.camera_info import CameraModel, parse_camera_info
from perception_rt.codec.compressed import parse_compressed
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.codec.image import parse_image
from perception_rt.codec.points import parse_points
from perception_rt.codec.transforms import parse_transforms
from perception_rt.component.graph import read_graph
from perception_rt.node.source import to_time
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.lockstep.runner import Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.stage.deskew import PlanarTwist, deskewed
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections
from perception_rt.stage.fusion.fuse import SHORT
from perception_rt.stage.fusion.lidars import move_boxes
from perception_rt.stage.fusion.project import box_corners
from perception_rt.stage.transforms import TransformBuffer, camera_way, transform
from perception_rt.types import ConfigError, Detections3D, LidarFrame

OUT = Path("out/films")
CONFIG = Path(__file__).parents[1] / "config" / "six_cameras.yaml"
ROWS = (("front_left", "front", "front_right"), ("back_left", "back", "back_right"))
WIDTH, HEIGHT = 640, 360  # of a picture of the six
RATE_HZ, SECONDS = 10.0, 2.5  # of the film of one moment; how long each of its scenes is shown
TWIST = TWISTS["turn_15_m_s"]
LIDAR_HEIGHT_M = 1.73
FORWARD_M, SIDEWAYS_M, PX_PER_M = (-3.0, 40.0), (-20.0, 20.0), 16.0  # range of the view from above
TOLD = PlanarTwist(*(ODOMETRY * value for value in TWIST))


class Camera(NamedTuple):
    """A picture, (H, W, 3) uint8 RGB, its lens, and the transform from base_link to its optical frame."""

    picture: np.ndarray
    model: CameraModel
    camera_from_base: np.ndarray


def six_cameras(out: Path) -> None:
    """Write the film of the keyframe."""
    with TemporaryDirectory() as folder:
        bundle = Path(folder, "yolox.pt")
        onnx = str(DATA / "models" / "yolox_nano.onnx")
        if perception_rt(["bundle", "export", "onnx", onnx, "--out", str(bundle)]):
            raise ConfigError(f"{onnx}: cannot be imported")
        with Bag(DATA / "bags" / "nuscenes_keyframe") as bag:
            cameras, points, base_from_lidar = _rig(bag)
            run = Run(
                read_graph(CONFIG), parse_inference("fixed:30"), {"camera_detector": {"bundle": str(bundle)}}
            )
            replay(run, bag, Path(folder))
        with Bag(Path(folder, "bag")) as bag:
            answers = {message.topic: message.data for message in bag.messages()}
    lidar = decode_named_detections3d(answers["/lidar_detector/detections"])
    boxes = move_boxes(lidar.detections.xyzlwh_yaw, base_from_lidar).astype(np.float32)
    lidar = replace(lidar, detections=replace(lidar.detections, xyzlwh_yaw=boxes))
    fused = decode_named_detections3d(answers["/fusion/detections"])
    found = {
        name: decode_named_detections(answers[f"/camera_detector/cam_{name}/detections"]) for name in cameras
    }
    with Film(out, "six_cameras", RATE_HZ, round(RATE_HZ * SECONDS), 3) as film:
        images = {
            name: draw_detections(one.picture, found[name].detections, found[name].classes)
            for name, one in cameras.items()
        }
        nothing = replace(lidar, detections=Detections3D.empty(), ids=[])
        for title, boxes, pictures in (
            ("what each camera found", nothing, images),
            ("what the lidar found", lidar, None),
            ("fused in base_link (C camera, L lidar)", fused, None),
        ):
            scene = _scene(title, boxes, cameras, points, pictures)
            for _ in range(round(RATE_HZ * SECONDS)):
                film.add(scene)


def _rig(bag: Bag) -> tuple[dict[str, Camera], np.ndarray, np.ndarray]:
    """Return the cameras by name, the cloud in base_link, and the transform from its frame to base_link."""
    transforms, models, pictures = TransformBuffer(), {}, {}
    cloud: LidarFrame | None = None
    for message in bag.messages():
        name = message.topic.split("/")[1].removeprefix("cam_")
        if message.topic == "/tf_static":
            for one in parse_transforms(message.data):
                transforms.add(one.parent, one.child, 0, one.translation, one.quaternion, static=True)
        elif message.topic.endswith("/camera_info"):
            models[name] = parse_camera_info(message.data)
        elif message.topic.endswith("/compressed"):
            frame = parse_compressed(message.data).decode()
            pictures[name] = frame.pixels[:, :, ::-1] if frame.bgr else frame.pixels
        else:
            cloud = parse_points(message.data).decode()
    assert cloud is not None
    cameras = {}
    for name in (name for row in ROWS for name in row):
        model = models[name]
        way = camera_way(transforms.lookup, model, "base_link", 0, f"cam_{name}")
        cameras[name] = Camera(pictures[name], model, way)
    points = cloud.points.copy()
    base_from_lidar = transforms.lookup("base_link", cloud.frame_id, 0)
    points[:, :3] = transform(base_from_lidar, points[:, :3].astype(float))
    return cameras, points, base_from_lidar


def _scene(
    title: str,
    found: NamedDetections[Detections3D],
    cameras: dict[str, Camera],
    points: np.ndarray,
    pictures: dict[str, np.ndarray] | None,
) -> np.ndarray:
    """Six pictures in two rows, with the boxes in them unless `pictures` are given, and all from above."""
    notes = [SHORT.get(one, "") for one in found.ids]
    rows = []
    for names in ROWS:
        tiles = []
        for name in names:
            one = cameras[name]
            tile = (
                draw_boxes3d(
                    one.picture, found.detections, found.classes, one.model, one.camera_from_base, notes=notes
                )
                if pictures is None
                else pictures[name]
            )
            tile = cv2.resize(tile, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            tiles.append(_caption(tile, name.replace("_", " ")))
        rows.append(np.hstack(tiles))
    side, reach = 2 * HEIGHT, 40.0
    above = draw_bev(
        points,
        found.detections,
        found.classes,
        (-reach, reach),
        (-reach, reach),
        side / (2 * reach),
        notes=notes,
    )
    return np.hstack([np.vstack(rows), _caption(above, title)])


def _caption(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text at its lower left."""
    picture = np.ascontiguousarray(picture)
    place = 8, len(picture) - 12
    for shade, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, shade, width, cv2.LINE_AA)
    return picture


def deskew(out: Path) -> None:
    """Write the film of the drive."""
    with TemporaryDirectory() as folder:
        made = Path(folder, "made")
        frames, images = _make_drive(made)
        still = _detect(CITY, Path(folder, "still"), "")
        skewed = _detect(made, Path(folder, "skewed"), "")
        mended = _detect(made, Path(folder, "mended"), "odom")
    errors: tuple[list[float], list[float]] = [], []
    with Film(out, "deskew", 5.0, len(frames), len(frames) // 5) as film:
        for stamp_ns, frame in frames.items():
            halves = []
            right = deskewed(frame, TOLD, _mounting())
            for title, cloud, answer, errors_m in (
                ("as measured", frame, skewed[stamp_ns], errors[0]),
                ("motion undone", right, mended[stamp_ns], errors[1]),
            ):
                truth = still[stamp_ns].detections
                errors_m += centre_errors(answer.detections.xyzlwh_yaw, truth.xyzlwh_yaw)
                text = f"{title}: boxes {np.median(errors_m):.2f} m off"
                halves.append(_caption(_above(cloud, answer, truth), text))
            both = np.hstack(halves)
            image = images[stamp_ns]
            size = both.shape[1], round(both.shape[1] * image.shape[0] / image.shape[1])
            film.add(np.vstack([cv2.resize(image, size, interpolation=cv2.INTER_AREA), both]))


def _above(cloud: LidarFrame, answer: NamedDetections[Detections3D], truth: Detections3D) -> np.ndarray:
    """Draw the cloud from above with the detected and the true boxes."""
    drawn = draw_bev(cloud.points, answer.detections, answer.classes, FORWARD_M, SIDEWAYS_M, PX_PER_M)
    corners = box_corners(truth.xyzlwh_yaw.astype(np.float64))[:, :4, :2]
    pixels = (np.array((SIDEWAYS_M[1], FORWARD_M[1])) - corners[..., ::-1]) * PX_PER_M
    for one in pixels.round().astype(np.int32):
        cv2.polylines(drawn, [np.ascontiguousarray(one)], True, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def _mounting() -> np.ndarray:
    mounting = np.eye(4)
    mounting[2, 3] = LIDAR_HEIGHT_M
    return mounting


def _make_drive(folder: Path) -> tuple[dict[int, LidarFrame], dict[int, np.ndarray]]:
    """Write the recording of the made vehicle; return its clouds and pictures, RGB, by the clouds' stamps."""
    frames: dict[int, LidarFrame] = {}
    images: dict[int, np.ndarray] = {}
    with Bag(CITY) as bag, BagWriter(folder) as writer:
        pictures = {}
        for message in bag.messages(["/camera/front/image_raw", "/lidar/points"]):
            if message.topic == "/lidar/points":
                cloud = parse_points(message.data).decode()
                frame = bent(np.ascontiguousarray(cloud.points), TWIST)
                frames[cloud.stamp_ns] = replace(frame, stamp_ns=cloud.stamp_ns, frame_id=cloud.frame_id)
            else:
                picture = parse_image(message.data).decode()
                pictures[picture.stamp_ns] = picture.pixels[:, :, ::-1] if picture.bgr else picture.pixels
        first, last = min(frames), max(frames)
        still = _transforms([_pose(0, "base_link", "velodyne", _mounting())])
        writer.write("/tf_static", "tf2_msgs/msg/TFMessage", first - 10**9, still)
        for stamp_ns in range(first - 10**9, last + 10**8, 2 * 10**7):
            pose = _pose(stamp_ns, "odom", "base_link", _driven(TOLD, (stamp_ns - first) / 1e9))
            writer.write("/tf", "tf2_msgs/msg/TFMessage", stamp_ns, _transforms([pose]))
        for stamp_ns, frame in frames.items():
            writer.write("/lidar/points", "sensor_msgs/msg/PointCloud2", stamp_ns, _timed_cloud(frame))
            nearest = min(pictures, key=lambda other: abs(other - stamp_ns))
            images[stamp_ns] = pictures[nearest]
    return frames, images


def _detect(bag_path: Path, out: Path, fixed_frame: str) -> dict[int, NamedDetections[Detections3D]]:
    """Return the detections of the shipped lidar detector in a recording, by stamp."""
    out.mkdir()
    config = out / "config.yaml"
    config.write_text("lidar_detector: {ros__parameters: {points_topics: [/lidar/points]}}")
    overrides = {"lidar_detector": {"fixed_frame": fixed_frame, "output_frame": "auto"}}
    with Bag(bag_path) as bag:
        replay(Run(read_graph(config), parse_inference("fixed:20"), overrides), bag, out)
    with Bag(out / "bag") as bag:
        answers = [
            decode_named_detections3d(one.data) for one in bag.messages(["/lidar_detector/detections"])
        ]
    return {answer.stamp_ns: answer for answer in answers}


def _driven(twist: PlanarTwist, seconds: float) -> np.ndarray:
    """Return the (4, 4) pose after a constant twist without sideways motion."""
    angle = twist.yaw_rate * seconds
    radius = twist.vx / twist.yaw_rate
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    pose[:2, 3] = radius * np.sin(angle), radius * (1 - np.cos(angle))
    return pose


def _pose(stamp_ns: int, parent: str, child: str, matrix: np.ndarray) -> TransformStamped:
    """A pose that turns about z only."""
    stamped = TransformStamped(child_frame_id=child)
    stamped.header.frame_id, stamped.header.stamp = parent, to_time(stamp_ns)
    move, turn = stamped.transform.translation, stamped.transform.rotation
    move.x, move.y, move.z = matrix[:3, 3].tolist()
    half = np.arctan2(matrix[1, 0], matrix[0, 0]) / 2
    turn.z, turn.w = float(np.sin(half)), float(np.cos(half))
    return stamped


def _transforms(stamped: list[TransformStamped]) -> bytes:
    return bytes(serialize_message(TFMessage(transforms=stamped)))


def _timed_cloud(frame: LidarFrame) -> bytes:
    """The cloud as a driver publishes it: x y z intensity, and the time after the stamp in s."""
    names = ("x", "y", "z", "intensity", "time")
    fields = [
        PointField(name=name, offset=4 * k, datatype=PointField.FLOAT32, count=1)
        for k, name in enumerate(names)
    ]
    data = np.column_stack((frame.points, frame.times_s)).astype(np.float32)
    size = {"height": 1, "width": len(data), "point_step": 20, "row_step": 20 * len(data)}
    message = PointCloud2(**size, fields=fields, data=data.tobytes(), is_dense=True)
    message.header.frame_id, message.header.stamp = frame.frame_id, to_time(frame.stamp_ns)
    return bytes(serialize_message(message))


def make_films() -> None:
    """Write both films."""
    OUT.mkdir(parents=True, exist_ok=True)
    six_cameras(OUT)
    deskew(OUT)
    Console().print(f"written: {OUT}")


if __name__ == "__main__":
    no_arguments(__doc__)
    sys.exit(command(make_films))
