"""Convert serialized messages to Rerun archetypes and entities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import rerun as rr

from perception_rt.codec import (
    NamedDetections,
    decode_named_detections,
    decode_named_detections3d,
    parse_camera_info,
    parse_compressed,
    parse_image,
    parse_points,
    parse_transforms,
)
from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.vehicle import parse_odometry
from perception_rt.types.palette import class_colour

BOXES_3D = "vision_msgs/msg/Detection3DArray"

_JPEG_QUALITY = 90
_POINT = rr.Radius.ui_points(1.5)
_LINE = 0.04  # m
_HEIGHTS = (-2.5, 2.5)  # m from the sensor: from the road to the top of a lorry
_PATH_COLOUR = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class LiveDrawing:
    """The drawing of one message.

    Attributes:
        parts: archetypes by the part of the entity path below the topic ("" for the topic itself).
        frame: frame of 3D content, or `image_frame` for a picture; "" if the parts name their own.
        picture: whether it is drawn in the picture `frame`.
    """

    parts: dict[str, list[object]]
    frame: str = ""
    picture: bool = False


def image_frame(frame_id: str) -> str:
    """Return the name of the image plane of a camera whose optical frame is `frame_id`."""
    return f"{frame_id}/image"


class Drawing:
    """Draw messages; a class has the same colour on all topics."""

    def draw(self, topic: str, message_type: str, data: bytes) -> LiveDrawing | None:
        """Return what to log; None for types that are not drawn.

        Raises:
            CodecError: the message is malformed.
        """
        if topic.endswith("/image_annotated"):  # the viewer lays the boxes over the picture itself
            return None
        if message_type == BOXES_3D:
            if topic.endswith("/predictions"):
                return self._predictions(data)
            return self._boxes(data, topic.endswith("/tracks"))
        method = _DRAW.get(message_type)
        return method(self, data) if method else None

    def _image(self, data: bytes) -> LiveDrawing:
        frame = parse_image(data).decode()
        pixels = frame.pixels if frame.bgr else frame.pixels[..., ::-1]
        # Raw video of one camera fills a viewer's memory in minutes.
        _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        return _picture(rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg"), frame.frame_id)

    def _compressed(self, data: bytes) -> LiveDrawing:
        image = parse_compressed(data)
        media_type = f"image/{image.encoding}"
        return _picture(rr.EncodedImage(contents=image.data.tobytes(), media_type=media_type), image.frame_id)

    def _camera_info(self, data: bytes) -> LiveDrawing:
        camera = parse_camera_info(data)
        pinhole = rr.Pinhole(
            image_from_camera=camera.k,
            width=camera.width,
            height=camera.height,
            parent_frame=camera.frame_id,
            child_frame=image_frame(camera.frame_id),
        )
        return LiveDrawing({"": [pinhole]})

    def _points(self, data: bytes) -> LiveDrawing:
        cloud = parse_points(data).decode()
        low, high = _HEIGHTS
        levels = np.clip((cloud.points[:, 2] - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
        colours = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1] if len(levels) else None
        return LiveDrawing(
            {"": [rr.Points3D(cloud.points[:, :3], colors=colours, radii=_POINT)]}, cloud.frame_id
        )

    def _transforms(self, data: bytes) -> LiveDrawing:
        # An entity holds one transform at a time: each child frame has its own.
        return LiveDrawing(
            {
                moved.child: [
                    rr.Transform3D(
                        translation=moved.translation,
                        quaternion=rr.Quaternion(xyzw=moved.quaternion),
                        parent_frame=moved.parent,
                        child_frame=moved.child,
                    )
                ]
                for moved in parse_transforms(data, refuse=lambda error: None)
            }
        )

    def _detections(self, data: bytes) -> LiveDrawing:
        named = decode_named_detections(data)
        boxes = rr.Boxes2D(
            array=named.detections.xyxy,
            array_format=rr.Box2DFormat.XYXY,
            colors=self._colours(named),
            labels=_labels(named),
        )
        return _picture(boxes, named.frame_id)

    def _boxes(self, data: bytes, tracks: bool) -> LiveDrawing:
        """Return labelled boxes; labels of tracks are always visible, others when hovered."""
        named = decode_named_detections3d(data)
        x_y_z_l_w_h_yaw = named.detections.xyzlwh_yaw
        half = x_y_z_l_w_h_yaw[:, 6] / 2
        zero = np.zeros_like(half)
        boxes = rr.Boxes3D(
            centers=x_y_z_l_w_h_yaw[:, :3],
            sizes=x_y_z_l_w_h_yaw[:, 3:6],
            quaternions=np.stack([zero, zero, np.sin(half), np.cos(half)], -1),
            colors=self._colours(named),
            labels=_labels(named),
            show_labels=tracks,
            fill_mode=rr.components.FillMode.MajorWireframe,
        )
        return LiveDrawing({"": [boxes]}, named.frame_id)

    def _predictions(self, data: bytes) -> LiveDrawing:
        """Draw a line along the predicted positions of each id."""
        named = decode_named_detections3d(data)
        colours = self._colours(named)
        rows: dict[str, list[int]] = {}
        for row, id_ in enumerate(named.ids):
            rows.setdefault(id_, []).append(row)
        strips = [named.detections.xyzlwh_yaw[of, :3] for of in rows.values()]
        lines = rr.LineStrips3D(strips, colors=[colours[of[0]] for of in rows.values()], radii=_LINE)
        return LiveDrawing({"": [lines]}, named.frame_id)

    def _odometry(self, data: bytes) -> LiveDrawing | None:
        """Draw an arrow to the position in one second at constant velocity; needs pose and speed."""
        state = parse_odometry(data)
        if state.pose is None or state.speed is None:
            return None
        x, y, yaw = state.pose
        ahead = state.speed * np.cos(yaw), state.speed * np.sin(yaw), 0.0
        arrow = rr.Arrows3D(origins=[[x, y, 0.0]], vectors=[ahead], colors=[_PATH_COLOUR], radii=2 * _LINE)
        return LiveDrawing({"": [arrow]}, state.frame_id)

    def _path(self, data: bytes) -> LiveDrawing:
        reader = CdrReader(data)
        _, frame_id = reader.header()
        points = []
        for _ in range(reader.scalars("poses", "I")[0]):
            reader.header()
            points.append(reader.doubles("pose", 7)[:3])
        lines = rr.LineStrips3D([points] if points else [], colors=_PATH_COLOUR, radii=_LINE)
        return LiveDrawing({"": [lines]}, frame_id)

    def _colours(self, named: NamedDetections) -> np.ndarray:
        """(N, 3) uint8."""
        known = np.array([class_colour(name) for name in named.classes], np.uint8).reshape(-1, 3)
        return known[named.detections.labels]


def _picture(part: object, frame_id: str) -> LiveDrawing:
    return LiveDrawing({"": [part]}, image_frame(frame_id), picture=True)


def _labels(named: NamedDetections) -> list[str]:
    """Return class, id (if any) and score of each box."""
    rows = zip(named.detections.labels, named.ids, named.detections.scores, strict=True)
    return [" ".join(filter(None, (named.classes[label], id_, f"{score:.2f}"))) for label, id_, score in rows]


_DRAW: dict[str, Callable[[Drawing, bytes], LiveDrawing | None]] = {
    "sensor_msgs/msg/Image": Drawing._image,
    "sensor_msgs/msg/CompressedImage": Drawing._compressed,
    "sensor_msgs/msg/CameraInfo": Drawing._camera_info,
    "sensor_msgs/msg/PointCloud2": Drawing._points,
    "tf2_msgs/msg/TFMessage": Drawing._transforms,
    "vision_msgs/msg/Detection2DArray": Drawing._detections,
    "nav_msgs/msg/Odometry": Drawing._odometry,
    "nav_msgs/msg/Path": Drawing._path,
}
