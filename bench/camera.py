"""The part camera: FastestDet, or the shipped detector, on images of two sizes through real topics."""

from __future__ import annotations

import os
from pathlib import Path

from bench.inputs import SIZES, picture
from bench.micro import camera_rows
from bench.pipeline import MeasuredCamera, running
from bench.rows import Row
from bench.stream import Feed, Length, Step, measure, soak
from perception_rt.codec.encode import encode_image

CAMERA_HZ = 30.0
AGE_TARGETS = {"720p": "<= 6 ms at 720p"}


def feed(name: str, folder: Path) -> Feed:
    """The picture of one size, written for the publisher."""
    file, image = folder / f"{name}.cdr", picture(SIZES[name])
    file.write_bytes(encode_image(image, "rgb8", 0, "camera"))
    return Feed(f"camera/{name}", "Image", file, image[None], CAMERA_HZ, AGE_TARGETS.get(name, ""))


def camera_part(bundle: str, folder: Path, length: Length, quick: bool, step: Step) -> list[Row]:
    """Every row of the camera."""
    rows, rates, environment = camera_rows(quick), {}, dict(os.environ)
    feeds = {name: feed(name, folder) for name in SIZES}
    sizes = [f"{width}x{height}" for width, height in SIZES.values()]
    with running(MeasuredCamera, bundle=bundle, warmup_sizes=sizes) as node:
        for name in SIZES:
            found, *rates[name] = measure(node, feeds[name], environment, length, step)
            rows += found
        rows += soak(node, feeds["720p"], rates["720p"][0], environment, length.soak_s, step)
    return rows
