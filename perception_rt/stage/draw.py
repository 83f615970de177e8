"""Draw detections and tracks on images and in bird's-eye view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike

from perception_rt.codec.camera_info import CameraModel
from perception_rt.stage.fusion.project import (
    FRONT,
    NEAR_M,
    along_edges,
    box_corners,
    in_field,
    project,
    visible_edges,
)
from perception_rt.stage.transforms import transform
from perception_rt.types import Detections2D, Detections3D
from perception_rt.types.palette import class_colour
from perception_rt.types.segmentation import UNLABELLED, Segmentation

DARK = (20, 20, 20)
_OUTLINE = (245, 245, 245)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Bird's-eye view.
_BACKGROUND = (17, 20, 26)
_RING, _RING_TEXT, _EGO = (52, 58, 70), (128, 136, 150), (235, 235, 235)
_LOW, _HIGH = np.array((62, 72, 92)), np.array((226, 232, 242))  # points, from the ground up
_RING_M = 10.0
_TALL_M = 2.5
_SUBPIXEL = 4  # bits of cv2's fixed-point coordinates
_FILL = 0.3
_LABEL_FILL = 0.45  # of the colour of a pixel's class
_LEAST_NAMED = 0.002  # part of the picture
_BEHIND = ("background", "__background__", "void", "unlabelled", "unlabeled")
_SEEN = 0.5  # least visibility of a keypoint that is drawn, as `yolo predict` does
_PERSON = 17  # COCO's keypoints of a person, and which of them are joined
# fmt: off
_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
    (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)
# fmt: on

# Texts beside boxes.
_STEPS = 5  # lines that a text may stand apart
_STEP_COST = 0.1  # share of a box that a text rather covers than to stand a line farther
_INSIDE = 10.0  # the same for its own box

ToPixels = Callable[[ArrayLike], np.ndarray]
"""(..., 2) x y in m to (..., 2) px."""
Tag = tuple[str, np.ndarray, tuple[int, int, int]]
"""A text, the (4,) xyxy px around what it names, and its colour."""


def draw_detections(
    pixels: np.ndarray,
    detections: Detections2D,
    classes: Sequence[str],
    bgr: bool = False,
    notes: Sequence[str] | None = None,
    paths: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Return a copy of the image with a box, class, score and visible keypoints for every detection.

    Args:
        pixels: (H, W, 3) uint8.
        detections: boxes, upright or turned, in px of that image.
        classes: class names by label.
        bgr: the channel order of `pixels`.
        notes: by detection, written after the class instead of the score, such as a track's id.
        paths: by detection, (T, 2) px of its predicted positions; empty for none.

    Returns:
        (H, W, 3) uint8 in the same order.
    """
    picture = np.ascontiguousarray(pixels).copy()
    order = np.argsort(detections.scores, kind="stable")  # the highest score on top
    detections = detections[order]
    tags: list[Tag] = []
    around = detections.upright().xyxy.round().astype(int).tolist()
    turned = None if detections.theta is None else detections.corners()
    for row, (x1, y1, x2, y2) in enumerate(around):
        name = classes[detections.labels[row]]
        colour = _colour(name, bgr)
        for shade, width in _strokes(picture, colour):
            if turned is None:
                cv2.rectangle(picture, (x1, y1), (x2, y2), shade, width, cv2.LINE_AA)
            else:
                cv2.polylines(picture, [_fixed(turned[row])], True, shade, width, cv2.LINE_AA, _SUBPIXEL)
        if detections.keypoints is not None:
            _pose(picture, detections.keypoints[row], colour)
        if paths is not None and len(path := paths[order[row]]):
            for shade, width in _strokes(picture, colour):
                cv2.polylines(picture, [_fixed(path)], False, shade, width, cv2.LINE_AA, _SUBPIXEL)
                cv2.circle(picture, path[-1].round().astype(int).tolist(), width + 1, shade, -1, cv2.LINE_AA)
        note = f"{detections.scores[row]:.2f}" if notes is None else notes[order[row]]
        tags.append((f"{name} {note}", np.array((x1, y1, x2, y2)), colour))
    _tag(picture, tags, _text_scale(picture))
    return picture


