"""Shared code of the importers of lidar networks: checked settings, grid, backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_rt.model.pointpillars import BevBackbone, PillarGrid
from perception_rt.types.errors import BundleError

MAX_CELLS = 1 << 22  # pillars of the map; KITTI's has 214 272
MAX_SIDE = 8192
MAX_VALUES = 1 << 28  # of weights or of a map; KITTI's network has 4.8 million weights
MAX_ANCHORS = 256  # of a cell
MAX_CHANNELS = 1024
MAX_CONFIG = 1 << 20  # bytes of a file


class Setting:
    """A value of the configuration with its path, so that errors can name it."""

    def __init__(self, value: Any, where: str, inner: bool = True) -> None:
        self.value, self.where, self.inner = value, where, inner

    def refusal(self, must: str) -> BundleError:
        """Return the error that states the requirement."""
        return BundleError(f"{self.where}={str(self.value)[:80]}: must be {must}")

    def at(self, key: str) -> str:
        """Return the path of `key`."""
        return f"{self.where}{'.' if self.inner else ': '}{key}"

    def has(self, key: str) -> bool:
        """Return whether it is an object with `key`."""
        return isinstance(self.value, Mapping) and self.value.get(key) is not None

    def get(self, *keys: str) -> Setting:
        """Return the value under nested `keys`."""
        node = self
        for key in keys:
            if not node.has(key):
                raise BundleError(f"{node.at(key)}: is missing")
            node = Setting(node.value[key], node.at(key))
        return node

    def maybe(self, key: str, default: Any) -> Setting:
        """Return the value under `key`, or `default`."""
        return self.get(key) if self.has(key) else Setting(default, self.at(key))

    def one_of(self, *values: Any) -> None:
        """Return the value if it is one of several."""
        if not any(self.value == value and type(self.value) is type(value) for value in values):
            raise self.refusal(" or ".join(str(value) for value in values))

    def number(self, least: float, most: float) -> float:
        """Return a finite number in bounds."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.refusal(f"a number from {least:g} to {most:g}")
        return float(value)

    def integer(self, least: int, most: int) -> int:
        """Return an integer in bounds."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not least <= self.value <= most:
            raise self.refusal(f"a whole number from {least} to {most}")
        return self.value

    def flag(self) -> bool:
        """Return a boolean."""
        if not isinstance(self.value, bool):
            raise self.refusal("true or false")
        return self.value

    def sequence(self, count: int | None = None) -> list[Any]:
        """Return a list of at most 100 values, or of exactly `count`."""
        if (
            not isinstance(self.value, list | tuple)
            or len(self.value) > 100
            or count not in (None, len(self.value))
        ):
            raise self.refusal("a list" if count is None else f"a list of {count}")
        return list(self.value)

    def items(self, count: int | None = None) -> list[Setting]:
        """Return the values of a list as settings."""
        return [Setting(value, f"{self.where}[{i}]") for i, value in enumerate(self.sequence(count))]

    def numbers(self, least: float, most: float, count: int | None = None) -> list[float]:
        """Return a list of numbers in bounds."""
        return [item.number(least, most) for item in self.items(count)]

    def integers(self, least: int, most: int, count: int | None = None) -> list[int]:
        """Return a list of integers in bounds."""
        return [item.integer(least, most) for item in self.items(count)]


def pillar_grid(
    area: list[float], sizes: Setting, max_points: int, max_pillars: int, dynamic: bool = False
) -> PillarGrid:
    """Return the grid of pillars.

    Args:
        area: least x y z, greatest x y z, m.
        sizes: of a pillar along x y z, m.
        max_points, max_pillars, dynamic: as of `PillarGrid`.

    Raises:
        BundleError: the grid has several layers, no pillars, or too many.
    """
    size = sizes.numbers(0.01, 1000, 3)
    counts = [round((area[3 + i] - area[i]) / size[i]) for i in range(3)]
    if min(counts) < 1 or max(counts) > MAX_SIDE or counts[2] != 1 or counts[0] * counts[1] > MAX_CELLS:
        raise BundleError(
            f"{sizes.where}={size}: gives {counts} pillars along x y z: must be 1 along z, from 1 to "
            f"{MAX_SIDE} along x and y, and at most {MAX_CELLS} in all"
        )
    return PillarGrid(
        low=(area[0], area[1], area[2]),
        high=(area[3], area[4], area[5]),
        size=(size[0], size[1], size[2]),
        columns=counts[0],
        rows=counts[1],
        max_points=max_points,
        max_pillars=max_pillars,
        dynamic=dynamic,
    )


def bev_backbone(
    inputs: int,
    cells: tuple[int, int],
    levels: tuple[Setting, Setting, Setting],
    ups: tuple[Setting, Setting],
    conv_at_one: bool,
    eps: tuple[float, float],
) -> tuple[BevBackbone, tuple[int, int]]:
    """Return the backbone, and rows and columns of its output.

    Args:
        inputs: channels of the map of pillars.
        cells: its rows and columns.
        levels: of each, convolutions after the first one, stride, channels.
        ups: strides that enlarge them, and channels of that.
        conv_at_one, eps: as of `BevBackbone`.

    Raises:
        BundleError: the upsampled levels differ in size.
    """
    layers = levels[0].integers(0, 100)
    count = len(layers)
    check_size(inputs * cells[0] * cells[1], levels[2])
    strides = levels[1].integers(1, 16, count)
    filters = levels[2].integers(1, MAX_CHANNELS, count)
    check_size(9 * sum((n + 1) * width**2 for n, width in zip(layers, filters, strict=True)), levels[2])
    up = ups[0]
    up_strides, up_filters = up.numbers(1 / 16, 16), ups[1].integers(1, MAX_CHANNELS, count)
    whole = all(value == (round(value) if value >= 1 else 1 / round(1 / value)) for value in up_strides)
    if not count or len(up_strides) not in (count, count + 1) or not whole:
        raise up.refusal(f"{count} or {count + 1} whole numbers, or one divided by such")
    if len(up_strides) > count and up_strides[-1] < 1:
        raise up.refusal("1 or more at its end")
    sizes, shape = set(), cells
    for stride, factor in zip(strides, up_strides, strict=False):
        shape = (-(-shape[0] // stride), -(-shape[1] // stride))
        sizes.add((int(shape[0] * factor), int(shape[1] * factor)))
    if len(sizes) > 1:
        raise up.refusal(f"such that all levels become one size, not {sorted(sizes)} for {cells} pillars")
    last = int(up_strides[-1]) if len(up_strides) > count else 1
    height, width = sizes.pop()
    check_size(sum(up_filters) * max(height * width * last**2, max(filters) * 16**2), ups[1])
    backbone = BevBackbone(inputs, layers, strides, filters, up_strides, up_filters, conv_at_one, eps)
    return backbone, (height * last, width * last)


def check_size(values: int, where: Setting) -> None:
    """Raise BundleError for a network or a map of more than `MAX_VALUES`.

    Raises:
        BundleError: naming `where`.
    """
    if values > MAX_VALUES:
        raise where.refusal(f"such that weights and maps have at most {MAX_VALUES} values, not {values}")


def check_stride(stride: Setting, grid: PillarGrid, cells: tuple[int, int]) -> int:
    """Return the width of a cell of the head in pillars.

    Raises:
        BundleError: the backbone returns another number of cells.
    """
    value = stride.integer(1, 256)
    if (grid.rows // value, grid.columns // value) != cells:
        raise BundleError(
            f"{stride.where}={value}: must fit the {cells} cells that the backbone answers for "
            f"{(grid.rows, grid.columns)} pillars"
        )
    return value


def intensity_of(dataset: Setting) -> str:
    """Return how the intensities of a training tool's data set are scaled, as in `CloudSpec`."""
    return "byte" if any(name in str(dataset.value) for name in ("NuScenes", "Lyft")) else "unit"
