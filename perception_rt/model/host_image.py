"""Convert a sensor's uint8 image to a network's inputs, and boxes back: by OpenCV on a CPU, else by torch.

On a CPU, OpenCV resizes the image, and a buffer is reused for the input; this takes a third of the time of
the same steps inside a network. `perception_rt.model.device_image` does them on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.preprocess import axis_taps
from perception_rt.model.specs import MAX_ASPECT, ImageSpec
from perception_rt.types.segmentation import UNLABELLED

_TYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
ANTIALIASED = {"antialias": "bilinear", "bicubic": "bicubic"}
MIN_SIDE = 32  # px of what `fit` leaves of a very long image
MAX_FLOAT_PIXELS = 1 << 23  # of a resized image that may be held in float32: 96 MiB
SMALL = 3 << 20  # bytes of an image whose columns are resized first
STRIP = 1 << 18  # bytes of it at a time, so that the cache holds them
_UNSCALED = torch.tensor([1.0, 0.0]).view(torch.uint8)  # scale and bias, which follow each row of a bag


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies in the network's input.

    Attributes:
        size: (height, width) of the input, px.
        native: (height, width) of the image, px.
        top, left, height, width: of the image within the input, px; parts outside of the input are cropped.
    """

    size: tuple[int, int]
    native: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the input that the image fills."""
        (top, bottom), (left, right) = self._ends
        return slice(top, bottom), slice(left, right)

    @property
    def seen(self) -> tuple[slice, slice]:
        """Rows and columns of the resized image that the input shows."""
        (top, bottom), (left, right) = self._ends
        return slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)

    @property
    def _ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        rows, columns = self.size
        return (max(self.top, 0), min(self.top + self.height, rows)), (
            max(self.left, 0),
            min(self.left + self.width, columns),
        )

    def to_native(self, found: Candidates) -> Candidates:
        """Map boxes and keypoints from px of the input to the image; upright boxes are clipped."""
        origin, scale, most = (term.to(found.boxes) for term in _native_terms(self))
        boxes = (found.boxes - origin) * scale
        extras = dict(found.extras)
        if "theta" not in extras:  # an oriented box is another one when its sides are cut
            boxes = boxes.clamp(min=0).minimum(most)
        if "keypoints" in extras:
            points = extras["keypoints"].clone()
            points[..., :2] = (points[..., :2] - origin[:2]) * scale[:2]
            extras["keypoints"] = points
        return found._replace(boxes=boxes, extras=extras)


@lru_cache(maxsize=16)
def _native_terms(at: Placement) -> tuple[Tensor, Tensor, Tensor]:
    """Origin, scale and greatest value of xyxy on the way from the input to the image, (4,) each."""
    height, width = at.native
    terms = [at.left, at.top] * 2, [width / at.width, height / at.height] * 2, [width, height] * 2
    with torch.inference_mode(False):  # they are kept, and `bundle explain` asks for gradients
        origin, scale, most = (torch.tensor(term) for term in terms)
    return origin, scale, most


def labels_to_native(labels: Tensor, place: Placement) -> Tensor:
    """Map labels from the network's input to the image: (h, w) uint8 at the size of the input.

    Returns:
        (H, W) uint8; `UNLABELLED` where the input does not show the image.
    """
    rows, row_seen = _sources(place.native[0], place.height, place.top, place.size[0], labels.device)
    columns, column_seen = _sources(place.native[1], place.width, place.left, place.size[1], labels.device)
    found = labels[rows][:, columns]
    if row_seen is not None:
        found[~row_seen] = UNLABELLED
    if column_seen is not None:
        found[:, ~column_seen] = UNLABELLED
    return found


def _sources(
    native: int, resized: int, start: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the input position of each of `native` pixels along an axis, and which are visible."""
    places = torch.div((2 * torch.arange(native) + 1) * resized, 2 * native, rounding_mode="floor") + start
    seen = (places >= 0) & (places < size)
    places = places.clamp(0, size - 1).to(device)
    return places, None if bool(seen.all()) else seen.to(device)