def draw_segmentation(
    pixels: np.ndarray, found: Segmentation, classes: Sequence[str], bgr: bool = False
) -> np.ndarray:
    """Return a copy of the image tinted by pixel class, with the objects, and the class names at the left.

    Pixels of the background, or without a class, keep their colour.

    Args:
        pixels: (H, W, 3) uint8.
        found: labels of that image.
        classes: class names by label.
        bgr: the channel order of `pixels`.

    Returns:
        (H, W, 3) uint8 in the same order.
    """
    picture = np.ascontiguousarray(pixels).copy()
    shown = {label: share for label, share in found.shares().items() if classes[label] not in _BEHIND}
    colours = np.zeros((UNLABELLED + 1, 3), np.uint8)
    for label in shown:
        colours[label] = _colour(classes[label], bgr)
    tinted = np.isin(found.labels, list(shown))
    mixed = cv2.addWeighted(colours[found.labels], _LABEL_FILL, picture, 1 - _LABEL_FILL, 0)
    cv2.copyTo(mixed, tinted.view(np.uint8), picture)
    if found.detections is not None:
        return draw_detections(picture, found.detections, classes, bgr)
    scale, y = _text_scale(picture), 2
    for label, share in shown.items():
        if share >= _LEAST_NAMED:
            _, height = _patch_size(classes[label], scale)
            _patch(picture, classes[label], (2, y), DARK, _colour(classes[label], bgr), scale)
            y += height + 1
    return picture


