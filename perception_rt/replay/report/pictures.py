"""Render scenes as JPEG data URIs for the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from perception_rt.codec import CameraModel, NamedDetections
from perception_rt.replay.report.scenes import ReportScene, SceneObjects
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections, draw_outlines, draw_segmentation
from perception_rt.stage.fusion.project import NEAR_M, box_corners, in_field, project
from perception_rt.stage.transforms import transform
from perception_rt.types import CameraFrame, CodecError, Detections3D, LidarFrame
from perception_rt.types.segmentation import Segmentation

_WIDTH_PX = 720
_X_RANGE, _Y_RANGE = (-5.0, 50.0), (-30.0, 30.0)  # m
_PX_PER_M = 10.0
_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page.

    Attributes:
        uri: ``data:image/jpeg;base64,...``. width, height: px. alt: alternative text.
        spots: id and centre of each track, as shares of width and height.
    """

    uri: str
    width: int
    height: int
    alt: str
    spots: tuple[tuple[str, float, float], ...] = ()


def pictures_of(scene: ReportScene) -> list[Picture]:
    """Render a moment: the camera image, or for a lidar the boxes on the image and from above."""
    if scene.frame is None:
        return []
    if isinstance(scene.frame, CameraFrame):
        if scene.labels is not None:
            return [_labelled(scene.frame, *scene.labels)]
        return [_camera(scene.frame, scene.detections, scene.choice.truth)]
    on_image = [] if scene.camera is None else _boxes_on_image(*scene.camera)
    return [*on_image, _from_above(scene, scene.frame)]


def _camera(frame: CameraFrame, found: NamedDetections | None, truth: np.ndarray | None) -> Picture:
    pixels, scale = _fitted(frame)
    if found is None:
        return _picture(pixels, "camera image, no output")
    boxes = replace(found.detections, xyxy=found.detections.xyxy * np.float32(scale))
    contents = _describe(found.classes, boxes.labels)
    drawn = draw_detections(pixels, boxes, found.classes)
    if truth is not None:
        drawn = draw_outlines(drawn, truth * scale)
    return _picture(drawn, f"camera image with {contents}")


def _labelled(frame: CameraFrame, found: Segmentation, classes: Sequence[str]) -> Picture:
    pixels, _ = _fitted(frame)
    size = pixels.shape[1], pixels.shape[0]
    small = Segmentation(cv2.resize(found.labels, size, interpolation=cv2.INTER_NEAREST))
    names = ", ".join(f"{share:.0%} {classes[label]}" for label, share in small.shares().items())
    return _picture(draw_segmentation(pixels, small, classes), f"camera image with {names or 'no labels'}")


def _from_above(scene: ReportScene, cloud: LidarFrame) -> Picture:
    objects = scene.objects or SceneObjects("", Detections3D.empty(), (), ())
    drawn = draw_bev(
        cloud.points,
        objects.detections,
        objects.classes,
        x_range=_X_RANGE,
        y_range=_Y_RANGE,
        px_per_m=_PX_PER_M,
        notes=objects.notes,
        paths=objects.paths,
        ego_path=scene.ego_path,
    )
    if scene.choice.truth is not None:
        _outline_footprints(drawn, scene.choice.truth)
    contents = _describe(objects.classes, objects.detections.labels) if scene.objects else "no output"
    source = f" of {objects.source}" if objects.source else ""
    middles = (np.array((_Y_RANGE[1], _X_RANGE[1])) - objects.detections.xyzlwh_yaw[:, 1::-1]) * _PX_PER_M
    return _picture(drawn, f"lidar points from above, {contents}{source}", objects.ids, middles)


def _outline_footprints(picture: np.ndarray, boxes: np.ndarray) -> None:
    """Outline (T, 7) boxes as thin white rectangles in a picture of `draw_bev`."""
    far = np.array((_Y_RANGE[1], _X_RANGE[1]))
    corners = (far - box_corners(boxes)[:, :4, 1::-1]) * _PX_PER_M
    cv2.polylines(picture, list(corners.round().astype(np.int32)), True, (255, 255, 255), 1, cv2.LINE_AA)


def _boxes_on_image(
    frame: CameraFrame, objects: SceneObjects, model: CameraModel, camera_from_lidar: np.ndarray
) -> list[Picture]:
    pixels, scale = _fitted(frame)
    height, width = pixels.shape[:2]
    model = replace(model, height=height, width=width, k=np.diag((scale, scale, 1.0)) @ model.k)
    found, classes = objects.detections, objects.classes
    try:
        drawn = draw_boxes3d(
            pixels, found, classes, model, camera_from_lidar, notes=objects.notes, paths=objects.paths
        )
        middles = transform(camera_from_lidar, found.xyzlwh_yaw[:, :3].astype(np.float64))
        front = middles[:, 2] > NEAR_M
        middles[~front] = 0, 0, 1
        places = project(middles, model)
        places[~(front & in_field(middles, model))] = np.nan
    except CodecError:  # boxes cannot be projected with this lens
        return []
    alt = f"camera image with {_describe(classes, found.labels)} of {objects.source} in 3D"
    return [_picture(drawn, alt, objects.ids, places)]


def _describe(classes: Sequence[str], labels: np.ndarray) -> str:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return ", ".join(f"{n} {name}" for name, n in zip(classes, counts, strict=True) if n) or "no boxes"


def _fitted(frame: CameraFrame) -> tuple[np.ndarray, float]:
    """Resize RGB pixels to the page's width, so that drawings stay legible; return them and the scale."""
    pixels = frame.pixels[:, :, ::-1] if frame.bgr else frame.pixels
    scale = min(_WIDTH_PX / pixels.shape[1], _WIDTH_PX / pixels.shape[0])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how), scale


def _picture(
    rgb: np.ndarray, alt: str, ids: Sequence[str] = (), middles: np.ndarray | None = None
) -> Picture:
    """Encode an (H, W, 3) picture; `middles` (N, 2) are the centres of the tracks `ids`, px."""
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"a picture of {rgb.shape} cannot be encoded")
    height, width = rgb.shape[:2]
    text = base64.b64encode(data.tobytes()).decode()
    shares = [] if middles is None or not ids else (middles / (width, height)).tolist()
    spots = tuple(
        (id_, x, y) for id_, (x, y) in zip(ids, shares, strict=bool(shares)) if 0 < x < 1 and 0 < y < 1
    )
    return Picture(f"data:image/jpeg;base64,{text}", width, height, alt, spots)
