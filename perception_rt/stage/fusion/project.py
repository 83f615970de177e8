"""Project points and boxes into the image, and pixels back to rays, with lens distortion.

OpenCV is imported on use, so that nodes without a camera do not need its 16 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.stage.transforms import transform
from perception_rt.types import CodecError

NEAR_M = 0.1  # near plane
_SIGNS = np.array(
    [[x, y, z] for z in (-0.5, 0.5) for x, y in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))]
)
# Of the corners that `box_corners` gives: around the bottom, around the top, upright.
EDGES = np.array([(i, (i + 1) % 4) for i in range(4)] * 2 + [(i, i + 4) for i in range(4)])
EDGES[4:8] += 4
FRONT = (0, 1, 5, 4)
_PINHOLE = ("plumb_bob", "rational_polynomial")
_FISHEYE = ("equidistant", "fisheye")
_BORDER_STEPS = 16
_BENT_STEPS = 8  # segments of an edge under a distorted lens
_BENT_ALONG = np.linspace(0, 1, _BENT_STEPS, endpoint=False)[:, None]
_FISHEYE_ALONG = np.linspace(0, 1, 2 * _BENT_STEPS, endpoint=False)[:, None]  # which distorts more
_CONVERGED_PX = 1.0
_NOUGHT = 1e-12  # smaller coefficients have no effect, and overflow as divisors
_LARGEST_D = 1e6  # real ones stay below some thousands
_WIDEST = np.tan(np.deg2rad(89.9))  # x / z has no value at 90 degrees


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedBoxes:
    """The visible parts of boxes in an image.

    Attributes:
        xyxy: (N, 4) float32 px, clipped to the image; zeros if not visible.
        visible: (N,) bool, whether any part is visible.
        share: (N,) visible share of the whole rectangle; 0 if the box extends behind the camera.
        depth: (N,) of the centre along the optical axis, m.
    """

    xyxy: np.ndarray
    visible: np.ndarray
    share: np.ndarray
    depth: np.ndarray


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Return (N, 8, 3) corners: front left, front right, rear right, rear left; bottom, then top."""
    boxes = np.asarray(boxes, np.float64)
    local = _SIGNS * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x = cos * local[..., 0] - sin * local[..., 1]
    y = sin * local[..., 0] + cos * local[..., 1]
    return np.stack((x, y, local[..., 2]), 2) + boxes[:, None, :3]


def project(points: np.ndarray, model: CameraModel) -> np.ndarray:
    """Project points in front of the camera into the image.

    Points outside of the lens's field (`in_field`) are moved to its border first, because the distortion
    polynomial is not valid there and would map them into the image.

    Args:
        points: (N, 3) m in the frame of `model.k` (REP 103: z forward), z > 0.
        model: the camera; plumb_bob, rational_polynomial or equidistant.

    Returns:
        (N, 2) float64 px.

    Raises:
        CodecError: another distortion model.
    """
    rays = points[:, :2] / points[:, 2:]
    if model.d.any():
        rays = rays * np.minimum(1, valid_radius(model) / np.maximum(np.hypot(*rays.T), 1e-9))[:, None]
    return _to_pixels(rays, model)


def in_field(points: np.ndarray, model: CameraModel) -> np.ndarray:
    """Return (...,) bool: which of (..., 3) points, z > 0, the lens can show. Raises errors as `project`."""
    if not model.d.any():
        return np.ones(points.shape[:-1], bool)
    return np.hypot(points[..., 0], points[..., 1]) <= valid_radius(model) * points[..., 2]


def valid_radius(model: CameraModel) -> float:
    """Return the greatest hypot(x / z, y / z) for which the distortion is monotonic.

    At most that of 89.9 degrees. Tangential and prism terms, which are small, are left out.

    Raises:
        CodecError: as `project`.
    """
    return _valid_radius(_lens(model), tuple(model.d.tolist()))


@lru_cache(maxsize=64)
def _valid_radius(lens: str, coefficients: tuple[float, ...]) -> float:
    d = np.array(coefficients)
    if lens == "fisheye":  # of the angle t: t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8)
        slope = np.polynomial.Polynomial((1, *(d[:4] * (3, 5, 7, 9))))
        return float(np.tan(min(np.sqrt(_first_root(slope)), np.arctan(_WIDEST))))
    # Of s = r^2: r N / D, N = 1 + k1 s + k2 s^2 + k3 s^3, D = 1 + k4 s + k5 s^2 + k6 s^3
    k1, k2, _, _, k3, k4, k5, k6 = np.pad(d, (0, max(0, 8 - len(d))))[:8]
    above, below = np.polynomial.Polynomial((1, k1, k2, k3)), np.polynomial.Polynomial((1, k4, k5, k6))
    s = np.polynomial.Polynomial((0, 2))
    slope = above * below + s * (above.deriv() * below - above * below.deriv())
    return float(min(np.sqrt(min(_first_root(slope), _first_root(below))), _WIDEST))