def place(spec: ImageSpec, native: tuple[int, int]) -> Placement:
    """Return where an image of (height, width) `native` lies in the input of `spec`."""
    height, width = native
    rows, columns = spec.size or native
    if spec.resize == "stretch":
        return Placement((rows, columns), native, 0, 0, rows, columns)
    if spec.shorter_side is not None:
        short, long = _sides(spec.shorter_side, native)
        new_h, new_w = (short, long) if height <= width else (long, short)
        # Rounded as torchvision's Resize and CenterCrop do.
        top, left = round((rows - new_h) / 2), round((columns - new_w) / 2)
        return Placement((rows, columns), native, top, left, new_h, new_w)
    if spec.whole_shorter_side is not None:
        short, long = _sides(spec.whole_shorter_side, native)
        if long > (most := MAX_ASPECT * spec.whole_shorter_side):
            short, long = max(1, most * min(native) // max(native)), most
        new_h, new_w = (short, long) if height <= width else (long, short)
        return Placement((new_h, new_w), native, 0, 0, new_h, new_w)
    ratio = min(rows / height, columns / width)
    new_h, new_w = max(1, round(height * ratio)), max(1, round(width * ratio))
    if spec.resize == "fit":
        new_h, new_w = max(MIN_SIDE, new_h), max(MIN_SIDE, new_w)
        return Placement((new_h, new_w), native, 0, 0, new_h, new_w)
    if spec.step is not None:
        rows, columns = new_h + (rows - new_h) % spec.step, new_w + (columns - new_w) % spec.step
    centred = spec.resize != "letterbox_top_left"
    top, left = ((rows - new_h) // 2, (columns - new_w) // 2) if centred else (0, 0)
    return Placement((rows, columns), native, top, left, new_h, new_w)


def _sides(shorter: int, native: tuple[int, int]) -> tuple[int, int]:
    """Return the shorter and the longer side after a resize to `shorter`, rounded as torchvision's Resize."""
    return shorter, int(shorter * max(native) / min(native))


class ImagePreparer:
    """Converts images to the inputs of a network; the next call overwrites the tensors.

    Args:
        spec: how.
        names: of the network's inputs, the image first.
        device: where the network takes them.
    """

    def __init__(self, spec: ImageSpec, names: tuple[str, ...], device: torch.device) -> None:
        self._spec, self._device = spec, device
        others = [name for name in names if name not in spec.extra_inputs]
        self._name = others[0] if others else "images"
        deviation = np.array(spec.std, np.float64)
        self._gain = (spec.scale / deviation).astype(np.float32)
        self._offset = (-np.array(spec.mean, np.float64) / deviation).astype(np.float32)
        self._buffers: dict[Placement, Tensor] = {}
        self._on_device = None
        if device.type == "cuda":
            from perception_rt.model.device_image import DevicePreparer  # it needs `Placement`

            self._on_device = DevicePreparer(spec, device)

    def __call__(self, image: Tensor, bgr: bool) -> tuple[dict[str, Tensor], Placement]:
        """Return the inputs for one image (1, H, W, 3) uint8, and its placement in them."""
        spec = self._spec
        if spec.shorter_side is not None:
            image = _middle(image)
        where = place(spec, (image.shape[1], image.shape[2]))
        if self._on_device is not None:
            data = self._on_device(image.to(self._device, non_blocking=True), bgr, where)
            data = data.to(_TYPES[spec.dtype])
        else:
            data = self._fill(image[0].numpy(), bgr, where)
        if spec.layout == "NHWC":
            data = data.permute(0, 2, 3, 1).contiguous()
        inputs = {self._name: data.to(self._device)}
        for name, rule in spec.extra_inputs.items():
            inputs[name] = _RULES[rule](where).to(self._device)
        return inputs, where

    def _fill(self, pixels: np.ndarray, bgr: bool, where: Placement) -> Tensor:
        spec = self._spec
        import cv2  # a GPU prepares images without it

        grey = resize(pixels, where.width, where.height, spec.filter)[where.seen]
        buffer, swapped = self._buffer(where), bgr != (spec.order == "bgr")
        target, (rows, columns) = buffer[0].numpy(), where.window
        if spec.dtype == "uint8" and grey.shape[:2] == target.shape[1:]:
            cv2.split(grey, list(target[::-1] if swapped else target))
            return buffer
        planes = list(cv2.split(grey))  # NumPy takes twice as long to scale every third byte
        if swapped:
            planes.reverse()
        for channel, plane in enumerate(planes):
            part = target[channel, rows, columns]
            if spec.dtype == "uint8":
                part[:] = plane
                continue
            np.multiply(plane, self._gain[channel], out=part, casting="unsafe")
            if self._offset[channel]:
                np.add(part, self._offset[channel], out=part)
        return buffer

    def _buffer(self, where: Placement) -> Tensor:
        """Return the buffer for images of a placement; its bars are already filled."""
        if where not in self._buffers:
            if len(self._buffers) >= 16:
                self._buffers.clear()
            buffer = torch.empty((1, 3, *where.size), dtype=_TYPES[self._spec.dtype])
            bars = self._spec.pad * self._gain + self._offset
            if self._spec.dtype == "uint8":
                bars = np.full(3, self._spec.pad, np.float32)
            buffer.copy_(torch.from_numpy(bars).view(1, 3, 1, 1).expand_as(buffer))
            self._buffers[where] = buffer
        return self._buffers[where]


def resize(pixels: np.ndarray, width: int, height: int, method: str) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height, width, 3) uint8, rounded to whole grey levels."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if mode := ANTIALIASED.get(method):
        planar = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
        small = F.interpolate(planar, [height, width], mode=mode, antialias=True)
        return small[0].permute(1, 2, 0).numpy()
    import cv2

    if not pixels.flags.c_contiguous:
        pixels = np.ascontiguousarray(pixels)
    if method != "area":
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    if width > pixels.shape[1] or height > pixels.shape[0]:
        return _by_axis(pixels, width, height)
    if pixels.size <= SMALL:
        return _shrunk(pixels, width, height)
    if height < pixels.shape[0] and height * pixels.shape[1] <= MAX_FLOAT_PIXELS:
        rows = _shrunk_rows(pixels, height)
        return cv2.convertScaleAbs(cv2.resize(rows, (width, height), interpolation=cv2.INTER_AREA))
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _shrunk(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Shrink (H, W, 3) uint8 to (height, width, 3) uint8 by the area of its columns, then of its rows.

    The transposed columns lie in one piece of memory, as `_weighted_rows` needs them. This takes half of the
    time of `_shrunk_rows` and OpenCV.
    """
    import cv2

    rows, columns = pixels.shape[:2]
    narrow = np.empty((rows, width, 3), np.float32)
    step = max(1, STRIP // (columns * 3))
    for first in range(0, rows, step):
        part = pixels[first : first + step].copy()
        padded = torch.empty((columns, len(part) * 3 + 8), dtype=torch.uint8)
        cv2.transpose(part, padded.numpy()[:, :-8].reshape(columns, len(part), 3))
        cv2.transpose(_weighted_rows(padded, width), narrow[first : first + step])
    index, offsets, weights = _axis_tables(rows, height)
    flat = torch.from_numpy(narrow).view(rows, width * 3)
    small = torch.embedding_bag(flat, index, offsets, False, 0, False, weights)[0]
    return cv2.convertScaleAbs(small.view(height, width, 3).numpy())


def _shrunk_rows(pixels: np.ndarray, height: int) -> np.ndarray:
    """(H, W, 3) uint8 to (height, W, 3) float32 by the area of its rows, a third of OpenCV's time."""
    rows, width = pixels.shape[0], pixels.shape[1] * 3
    padded = torch.empty((rows, width + 8), dtype=torch.uint8)
    padded[:, :width] = torch.from_numpy(pixels).view(rows, width)
    return _weighted_rows(padded, height)


def _weighted_rows(padded: Tensor, count: int) -> np.ndarray:
    """(N, L * 3 + 8) uint8 to (count, L, 3) float32 by the area of its rows; overwrites the last 8 columns.

    torch's embedding bag sums weighted rows of bytes without making floats of them first.
    """
    index, offsets, weights = _axis_tables(len(padded), count)
    padded[:, -8:] = _UNSCALED
    found = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        padded, index, offsets, False, 0, False, weights, None, False
    )
    # It leaves the upper halves of AVX registers dirty, which makes OpenCV's SSE code three times slower; any
    # other vector operation cleans them.
    weights.sum()
    return found.view(count, -1, 3).numpy()


@lru_cache(maxsize=16)
def _axis_tables(n_in: int, n_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """What an embedding bag needs to shrink an axis: inputs, where each bag begins, weights."""
    index, weights = axis_taps(n_in, n_out, True)
    return index.flatten(), torch.arange(n_out) * index.shape[1], weights.flatten()


def _by_axis(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize by `area` along axes that shrink and bilinearly along axes that grow."""
    import cv2

    rows, columns = pixels.shape[:2]
    first = cv2.INTER_AREA if width < columns else cv2.INTER_LINEAR
    second = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
    wide = cv2.resize(pixels, (width, rows), interpolation=first)
    return cv2.resize(wide, (width, height), interpolation=second)


def _middle(image: Tensor) -> Tensor:
    """Return (1, H, W, 3) without the ends that a crop removes, to save memory."""
    height, width = image.shape[1:3]
    excess = [max(side - MAX_ASPECT * min(height, width), 0) // 2 for side in (height, width)]
    return image[:, excess[0] : height - excess[0], excess[1] : width - excess[1]]


def _pair(first: float, second: float, kind: torch.dtype) -> Tensor:
    return torch.tensor([[first, second]], dtype=kind)


_RULES: dict[str, Callable[[Placement], Tensor]] = {
    "native_wh": lambda at: _pair(at.native[1], at.native[0], torch.int64),
    "native_hw": lambda at: _pair(at.native[0], at.native[1], torch.int64),
    "input_wh": lambda at: _pair(at.size[1], at.size[0], torch.int64),
    "input_hw": lambda at: _pair(at.size[0], at.size[1], torch.float32),
    "scale_hw": lambda at: _pair(at.height / at.native[0], at.width / at.native[1], torch.float32),
}
