"""Scenes as pictures in the page: data URIs of JPEG."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from perception_rt.codec import NamedDetections
from perception_rt.replay.report.scenes import Objects, Scene
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections
from perception_rt.types import CameraFrame, CodecError, Detections3D

_WIDEST_PX = 900
_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page.

    Attributes:
        uri: ``data:image/jpeg;base64,...``. width, height: px. alt: what it shows.
    """

    uri: str
    width: int
    height: int
    alt: str


def pictures_of(scene: Scene) -> list[Picture]:
    """The pictures of a moment: the camera's, or the lidar's from above and what belongs to it on the image."""
    if scene.frame is None:
        return []
    if isinstance(scene.frame, CameraFrame):
        return [_camera(scene.frame, scene.detections)]
    found = [_from_above(scene)]
    if scene.camera is not None:
        found += _boxes_on_image(*scene.camera)
    return found


def _camera(frame: CameraFrame, found: NamedDetections | None) -> Picture:
    if found is None:
        return _picture(frame.pixels, frame.bgr, "camera image, no answer")
    scale = min(1.0, _WIDEST_PX / frame.pixels.shape[1])
    drawn = draw_detections(frame.pixels, found.detections, found.classes, frame.bgr)
    return _picture(
        drawn, frame.bgr, f"camera image with {_told(found.classes, found.detections.labels)}", scale
    )


def _from_above(scene: Scene) -> Picture:
    objects = scene.objects or Objects("", Detections3D.empty(), (), ())
    drawn = draw_bev(
        scene.frame.points,
        objects.detections,
        objects.classes,
        notes=objects.notes,
        paths=objects.paths,
        ego_path=scene.ego_path,
    )
    told = _told(objects.classes, objects.detections.labels) if scene.objects else "no answer"
    source = f" of {objects.source}" if objects.source else ""
    return _picture(drawn, False, f"lidar points from above, {told}{source}")


def _boxes_on_image(
    frame: CameraFrame, objects: Objects, model: object, camera_from_lidar: np.ndarray
) -> list[Picture]:
    try:
        drawn = draw_boxes3d(
            frame.pixels,
            objects.detections,
            objects.classes,
            model,
            camera_from_lidar,
            frame.bgr,
            objects.notes,
        )
    except CodecError:  # a lens that boxes cannot be projected through
        return []
    told = _told(objects.classes, objects.detections.labels)
    return [_picture(drawn, frame.bgr, f"camera image with {told} of {objects.source} in 3D")]


def _told(classes: tuple[str, ...], labels: np.ndarray) -> str:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return ", ".join(f"{n} {name}" for name, n in zip(classes, counts, strict=True) if n) or "no boxes"


def _picture(pixels: np.ndarray, bgr: bool, alt: str, scale: float | None = None) -> Picture:
    scale = min(1.0, _WIDEST_PX / pixels.shape[1]) if scale is None else scale
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ordered = pixels if bgr else pixels[:, :, ::-1]
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(ordered), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"a picture of {pixels.shape} cannot be encoded")
    text = base64.b64encode(data.tobytes()).decode()
    height, width = pixels.shape[:2]
    return Picture(f"data:image/jpeg;base64,{text}", width, height, alt)