def _first_root(polynomial: np.polynomial.Polynomial) -> float:
    """Return the least positive real root; inf if there is none."""
    roots = polynomial.trim(_NOUGHT).roots()
    real = roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    return float(real.min(initial=np.inf))


def unproject(pixels: np.ndarray, model: CameraModel) -> np.ndarray:
    """Return (N, 2) x / z and y / z of the rays of (N, 2) px, NaN without a ray. Errors as of `project`."""
    pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
    straight = np.linalg.solve(model.k, np.concatenate((pixels, np.ones((len(pixels), 1))), 1).T).T[:, :2]
    if not model.d.any() or not len(pixels):
        return straight
    widest = valid_radius(model)
    if _lens(model) == "fisheye":
        return _undo_fisheye(straight, model, widest)
    import cv2

    criteria = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 60, 1e-9)
    # OpenCV takes None for "no rotation" and "no new camera matrix"; its stub does not say so.
    rays = cv2.undistortPointsIter(
        pixels[:, None],
        model.k,
        model.d,
        None,
        None,
        criteria,  # type: ignore[call-overload]
    )[:, 0]
    found = np.abs(_distort(rays, model) - pixels).max(1) < _CONVERGED_PX  # false for NaN too
    rays[~found | (np.hypot(*rays.T) > widest)] = np.nan
    return rays


def _undo_fisheye(distorted: np.ndarray, model: CameraModel, widest: float) -> np.ndarray:
    """Return the rays of (N, 2) points at focal length 1; bisection finds the angle for any coefficients."""
    radius = np.hypot(*distorted.T)
    low, high = np.zeros(len(radius)), np.full(len(radius), np.arctan(widest))
    grown = np.polynomial.Polynomial((0, 1, 0, *np.insert(model.d[:4], (1, 2, 3), 0)))
    outside = radius > grown(high)
    for _ in range(50):
        middle = (low + high) / 2
        less = grown(middle) < radius
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    stretched = np.tan(low) / np.maximum(radius, 1e-12)
    return np.where(outside[:, None], np.nan, distorted * stretched[:, None])


