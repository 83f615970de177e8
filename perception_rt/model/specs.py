"""The inputs of a bundle's network, and the preprocessing of sensor data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from perception_rt.model import fields
from perception_rt.types.errors import BundleError

RESIZES = ("stretch", "letterbox", "letterbox_top_left", "letterbox_32", "letterbox_64", "fit", "model")
CROP, SHORTER = "crop", "shorter"
FILTERS = ("bilinear", "area", "antialias", "bicubic", "model")
ORDERS = ("rgb", "bgr")
LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float16", "uint8")
INTENSITIES = ("unused", "unit", "byte")
AGE = 4  # column of a point that holds the age of its sweep
MAX_SWEEPS = 64
MAX_SIDE = 16384  # px of a network's input; checked before anything is allocated
MAX_PIXELS = 1 << 26
MAX_ASPECT = 8  # of an image before the centre crop, and after `shorter_N`
MAX_SHORTER = 2048  # px of `shorter_N`, so that no more than MAX_PIXELS come of it
# Rules for the second input of a network; each has one row for each image.
EXTRA_INPUTS = (
    "native_wh",  # int64 (1, 2): width, height of the sensor's image (`orig_target_sizes`)
    "native_hw",  # int64 (1, 2): height, width of the sensor's image
    "input_wh",  # int64 (1, 2): width, height of the network's input
    "input_hw",  # float32 (1, 2): height, width of the network's input (`im_shape`)
    "scale_hw",  # float32 (1, 2): input height / native height, input width / native width (`scale_factor`)
)


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The preprocessing of a sensor's image.

    Each network value is ``(grey * scale - mean[c]) / std[c]``.

    Attributes:
        size: (height, width) of the network's input in px; None if it takes any size (``shorter_N`` and
            ``model``).
        resize: ``stretch`` (fills the input), ``letterbox`` (keeps the aspect, centred, padded with `pad`),
            ``letterbox_top_left`` (the same, padded at the right and the bottom), ``letterbox_32`` and
            ``letterbox_64`` (centred within `size`, padded to a multiple of 32 or 64 px only), ``fit`` (keeps
            the aspect within `size`, not padded), ``crop_N`` (the shorter side becomes N px, at least the
            longer one of `size`; the middle is kept), ``shorter_N`` (the shorter side becomes N px, the
            aspect is kept; the longer one at most 8 N), or ``model``: the program takes the sensor's images.
        filter: ``bilinear`` (as `cv2.INTER_LINEAR`), ``area`` (as `cv2.INTER_AREA`), ``antialias`` (as
            torch's antialiased bilinear), ``bicubic`` (the same, bicubic), or ``model``.
        order: channel order that the network was trained on, ``rgb`` or ``bgr``.
        scale: factor of the grey levels.
        mean: subtracted next, per network channel.
        std: divided by last.
        pad: grey level of the letterbox bars.
        dtype: of the input; ``uint8`` gets the grey levels as they are.
        layout: ``NCHW`` or ``NHWC``.
        extra_inputs: by input name, the rule (one of `EXTRA_INPUTS`) that fills a second input.
    """

    size: tuple[int, int] | None
    resize: str
    filter: str
    order: str
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: float = 114.0
    dtype: str = "float32"
    layout: str = "NCHW"
    extra_inputs: dict[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The number that divides the sides of the input; None if the input always has `size`."""
        rule, _, last = self.resize.rpartition("_")
        return int(last) if last.isdecimal() and rule not in (CROP, SHORTER) else None

    @property
    def shorter_side(self) -> int | None:
        """The shorter side of the image before the centre crop, px; None without a crop."""
        rule, _, last = self.resize.rpartition("_")
        return int(last) if rule == CROP else None

    @property
    def whole_shorter_side(self) -> int | None:
        """The shorter side of the whole resized image, px; None if the rule does not define it."""
        rule, _, last = self.resize.rpartition("_")
        return int(last) if rule == SHORTER else None


@dataclass(frozen=True, slots=True)
class CloudSpec:
    """The preprocessing of clouds, and the clouds that a bundle is made for.

    Attributes:
        range: least x y z, greatest x y z in the sensor's frame, m, outside of which nothing is detected.
        intensity: ``unused``, or how the fourth column is scaled: ``unit`` (0 to 1) or ``byte`` (0 to 255).
        sensor_height: height of the sensor above the ground that the bundle is made for, m; None for any.
        encoder: the member of the archive, TorchScript, that maps points (N, 4) to the list of the network's
            inputs; None where the program takes the points themselves.
        sweeps: number of sweeps in a cloud: the newest, and earlier ones transformed to its pose.
        ages: points have a fifth column: the age of their sweep relative to the newest, s.
    """

    range: tuple[float, float, float, float, float, float]
    intensity: str
    sensor_height: float | None = None
    encoder: str | None = None
    sweeps: int = 1
    ages: bool = False


InputSpec = ImageSpec | CloudSpec


def parse_image(data: dict[str, Any]) -> ImageSpec:
    """Check an `ImageSpec`; BundleError names the field."""
    fields.no_others(data, ImageSpec, "input.")
    size = data.get("size")
    checks = {
        "resize": resize_rule,
        "filter": fields.one_of(FILTERS),
        "order": fields.one_of(ORDERS),
        "scale": fields.number(),
        "mean": fields.list_of(fields.number(), 3),
        "std": fields.list_of(fields.number(1e-12), 3),
        "pad": fields.number(0.0, 255.0),
        "dtype": fields.one_of(DTYPES),
        "layout": fields.one_of(LAYOUTS),
        "extra_inputs": fields.mapping_of(fields.one_of(EXTRA_INPUTS)),
    }
    required = ("resize", "filter", "order")  # format 1 has only these
    sides = fields.list_of(fields.integer(1, MAX_SIDE), 2)
    spec = ImageSpec(
        size=None if size is None else fields.field(data, "size", sides, "input."),
        **{
            name: fields.field(data, name, check, "input.")
            for name, check in checks.items()
            if name in data or name in required
        },
    )
    if spec.size and spec.size[0] * spec.size[1] > MAX_PIXELS:
        raise BundleError(f"manifest input.size={spec.size}: must be at most {MAX_PIXELS} px")
    free = spec.resize == "model" or spec.whole_shorter_side is not None
    if spec.size is None and not free:
        raise BundleError(f"manifest input.size=None: resize={spec.resize!r} needs a size")
    if spec.size and spec.whole_shorter_side is not None:
        raise BundleError(f"manifest input.size={spec.size}: resize={spec.resize!r} makes the size")
    if spec.size and spec.shorter_side is not None and spec.shorter_side < max(spec.size):
        raise BundleError(f"manifest input.resize={spec.resize!r}: the crop {spec.size} is larger")
    return spec


def resize_rule(value: Any) -> str:
    """Check a rule of `ImageSpec.resize`; ValueError gives the requirement."""
    if isinstance(value, str) and (found := re.fullmatch(rf"({CROP}|{SHORTER})_([0-9]{{1,5}})", value)):
        most = MAX_SIDE if found[1] == CROP else MAX_SHORTER
        if 1 <= int(found[2]) <= most:
            return value
        raise ValueError(f"must have a side of 1 to {most} px")
    if value not in RESIZES:
        raise ValueError(f"must be one of {', '.join(RESIZES)}, {CROP}_N or {SHORTER}_N")
    return str(value)


def parse_cloud(data: dict[str, Any]) -> CloudSpec:
    """Check a `CloudSpec`; BundleError names the field."""
    fields.no_others(data, CloudSpec, "input.")
    checks = {
        "sensor_height": fields.optional(fields.number()),
        "encoder": fields.optional(fields.file_name),
        "sweeps": fields.integer(1, MAX_SWEEPS),
        "ages": fields.truth,
    }
    return CloudSpec(
        range=fields.field(data, "range", fields.list_of(fields.number(), 6), "input."),
        intensity=fields.field(data, "intensity", fields.one_of(INTENSITIES), "input."),
        **{name: fields.field(data, name, check, "input.") for name, check in checks.items() if name in data},
    )
