"""How the picture of a moving camera moves between two images, from what stands in them."""

from __future__ import annotations

import cv2
import numpy as np

from perception_rt.types.errors import TrackingError

WORK_PX = 480  # images are made smaller than twice this, by a whole factor
CORNERS = 200
QUALITY, APART_PX = 0.01, 6.0  # of corners
WINDOW, LEVELS = (15, 15), 3  # of the flow's search
INLIER_PX = 2.0  # in the smaller image
LEAST_INLIERS, LEAST_SHARE = 12, 0.3
MOST_SCALE = 1.5
COARSE = 4  # by which a picture is made smaller to find how far it moved


class CameraMotion:
    """Follows corners outside the boxes of objects, and fits one motion to them.

    Sparse optical flow (pyramidal Lucas-Kanade), and a rotation, scale and translation by RANSAC, as in
    Aharon et al., BoT-SORT, arXiv:2206.14651.
    """

    def __init__(self) -> None:
        self._grey: np.ndarray | None = None
        self._boxes = np.zeros((0, 4))

    def forget(self) -> None:
        """Compare the next image with none: that between was not seen."""
        self._grey = None

    def update(self, pixels: np.ndarray, xyxy: np.ndarray, bgr: bool = False) -> np.ndarray | None:
        """Take the next image.

        Args:
            pixels: (H, W, 3) or (H, W) uint8.
            xyxy: (D, 4) px, boxes of the objects in it, which may move by themselves.
            bgr: order of the colours.

        Returns:
            (2, 3) float64 affine map from px of the image before to px of this one; None for the first image,
            one of another size, or where too few corners agree.

        Raises:
            TrackingError: pixels of another shape or type, or a box that is not finite.
        """
        if not np.isfinite(xyxy).all():
            raise TrackingError("xyxy", np.asarray(xyxy).tolist(), "must be finite")
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
            shape = f"{pixels.shape} {pixels.dtype}"
            raise TrackingError("pixels", shape, "must be (H, W, 3) or (H, W) of uint8")
        factor = max(1, max(pixels.shape[:2]) // WORK_PX)
        grey, boxes = _smaller(pixels, factor, bgr), np.asarray(xyxy, np.float64) / factor
        before, hidden = self._grey, self._boxes
        self._grey, self._boxes = grey, boxes
        if before is None or before.shape != grey.shape:
            return None
        motion = _between(before, grey, hidden)
        if motion is not None:
            motion[:, 2] *= factor
        return motion


def _smaller(pixels: np.ndarray, factor: int, bgr: bool) -> np.ndarray:
    height, width = (max(side // factor, 1) for side in pixels.shape[:2])
    if factor > 1:
        whole = np.ascontiguousarray(pixels[: height * factor, : width * factor])
        pixels = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY if bgr else cv2.COLOR_RGB2GRAY)


def _between(before: np.ndarray, after: np.ndarray, boxes: np.ndarray) -> np.ndarray | None:
    """(2, 3) motion of what is outside the (D, 4) boxes of the image before."""
    mask = np.full(before.shape, 255, np.uint8)
    height, width = before.shape
    inside = np.clip(boxes, 0, (width, height, width, height))
    for left, top, right, bottom in np.round(inside).astype(int):
        mask[top:bottom, left:right] = 0
    found = cv2.goodFeaturesToTrack(before, CORNERS, QUALITY, APART_PX, mask=mask)
    if found is None or len(found) < LEAST_INLIERS:
        return None
    motion = _fitted(before, after, found, np.zeros(2, np.float32))
    return motion if motion is not None else _fitted(before, after, found, _shift(before, after))


def _shift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(2,) px of the whole picture, however far it moved: phase correlation at a quarter of the size."""
    if min(before.shape) < 2 * COARSE:
        return np.zeros(2, np.float32)
    size = before.shape[1] // COARSE, before.shape[0] // COARSE
    first, second = (
        cv2.resize(each, size, interpolation=cv2.INTER_AREA).astype(np.float32) for each in (before, after)
    )
    window = cv2.createHanningWindow(size, cv2.CV_32F)
    return COARSE * np.array(cv2.phaseCorrelate(first, second, window)[0], np.float32)


def _fitted(
    before: np.ndarray, after: np.ndarray, corners: np.ndarray, shift: np.ndarray
) -> np.ndarray | None:
    """(2, 3) motion that most corners (N, 1, 2) follow, near a shift; None if too few agree."""
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    moved, followed, _ = cv2.calcOpticalFlowPyrLK(
        before, after, corners, corners + shift, winSize=WINDOW, maxLevel=LEVELS, flags=flags
    )
    kept = followed.ravel() == 1
    if kept.sum() < LEAST_INLIERS:
        return None
    motion, inliers = cv2.estimateAffinePartial2D(corners[kept], moved[kept], ransacReprojThreshold=INLIER_PX)
    if motion is None or inliers.sum() < max(LEAST_INLIERS, LEAST_SHARE * kept.sum()):
        return None
    scale = np.hypot(motion[0, 0], motion[1, 0])
    return motion if 1 / MOST_SCALE < scale < MOST_SCALE else None