def undistortion(
    model: CameraModel, k: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return maps for `cv2.remap` that undistort a picture of (width, height) with intrinsics `k`.

    None without distortion. Raises errors as `project`.
    """
    if not model.d.any():
        return None
    import cv2

    if _lens(model) == "fisheye":
        return cv2.fisheye.initUndistortRectifyMap(k, model.d[:4], np.eye(3), k, size, cv2.CV_32FC1)
    return cv2.initUndistortRectifyMap(k, model.d, np.eye(3), k, size, cv2.CV_32FC1)


def field_of_view(model: CameraModel) -> np.ndarray:
    """Return (4,) least x / z and y / z, greatest x / z and y / z in the image. Raises errors as `project`.

    Where the border of the image has no ray in front of the camera, up to the lens's valid radius.
    """
    # By values, as each CameraInfo makes a model of its own.
    d, k = tuple(model.d.tolist()), tuple(model.k.ravel().tolist())
    return _field_of_view(model.width, model.height, model.distortion_model, d, k).copy()


@lru_cache(maxsize=64)
def _field_of_view(
    width: int, height: int, distortion_model: str, d: tuple[float, ...], k: tuple[float, ...]
) -> np.ndarray:
    model = CameraModel(0, "", height, width, distortion_model, np.array(d), np.array(k).reshape(3, 3))
    along = np.linspace(0, 1, _BORDER_STEPS + 1)
    ends = np.zeros_like(along)
    border = np.concatenate([np.stack(side, 1) for side in ((along, ends), (along, ends + 1))])
    pixels = np.concatenate((border, border[:, ::-1])) * (model.width, model.height)
    rays = unproject(pixels, model)
    none = np.isnan(rays).any(1)
    if none.any():
        aside = pixels[none] - model.k[:2, 2]
        rays[none] = valid_radius(model) * aside / np.maximum(np.hypot(*aside.T), 1e-9)[:, None]
    return np.concatenate((rays.min(0), rays.max(0)))


def project_boxes(boxes: np.ndarray, model: CameraModel, camera_from_lidar: np.ndarray) -> ProjectedBoxes:
    """Return the rectangles around boxes in the image, clipped at the near plane and to the image.

    Args:
        boxes: (N, 7) xyzlwh_yaw in the lidar's frame.
        model: the camera.
        camera_from_lidar: (4, 4) takes points of the lidar's frame to the optical frame.

    Raises:
        CodecError: as `project`.
    """
    corners = transform(camera_from_lidar, box_corners(boxes))
    depth = transform(camera_from_lidar, np.asarray(boxes, np.float64)[:, :3])[:, 2]
    segments, edge_valid = visible_edges(corners)
    valid = np.repeat(edge_valid, 2, 1)
    points = segments.reshape(*valid.shape, 3)
    rays = points[..., :2] / points[..., 2:]
    low, high = _bounds(rays, valid)
    field = field_of_view(model)
    inner_low, inner_high = np.maximum(low, field[:2]), np.minimum(high, field[2:])
    visible = valid.any(1) & (inner_high > inner_low).all(1)
    whole = np.where(visible, np.prod(high - low, axis=1), 1.0)
    in_front = (corners[..., 2] >= NEAR_M).all(1)
    share = np.where(visible & in_front, np.prod(inner_high - inner_low, axis=1) / whole, 0.0)
    xyxy = np.zeros((len(corners), 4))
    image = np.array((0.0, 0.0, model.width, model.height))
    widest = valid_radius(model) if model.d.any() else _WIDEST
    uncut = np.zeros(len(corners), bool)
    if not model.d.any() and np.count_nonzero(model.k[:2, :2]) == 2:
        # Without distortion and skew, a box that the image does not cut lies between its own corners.
        between = _to_pixels(np.stack((low, high), 1), model).reshape(-1, 4)
        uncut = visible & ((between[:, :2] >= 0) & (between[:, 2:] <= image[2:])).all(1)
        xyxy[uncut] = between[uncut]
    rows = np.flatnonzero(visible & ~uncut)
    outlines = [_outline(rays[row][valid[row]], field, model, widest) for row in rows]
    # In one call: the overhead of a call exceeds the time for the points of a box.
    pixels = _to_pixels(np.concatenate([np.zeros((0, 2)), *outlines]), model)
    for row, part in zip(rows, np.split(pixels, np.cumsum([len(one) for one in outlines])), strict=False):
        outline = _clip(part, image)
        if len(outline):
            xyxy[row] = *outline.min(0), *outline.max(0)
        else:
            visible[row], share[row] = False, 0.0
    return ProjectedBoxes(np.clip(xyxy, 0, (*image[2:],) * 2).astype(np.float32), visible, share, depth)


def _outline(rays: np.ndarray, field: np.ndarray, model: CameraModel, widest: float) -> np.ndarray:
    """Return points along the border of the visible part of a box.

    A lens maps the border of a region to the border of its picture, so that these points bound the picture.
    The box's edges alone would not: the middle of a face may reach further where the view cuts the face.

    Args:
        rays: (P, 2) x / z and y / z of the ends of the box's visible edges; their convex hull is the box.
        field: (4,) as `field_of_view`.
        model: the camera.
        widest: as `valid_radius`.

    Returns:
        (Q, 2) rays; none where the box is out of view.
    """
    import cv2

    corners = cv2.convexHull(rays.astype(np.float32), returnPoints=False)[:, 0]
    polygon = _clip(rays[corners], field)
    if not model.d.any() or not len(polygon):
        return polygon
    # Even steps of angle, not of x / z.
    units = np.concatenate((polygon, np.ones((len(polygon), 1))), 1)
    units /= np.sqrt((units * units).sum(1, keepdims=True))
    along = _FISHEYE_ALONG if model.distortion_model in _FISHEYE else _BENT_ALONG
    sides = np.concatenate((units[1:], units[:1])) - units
    # One side after the other, as `_clip` wants them.
    points = (units[:, None] + along * sides[:, None]).reshape(-1, 3)
    outline = points[:, :2] / points[:, 2:]
    radius = np.hypot(*outline.T)
    if (radius <= widest).all():
        return outline
    pulled = outline * np.minimum(1, widest / np.maximum(radius, 1e-9))[:, None]
    return pulled[(radius <= widest) | _is_inside(pulled, polygon)]


def _clip(polygon: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Clip a (P, 2) polygon to (4,) least and greatest x y (Sutherland and Hodgman, 1974)."""
    if (polygon >= limits[:2]).all() and (polygon <= limits[2:]).all():
        return polygon
    # Without NumPy, whose calls take longer than the few points of a polygon.
    points = polygon.tolist()
    for axis, sign, limit in zip((0, 1, 0, 1), (1, 1, -1, -1), limits.tolist(), strict=True):
        inside = [sign * (point[axis] - limit) for point in points]
        kept = []
        for k, point in enumerate(points):
            following = (k + 1) % len(points)
            if inside[k] >= 0:
                kept.append(point)
            if inside[k] * inside[following] < 0:
                share = inside[k] / (inside[k] - inside[following])
                kept.append(
                    [one + share * (other - one) for one, other in zip(point, points[following], strict=True)]
                )
        points = kept
    return np.array(points, np.float64).reshape(-1, 2)


def _is_inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Return (Q,) bool: which of (Q, 2) points lie in a convex (P, 2) polygon of either orientation."""
    sides = np.roll(polygon, -1, 0) - polygon
    away = points[:, None] - polygon
    turn = sides[:, 0] * away[..., 1] - sides[:, 1] * away[..., 0]
    return (turn >= -1e-9).all(1) | (turn <= 1e-9).all(1)


def visible_edges(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of the boxes' edges beyond the near plane.

    Args:
        corners: (N, 8, 3) in the optical frame, in the order of `box_corners`.

    Returns:
        (N, 12, 2, 3) ends of the edges, in the order of `EDGES`, and (N, 12) bool, false for an edge that
        lies before the plane (its ends are at x = y = 0 then).
    """
    a, b = corners[:, EDGES[:, 0]], corners[:, EDGES[:, 1]]
    over_a, over_b = a[..., 2] - NEAR_M, b[..., 2] - NEAR_M
    valid = np.maximum(over_a, over_b) >= 0
    crosses = over_a * over_b < 0
    share = np.where(crosses, over_a / np.where(crosses, over_a - over_b, 1), 0)[..., None]
    crossing = a + share * (b - a)
    ends = np.stack(
        (
            np.where((crosses & (over_a < 0))[..., None], crossing, a),
            np.where((crosses & (over_b < 0))[..., None], crossing, b),
        ),
        2,
    )
    return np.where(valid[..., None, None], ends, (0.0, 0.0, 1.0)), valid


def along_edges(segments: np.ndarray, model: CameraModel) -> np.ndarray:
    """Return (..., S, 3) points along (..., 2, 3) segments; only the ends for an undistorted lens."""
    share = np.linspace(0, 1, (_BENT_STEPS if model.d.any() else 1) + 1)[:, None]
    return segments[..., :1, :] * (1 - share) + segments[..., 1:, :] * share


def _bounds(points: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return least and greatest (N, 2) of the valid points of (N, P, 2)."""
    low = np.where(valid[..., None], points, np.inf).min(1)
    high = np.where(valid[..., None], points, -np.inf).max(1)
    none = ~valid.any(1)
    low[none], high[none] = 0, 0
    return low, high


def _to_pixels(rays: np.ndarray, model: CameraModel) -> np.ndarray:
    if model.d.any():
        return _distort(rays, model)
    return rays @ model.k[:2, :2].T + model.k[:2, 2]


def _distort(rays: np.ndarray, model: CameraModel) -> np.ndarray:
    if not len(rays):
        return np.zeros((0, 2))
    import cv2

    points, still = np.concatenate((rays, np.ones((len(rays), 1))), 1)[:, None], np.zeros(3)
    if _lens(model) == "fisheye":
        return cv2.fisheye.projectPoints(points, still, still, model.k, model.d[:4])[0][:, 0]
    return cv2.projectPoints(points, still, still, model.k, model.d)[0][:, 0]


def _lens(model: CameraModel) -> str:
    count = len(model.d)
    if not np.abs(model.d).max(initial=0) <= _LARGEST_D:
        raise CodecError("d", model.d.tolist(), f"no lens has a coefficient above {_LARGEST_D:g}")
    if model.distortion_model in _FISHEYE and count >= 4:
        return "fisheye"
    if model.distortion_model in _PINHOLE and count in (4, 5, 8, 12, 14):
        return "pinhole"
    raise CodecError(
        "distortion_model", model.distortion_model, f"unknown, or not one of {count} coefficients"
    )
