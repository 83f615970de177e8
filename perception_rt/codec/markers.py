"""Boxes and paths to serialized visualization_msgs/MarkerArray, for RViz and Foxglove."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from perception_rt.codec.cdr import CdrWriter
from perception_rt.types import CodecError, Detections3D
from perception_rt.types.palette import class_colour

# visualization_msgs/Marker: types and actions.
ARROW, CUBE, LINE_STRIP, TEXT_VIEW_FACING = 0, 1, 4, 9
_ADD, _DELETE_ALL = 0, 3

_BOX_ALPHA = 0.4
_LEAST_SIZE = 0.01  # m; RViz refuses a cube of no size
_TEXT_HEIGHT = 0.8  # m
# Fields that follow each other in CDR; "I4x" is an empty string: length, NUL, and three bytes to the next.
_MIDDLE = struct.Struct("<7d3d4f8x4xI")
"""Pose, scale, color; lifetime (until deleted); frame_locked; how many points."""
_NO_TEXTURE = struct.pack("<I I4x 8xI4x I4x I I", 0, 1, 1, 1, 0, 0)
"""No colors; texture_resource; texture, a CompressedImage of header, format and data; no uv_coordinates."""
_NO_MESH = struct.pack("<I4x I4xI x", 1, 1, 0)
"""mesh_resource; mesh_file of name and data; mesh_use_embedded_materials."""
_IDENTITY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Marker:
    """What this package uses of a visualization_msgs/Marker.

    Attributes:
        namespace: markers of one namespace are shown and hidden together.
        id: unique in the namespace.
        type: `CUBE`, `LINE_STRIP` or `TEXT_VIEW_FACING`.
        scale: size x y z in m (a line has its width in x, a text its height in z).
        rgba: red green blue alpha, 0 to 1.
        pose: position x y z in m, orientation x y z w.
        points: x y z of each point of a line, in m, from the pose on.
        text: of a text.
    """

    namespace: str
    id: int
    type: int
    scale: tuple[float, float, float]
    rgba: tuple[float, float, float, float]
    pose: tuple[float, ...] = _IDENTITY
    points: Sequence[Sequence[float]] = ()
    text: str = ""


def encode_markers(markers: Sequence[Marker], stamp_ns: int, frame_id: str) -> bytes:
    """A serialized visualization_msgs/MarkerArray that replaces all that was shown on its topic before.

    Its first marker is a DELETEALL, so that what is gone disappears: all markers of a topic and time go into
    one array.

    Args:
        markers: of `box_markers`, `path_markers`, or both.
        stamp_ns: the headers' stamp, ns.
        frame_id: the headers' frame.
    """
    header = _header(stamp_ns, frame_id)
    writer = CdrWriter()
    writer.scalars("I", 1 + len(markers))
    _write(writer, header, Marker("", 0, ARROW, (0.0,) * 3, (0.0,) * 4), _DELETE_ALL)
    for marker in markers:
        _write(writer, header, marker)
    return writer.bytes()


def box_markers(
    detections: Detections3D, classes: Sequence[str], ids: Sequence[str] | None = None
) -> list[Marker]:
    """For each detection a translucent box in its class' colour, and above it class, id and score.

    Args:
        detections: labels index `classes`.
        classes: the class names.
        ids: one per detection, e.g. of its track.

    Raises:
        CodecError: for a label without a class, or ids that are not one per detection.
    """
    labels, count = detections.labels, len(detections)
    if count and not 0 <= labels.min() <= labels.max() < len(classes):
        raise CodecError("labels", [labels.min(), labels.max()], f"there are {len(classes)} classes")
    if ids is not None and len(ids) != count:
        raise CodecError("ids", len(ids), f"there are {count} detections")
    markers = []
    rows = zip(detections.xyzlwh_yaw.tolist(), detections.scores.tolist(), labels.tolist(), strict=True)
    for i, ((x, y, z, length, width, height, yaw), score, label) in enumerate(rows):
        red, green, blue = _rgb(class_colour(classes[label]))
        size = tuple(max(side, _LEAST_SIZE) for side in (length, width, height))
        pose = (x, y, z, 0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))
        markers.append(Marker("boxes", i, CUBE, size, (red, green, blue, _BOX_ALPHA), pose))
        words = [classes[label], *([ids[i]] if ids else []), f"{score:.2f}"]
        above = (x, y, z + height / 2 + _TEXT_HEIGHT, *_IDENTITY[3:])
        scale = (0.0, 0.0, _TEXT_HEIGHT)
        markers.append(
            Marker("labels", i, TEXT_VIEW_FACING, scale, (red, green, blue, 1.0), above, text=" ".join(words))
        )
    return markers


def path_markers(
    paths: np.ndarray, colours: Sequence[tuple[int, int, int]], *, width_m: float = 0.15, alpha: float = 0.9
) -> list[Marker]:
    """For each path a line, e.g. of where a track is predicted to be.

    Args:
        paths: (N, T, 2) or (N, T, 3), T points x y (z) in m; z is 0 where it is not given.
        colours: one per path, RGB of 0 to 255.
        width_m: the line's width, m.
        alpha: its opacity, 0 to 1.

    Raises:
        CodecError: for other shapes, less than two points, a number that is not finite, or colours that are
            not one per path.
    """
    if paths.ndim != 3 or paths.shape[2] not in (2, 3) or paths.shape[1] < 2:
        raise CodecError("paths", paths.shape, "must be (N, T, 2) or (N, T, 3) with T of 2 or more")
    if not np.isfinite(paths).all():
        raise CodecError("paths", paths[~np.isfinite(paths)][0], "not finite")
    if len(colours) != len(paths):
        raise CodecError("colours", len(colours), f"there are {len(paths)} paths")
    spatial = np.zeros((*paths.shape[:2], 3))
    spatial[..., : paths.shape[2]] = paths
    scale = (width_m, 0.0, 0.0)
    return [
        Marker("paths", i, LINE_STRIP, scale, (*_rgb(colour), alpha), points=points)
        for i, (points, colour) in enumerate(zip(spatial.tolist(), colours, strict=True))
    ]


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _header(stamp_ns: int, frame_id: str) -> bytes:
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    return writer.bytes()[4:]


def _write(writer: CdrWriter, header: bytes, marker: Marker, action: int = _ADD) -> None:
    """Append one visualization_msgs/Marker."""
    writer.align(4)
    writer.raw(header)
    writer.string(marker.namespace)
    writer.scalars("i", marker.id, marker.type, action)
    writer.align(8)
    writer.raw(_MIDDLE.pack(*marker.pose, *marker.scale, *marker.rgba, len(marker.points)))
    if marker.points:
        writer.scalars("d", *chain.from_iterable(marker.points))
    writer.raw(_NO_TEXTURE)
    writer.string(marker.text)
    writer.align(4)
    writer.raw(_NO_MESH)
