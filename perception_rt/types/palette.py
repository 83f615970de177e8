"""The colour of each class, the same in pictures, reports, markers and live views."""

from __future__ import annotations

import colorsys
import zlib
from functools import lru_cache

Rgb = tuple[int, int, int]

# Okabe and Ito's palette (2008), which most colour-blind people can tell apart, for what is seen most.
_COLOURS: dict[str, Rgb] = {
    "car": (230, 159, 0),
    "pedestrian": (86, 180, 233),
    "cyclist": (0, 158, 115),
    "truck": (240, 228, 66),
    "bus": (213, 94, 0),
    "motorcycle": (204, 121, 167),
    "traffic light": (0, 114, 178),
}
_SYNONYMS = {
    "person": "pedestrian",
    "bicycle": "cyclist",
    "bike": "cyclist",
    "motorbike": "motorcycle",
    "motorcyclist": "motorcycle",
    "lorry": "truck",
}


@lru_cache(maxsize=4096)
def class_colour(name: str) -> Rgb:
    """Return the colour of a class by its name alone: RGB, 0 to 255.

    Road users have colours of Okabe and Ito's palette. The hue of every other name follows from its CRC-32,
    at a lightness that can be seen on dark and on bright.
    """
    plain = name.strip().lower().replace("_", " ")
    plain = _SYNONYMS.get(plain, plain)
    if plain in _COLOURS:
        return _COLOURS[plain]
    code = zlib.crc32(plain.encode("utf-8", "surrogatepass"))
    lightness = (0.45, 0.58, 0.7)[code % 3]
    red, green, blue = colorsys.hls_to_rgb((code // 3 % 3600) / 3600, lightness, 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)