def _pose(picture: np.ndarray, keypoints: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw the visible (P, 3) keypoints, connected if they are COCO's of a person."""
    seen = keypoints[:, 2] >= _SEEN
    points = _fixed(keypoints[:, :2])
    for shade, width in _strokes(picture, colour):
        for a, b in _SKELETON if len(points) == _PERSON else ():
            if seen[a] and seen[b]:
                cv2.polylines(picture, [points[[a, b]]], False, shade, width, cv2.LINE_AA, _SUBPIXEL)
    for x, y in points[seen].tolist():
        for shade, radius in ((DARK, 4), (_OUTLINE, 3)):
            cv2.circle(picture, (x, y), radius << _SUBPIXEL, shade, -1, cv2.LINE_AA, _SUBPIXEL)


def draw_outlines(pixels: np.ndarray, xyxy: np.ndarray) -> np.ndarray:
    """Return a copy of the (H, W, 3) uint8 image with thin white rectangles at (N, 4) xyxy px."""
    picture = np.ascontiguousarray(pixels).copy()
    for x1, y1, x2, y2 in xyxy.round().astype(int).tolist():
        cv2.rectangle(picture, (x1, y1), (x2, y2), _OUTLINE, 1, cv2.LINE_AA)
    return picture


def draw_boxes3d(
    pixels: np.ndarray,
    detections: Detections3D,
    classes: Sequence[str],
    model: CameraModel,
    camera_from_lidar: np.ndarray,
    bgr: bool = False,
    notes: Sequence[str] | None = None,
    paths: np.ndarray | None = None,
) -> np.ndarray:
    """Return a copy of the image with the edges of every visible box, and its front face tinted.

    Args:
        pixels: (H, W, 3) uint8, of the camera `model`.
        detections: boxes in the lidar's frame.
        classes: class names by label.
        model: the camera.
        camera_from_lidar: (4, 4) takes points of the lidar's frame to the optical frame.
        bgr: the channel order of `pixels`.
        notes: a word for each detection, written behind its score.
        paths: (N, T, 2) predicted positions of each box, x and y in the lidar's frame; drawn on the ground.

    Returns:
        (H, W, 3) uint8 in the same order.

    Raises:
        CodecError: the camera's lens cannot be used (see `project`).
    """
    picture = np.ascontiguousarray(pixels).copy()
    corners = transform(camera_from_lidar, box_corners(detections.xyzlwh_yaw))
    segments, valid = visible_edges(corners)
    lines = along_edges(segments, model)
    seen = in_field(lines, model)
    lines = project(lines.reshape(-1, 3), model).reshape(*lines.shape[:3], 2)
    lines[~seen] = np.nan
    texts = _texts(detections, classes, notes)
    tags: list[Tag] = []
    for row in np.argsort(-corners[..., 2].mean(1), kind="stable"):  # nearest objects on top
        drawn = lines[row, valid[row]]
        shown = drawn[~np.isnan(drawn).any(-1)]  # the rest is beyond the lens
        if not len(shown) or not _touches(shown, picture):
            continue
        colour = _colour(classes[detections.labels[row]], bgr)
        if valid[row].all() and not np.isnan(drawn).any():
            _tint(picture, project(corners[row, list(FRONT)], model), colour)
        for line in drawn:
            _polyline(picture, line, colour)
        if paths is not None:
            _polyline(
                picture, _on_ground(detections.xyzlwh_yaw[row], paths[row], model, camera_from_lidar), colour
            )
        tags.append((texts[row], _around(np.clip(shown, 0, picture.shape[1::-1])), colour))
    _tag(picture, tags, _text_scale(picture))
    return picture


def _on_ground(
    box: np.ndarray, path: np.ndarray, model: CameraModel, camera_from_lidar: np.ndarray
) -> np.ndarray:
    """Return (T + 1, 2) px of a (T, 2) path that begins below a box's centre; NaN where it is not visible."""
    flat = np.vstack((box[:2], path)).astype(np.float64)
    level = np.full((len(flat), 1), float(box[2] - box[5] / 2))
    points = transform(camera_from_lidar, np.hstack((flat, level)))
    front = points[:, 2] > NEAR_M
    points[~front] = 0, 0, 1
    seen = front & in_field(points, model)
    pixels = project(points, model)
    pixels[~seen] = np.nan
    return pixels


def draw_bev(
    points: np.ndarray,
    detections: Detections3D,
    classes: Sequence[str],
    x_range: tuple[float, float] = (-5.0, 55.0),
    y_range: tuple[float, float] = (-25.0, 25.0),
    px_per_m: float = 12.0,
    notes: Sequence[str] | None = None,
    covariance: np.ndarray | None = None,
    paths: np.ndarray | None = None,
    ego_path: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the scene in bird's-eye view: x up, y to the left, a ring every 10 m around the sensor.

    Higher points are brighter; a line from the centre of a box points to its front.

    Args:
        points: (N, 3 or more) x y z in m.
        detections: boxes in the same frame.
        classes: class names by label.
        x_range: least and greatest x in the picture, m.
        y_range: least and greatest y, m.
        px_per_m: scale.
        notes: a word for each detection, written behind its score.
        covariance: (N, 6, 6), x and y first; where given, the 2-sigma ellipse of each place is drawn.
        paths: (N, T, 2) predicted positions of each box, one dot each.
        ego_path: (T, 2) the same for the ego vehicle.

    Returns:
        (H, W, 3) uint8 RGB, H = length of `x_range` * `px_per_m`, W that of `y_range`.

    Raises:
        ValueError: an empty range, or a scale that is not positive.
    """
    size = (np.array((y_range[1] - y_range[0], x_range[1] - x_range[0])) * px_per_m).round().astype(int)
    if (size < 1).any():
        raise ValueError(f"x_range={x_range} y_range={y_range} px_per_m={px_per_m}: an empty picture")

    def to_px(xy: ArrayLike) -> np.ndarray:
        return (np.array((y_range[1], x_range[1])) - np.asarray(xy)[..., ::-1]) * px_per_m

    picture = np.full((size[1], size[0], 3), _BACKGROUND, np.uint8)
    _rings(picture, to_px, px_per_m, float(np.abs((*x_range, *y_range)).max()) * np.sqrt(2))
    _scatter(picture, to_px, points, 1 if px_per_m < 15 else 2)
    _ego(picture, to_px)
    if ego_path is not None:
        _path(picture, to_px(ego_path), _OUTLINE)
    boxes = detections.xyzlwh_yaw.astype(np.float64)
    footprints = to_px(box_corners(boxes)[:, :4, :2])
    texts = _texts(detections, classes, notes)
    tags: list[Tag] = []
    for row in np.argsort(detections.scores, kind="stable"):
        if not _touches(footprints[row], picture):
            continue
        colour = _colour(classes[detections.labels[row]], False)
        if covariance is not None:
            _ellipse(picture, to_px(boxes[row, :2]), covariance[row, :2, :2], px_per_m, colour)
        _footprint(picture, footprints[row], colour)
        if paths is not None:
            _path(picture, to_px(np.vstack((boxes[row, :2], paths[row]))), colour)
        tags.append((texts[row], _around(footprints[row]), colour))
    _tag(picture, tags, max(0.4, _text_scale(picture)), night=True)
    return picture


def _path(picture: np.ndarray, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw a thin line through (T, 2) px, and a dot at each point but the first."""
    corners = points.round().astype(np.int32)
    cv2.polylines(picture, [corners], False, colour, 1, cv2.LINE_AA)
    for x, y in corners[1:].tolist():
        cv2.circle(picture, (x, y), 2, colour, -1, cv2.LINE_AA)


def _colour(name: str, bgr: bool) -> tuple[int, int, int]:
    red, green, blue = class_colour(name)
    return (blue, green, red) if bgr else (red, green, blue)


def _strokes(
    picture: np.ndarray, colour: tuple[int, int, int]
) -> tuple[tuple[tuple, int], tuple[tuple, int]]:
    """Return colour and width, px, of the two lines of an edge; the dark one below keeps it visible."""
    width = max(2, round(min(picture.shape[:2]) / 300))
    return (DARK, width + 2), (colour, width)


def _texts(detections: Detections3D, classes: Sequence[str], notes: Sequence[str] | None) -> list[str]:
    notes = [""] * len(detections) if notes is None else notes
    rows = zip(detections.labels, detections.scores, notes, strict=True)
    return [f"{classes[label]} {score:.2f} {note}".rstrip() for label, score, note in rows]


def _text_scale(picture: np.ndarray) -> float:
    return max(0.35, min(picture.shape[:2]) / 1500)


def _tag(picture: np.ndarray, tags: Sequence[Tag], scale: float, night: bool = False) -> None:
    """Write the text of each tag beside its box, or in it if there is no room; none covers another.

    The last tags, which lie on top, choose first, and take the place that covers the least share of the other
    boxes. A line joins a text that stands apart to its box. A text without a place is left out.

    Args:
        picture: to write on.
        tags: to write.
        scale: of the text.
        night: write in colour on dark patches, not dark on coloured ones.
    """
    boxes = np.array([box for _, box, _ in tags]).reshape(-1, 4)
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)
    taken, chosen = np.empty((0, 4)), []
    for row in reversed(range(len(tags))):
        size = np.minimum(_patch_size(tags[row][0], scale), picture.shape[1::-1])
        places, costs = _places(boxes[row], size, picture)
        patches = np.hstack((places, places + size))
        covered = _shared(patches, boxes) / areas
        covered[:, row] = 0
        total = np.where(_shared(patches, taken).any(1), np.inf, covered.sum(1) + costs)
        if not np.isfinite(total).any():
            continue
        best = int(total.argmin())
        patch, box = patches[best], boxes[row]
        taken = np.vstack((taken, patch))
        chosen.append((row, int(patch[0]), int(patch[1])))
        if 0 < costs[best] < _INSIDE:
            middle = box.reshape(2, 2).mean(0)
            ends = np.clip(middle, patch[:2], patch[2:]), np.clip(patch[:2] + size / 2, box[:2], box[2:])
            line = [_fixed(np.stack(ends))]
            cv2.polylines(picture, line, False, tags[row][2], 1, cv2.LINE_AA, _SUBPIXEL)
    for row, x, y in chosen:  # above the lines
        text, _, colour = tags[row]
        ink, fill = (colour, _BACKGROUND) if night else (DARK, colour)
        _patch(picture, text, (x, y), ink, fill, scale)


def _places(box: np.ndarray, size: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (P, 2) top left corners that a patch may take in the picture, and their (P,) costs.

    They are above, below, right and left of the xyxy box, then up to `_STEPS` lines farther, then inside if
    the box is larger than the patch.
    """
    low, high = box[:2], box[2:]
    room = np.array(picture.shape[1::-1]) - size
    gap = _strokes(picture, DARK)[0][1] // 2 + 1
    near, far = low - gap - size, high + gap
    starts, ends = np.clip(low, 0, room), np.clip(high - size, 0, room)
    places, costs = [], []
    for step in range(_STEPS + 1):
        away = step * (size[1] + 2)
        for x in (starts[0], ends[0]):
            places += [(x, near[1] - away), (x, far[1] + away)]
        for x in (far[0], near[0]):
            places += [(x, starts[1] - away), (x, ends[1] + away)]
        costs += [_STEP_COST * step] * 8
    found = np.array([*places, starts])
    possible = ((found >= 0) & (found <= room)).all(1)
    possible[-1] &= (high - low).prod() > size.prod()
    return found[possible], np.array([*costs, _INSIDE])[possible]


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the (P, Q) area that (P, 4) and (Q, 4) xyxy rectangles share, square px."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.maximum(high - low, 0).prod(2)


def _patch_size(text: str, scale: float) -> tuple[int, int]:
    """Return width and height of a text on a patch, px."""
    (width, height), base = cv2.getTextSize(text, _FONT, scale, 1)
    return width + 4, height + base + 3


def _patch(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    ink: tuple[int, int, int],
    fill: tuple[int, int, int],
    scale: float,
) -> None:
    """Write a text on a patch whose top left corner is at x y; on `_BACKGROUND` only its edge is filled."""
    (x, y), (width, height) = at, _patch_size(text, scale)
    base = cv2.getTextSize(text, _FONT, scale, 1)[1]
    start = x + 2, y + height - base - 1
    if fill == _BACKGROUND:
        cv2.putText(picture, text, start, _FONT, scale, fill, 3, cv2.LINE_AA)
    else:
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), fill, -1)
    cv2.putText(picture, text, start, _FONT, scale, ink, 1, cv2.LINE_AA)


def _around(points: np.ndarray) -> np.ndarray:
    """Return the (4,) xyxy whole px around (..., 2) px."""
    flat = points.reshape(-1, 2).round().astype(int)
    return np.concatenate((flat.min(0), flat.max(0)))


def _touches(points: np.ndarray, picture: np.ndarray) -> bool:
    """Return whether the rectangle around (..., 2) px overlaps the picture."""
    flat = points.reshape(-1, 2)
    return bool((flat.max(0) >= 0).all() and (flat.min(0) <= picture.shape[1::-1]).all())


def _fixed(points: np.ndarray) -> np.ndarray:
    """Return pixels as fixed-point numbers for cv2 with shift `_SUBPIXEL`; far ones are clipped."""
    return (np.clip(points, -(2**14), 2**14) * (1 << _SUBPIXEL)).round().astype(np.int32)


def _polyline(picture: np.ndarray, line: np.ndarray, colour: tuple) -> None:
    """Draw lines through (S, 2) px after clipping, so that far ends do not change their direction."""
    height, wide = picture.shape[:2]
    frame = (-wide, -height, 3 * wide, 3 * height)
    pieces = []
    for a, b in pairwise(line):
        if np.isnan((a, b)).any():
            continue
        ends = np.clip((a, b), -1e8, 1e8).round().astype(int)
        inside, *clipped = cv2.clipLine(frame, tuple(ends[0].tolist()), tuple(ends[1].tolist()))
        if inside:
            exact = (a, b) if np.abs(np.array(clipped) - (a, b)).max() <= 1 else clipped
            pieces.append(_fixed(np.array(exact)))
    for shade, width in _strokes(picture, colour):
        for piece in pieces:
            cv2.polylines(picture, [piece], False, shade, width, cv2.LINE_AA, _SUBPIXEL)


def _tint(picture: np.ndarray, corners: np.ndarray, colour: tuple) -> None:
    """Mix the colour into a convex (4, 2) px area."""
    height, width = picture.shape[:2]
    low = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    patch = picture[low[1] : high[1], low[0] : high[0]]
    painted = patch.copy()
    cv2.fillConvexPoly(painted, _fixed(corners - low), colour, cv2.LINE_AA, _SUBPIXEL)
    patch[:] = cv2.addWeighted(painted, _FILL, patch, 1 - _FILL, 0)


def _rings(picture: np.ndarray, to_px: ToPixels, px_per_m: float, farthest_m: float) -> None:
    centre = _fixed(to_px((0.0, 0.0)))
    for radius in np.arange(_RING_M, farthest_m, _RING_M):
        length = round(radius * px_per_m * (1 << _SUBPIXEL))
        cv2.circle(picture, tuple(centre.tolist()), length, _RING, 1, cv2.LINE_AA, _SUBPIXEL)
        x, y = to_px((radius, 0.0)).round().astype(int).tolist()
        cv2.putText(picture, f"{radius:.0f} m", (x + 3, y - 3), _FONT, 0.35, _RING_TEXT, 1, cv2.LINE_AA)


def _scatter(picture: np.ndarray, to_px: ToPixels, points: np.ndarray, size: int) -> None:
    """Draw points, higher ones on top."""
    pixels = np.floor(to_px(points[:, :2])).astype(np.int64)
    height, width = picture.shape[:2]
    inside = ((pixels >= 0) & (pixels <= (width - size, height - size))).all(1)
    pixels, z = pixels[inside], points[inside, 2]
    if not len(z):
        return
    order = np.argsort(z, kind="stable")
    pixels, z = pixels[order], z[order]
    above = np.clip((z - z[len(z) // 20]) / _TALL_M, 0, 1)[:, None]
    colours = (_LOW + above * (_HIGH - _LOW)).astype(np.uint8)
    for dy in range(size):
        for dx in range(size):
            picture[pixels[:, 1] + dy, pixels[:, 0] + dx] = colours


def _ego(picture: np.ndarray, to_px: ToPixels) -> None:
    arrow = to_px(np.array([[1.2, 0], [-0.9, 0.8], [-0.45, 0], [-0.9, -0.8]]))
    cv2.fillPoly(picture, [_fixed(arrow)], _EGO, cv2.LINE_AA, _SUBPIXEL)


def _footprint(picture: np.ndarray, corners: np.ndarray, colour: tuple) -> None:
    """Draw a box in bird's-eye view: front left, front right, rear right, rear left in px."""
    _tint(picture, corners, colour)
    cv2.polylines(picture, [_fixed(corners)], True, colour, 2, cv2.LINE_AA, _SUBPIXEL)
    heading = np.stack((corners.mean(0), corners[:2].mean(0)))
    cv2.polylines(picture, [_fixed(heading)], False, colour, 2, cv2.LINE_AA, _SUBPIXEL)


def _ellipse(
    picture: np.ndarray, centre: np.ndarray, covariance: np.ndarray, px_per_m: float, colour: tuple
) -> None:
    values, vectors = np.linalg.eigh(covariance)
    axes = np.clip(2 * np.sqrt(np.maximum(values[::-1], 0)) * px_per_m, 0, 2**14)
    along = vectors[:, 1]
    angle = np.degrees(np.arctan2(-along[0], -along[1]))  # x is up and y to the left in the picture
    middle, half_axes = _fixed(centre).tolist(), (axes * (1 << _SUBPIXEL)).round().astype(int).tolist()
    cv2.ellipse(picture, middle, half_axes, angle, 0, 360, colour, 1, cv2.LINE_AA, _SUBPIXEL)
