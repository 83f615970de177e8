"""From a sensor's uint8 images to a network's input, inside the scripted module.

Resizing is separable: each output pixel is a weighted sum of a few input rows, then columns. ``area`` weights
are the exact overlaps of the pixels (as `cv2.INTER_AREA` when it shrinks; adaptive pooling is something
else), ``bilinear`` ones are `cv2.INTER_LINEAR`'s. Results are rounded to whole grey levels, as the tools that
networks are trained with resize uint8 images to uint8.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception_rt.model.manifest import ImageSpec


def axis_taps(n_in: int, n_out: int, area: bool) -> tuple[Tensor, Tensor]:
    """Which inputs make each output along one axis.

    Args:
        n_in: input length.
        n_out: output length.
        area: overlap weights where the axis shrinks; else, and where it grows, bilinear.

    Returns:
        index (n_out, K) int64 in [0, n_in), weight (n_out, K) float32; each row sums to 1.
    """
    out = torch.arange(n_out)
    if area and n_in > n_out:
        # In units of 1/n_out input pixels every edge is an integer, so the overlaps are exact.
        begin, end = out * n_in, (out + 1) * n_in
        taps = (n_in + n_out - 1) // n_out + 1
        index = (begin // n_out).unsqueeze(1) + torch.arange(taps)
        overlap = torch.minimum(end.unsqueeze(1), (index + 1) * n_out) - torch.maximum(
            begin.unsqueeze(1), index * n_out
        )
        return index.clamp(max=n_in - 1), overlap.clamp(min=0).to(torch.float64).div(n_in).float()
    source = ((out.double() + 0.5) * n_in / n_out - 0.5).clamp(0, n_in - 1)
    first = source.floor()
    fraction = (source - first).float()
    index = first.long().unsqueeze(1) + torch.arange(2)
    return index.clamp(max=n_in - 1), torch.stack([1 - fraction, fraction], 1)


def column_bands(
    index: Tensor, weight: Tensor, n_in: int, swap: bool, group: int = 8
) -> tuple[Tensor, Tensor]:
    """Horizontal taps as one small dense matrix for each group of `group` output columns.

    Args:
        index: (n_out, K) from `axis_taps`.
        weight: (n_out, K).
        n_in: input length.
        swap: reverse the three channels on the way.
        group: columns a product makes: small costs calls, large costs zeros (8 and 16 measure best).

    Returns:
        start (groups,) int64, first input column of each group; band (groups, 3 * window, group * 3)
        float32; channels are interleaved on both sides.
    """
    n_out = index.shape[0]
    groups = (n_out + group - 1) // group
    spare = groups * group - n_out
    if spare > 0:
        index = torch.cat([index, index[-1:].expand(spare, -1)])
        weight = torch.cat([weight, torch.zeros_like(weight[-1:]).expand(spare, -1)])
    grouped = index.view(groups, -1)
    start = grouped.amin(1)
    window = int((grouped.amax(1) - start).max().item()) + 1
    start = start.clamp(max=n_in - window)
    column = index - start.repeat_interleave(group).unsqueeze(1)
    dense = torch.zeros(groups * group, window).scatter_add_(1, column, weight)
    dense = dense.view(groups, group, window).transpose(1, 2)
    band = torch.zeros(groups, window, 3, group, 3)
    for channel in range(3):
        band[:, :, 2 - channel if swap else channel, :, channel] = dense
    return start, band.view(groups, window * 3, group * 3)


def banded_tables(n: int, h: int, w: int, new_h: int, new_w: int, area: bool, swap: bool) -> list[Tensor]:
    """What `resize_banded` needs to bring n images of h x w px to new_h x new_w."""
    rows, row_weights = axis_taps(h, new_h, area)
    columns, column_weights = axis_taps(w, new_w, area)
    batch_rows = (rows.unsqueeze(0) + torch.arange(n).view(n, 1, 1) * h).flatten()
    offsets = torch.arange(n * new_h) * rows.shape[1]
    start, band = column_bands(columns, column_weights, w, swap)
    scale_bias = torch.tensor([0, 0, 128, 63, 0, 0, 0, 0], dtype=torch.uint8)  # float32 1 and 0
    return [batch_rows, offsets, row_weights.repeat(n, 1).flatten(), start, band, scale_bias]


def dense_tables(h: int, w: int, new_h: int, new_w: int, area: bool, swap: bool) -> list[Tensor]:
    """What `resize_dense` needs to bring images of h x w px to new_h x new_w."""
    rows, row_weights = axis_taps(h, new_h, area)
    columns, column_weights = axis_taps(w, new_w, area)
    vertical = torch.zeros(new_h, h).scatter_add_(1, rows, row_weights)
    horizontal = torch.zeros(new_w, w).scatter_add_(1, columns, column_weights)
    channels = torch.tensor([2, 1, 0] if swap else [0, 1, 2])
    return [vertical, horizontal.t().contiguous(), channels]


class Preprocess(nn.Module):
    """uint8 images of any size, in either channel order, to one network input.

    Args:
        size: (height, width) of the network's input, px.
        resize: ``stretch`` (fills the input) or ``letterbox`` (keeps the aspect, pads with `pad`, centred).
        filter: ``area`` or ``bilinear``.
        order: channel order of the network, ``rgb`` or ``bgr``.
        scale: grey levels are multiplied by this first,
        mean: then this is subtracted, per network channel,
        std: then divided by this.
        pad: grey level of the letterbox bars.
    """

    gain: Tensor
    offset: Tensor
    _tables: dict[str, list[Tensor]]

    def __init__(
        self,
        size: tuple[int, int],
        resize: str = "letterbox",
        filter: str = "bilinear",
        order: str = "rgb",
        scale: float = 1 / 255,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        pad: float = 114.0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("resize", resize, ("stretch", "letterbox")),
            ("filter", filter, ("area", "bilinear")),
            ("order", order, ("rgb", "bgr")),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}")
        self.height, self.width = size
        self.letterbox = resize == "letterbox"
        self.area = filter == "area"
        self.bgr = order == "bgr"
        self.pad = pad
        deviation = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("gain", (scale / deviation).float())
        self.register_buffer("offset", (-torch.tensor(mean, dtype=torch.float64) / deviation).float())
        self.has_offset = any(value != 0 for value in mean)
        self._tables = {}
        self.cached_sizes = 16

    def spec(self) -> ImageSpec:
        """What the manifest says of this."""
        return ImageSpec(
            size=(self.height, self.width),
            resize="letterbox" if self.letterbox else "stretch",
            filter="area" if self.area else "bilinear",
            order="bgr" if self.bgr else "rgb",
        )

    def forward(self, images: Tensor, bgr: bool) -> Tensor:
        """(N, H, W, 3) uint8 in the order that `bgr` says -> (N, 3, height, width) float32, channels last."""
        n, h, w = images.shape[0], images.shape[1], images.shape[2]
        top, left, new_h, new_w = self.placement(h, w)
        tables = self.tables(h, w, new_h, new_w, bgr != self.bgr, images)
        grey = resize_dense(images, tables) if images.is_cuda else resize_banded(images, tables, new_w)
        x = grey.round_().mul_(self.gain)
        if self.has_offset:
            x = x.add_(self.offset)
        if new_h != self.height or new_w != self.width:
            bars = (self.pad * self.gain + self.offset).expand(n, self.height, self.width, 3).contiguous()
            bars[:, top : top + new_h, left : left + new_w] = x
            x = bars
        return x.permute(0, 3, 1, 2)

    def placement(self, h: int, w: int) -> tuple[int, int, int, int]:
        """Where an image of h x w px lies in the network's input: top, left, height, width."""
        if not self.letterbox:
            return 0, 0, self.height, self.width
        ratio = min(self.height / h, self.width / w)
        # TorchScript's round() returns a float.
        new_h = max(1, int(round(h * ratio)))  # noqa: RUF046
        new_w = max(1, int(round(w * ratio)))  # noqa: RUF046
        return (self.height - new_h) // 2, (self.width - new_w) // 2, new_h, new_w

    def to_native(self, boxes: Tensor, h: int, w: int) -> Tensor:
        """Boxes (..., 4) xyxy from px of the network's input to px of an h x w image, clipped to it."""
        top, left, new_h, new_w = self.placement(h, w)
        x = ((boxes[..., 0::2] - left) * (w / new_w)).clamp(0.0, float(w))
        y = ((boxes[..., 1::2] - top) * (h / new_h)).clamp(0.0, float(h))
        return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)

    def tables(self, h: int, w: int, new_h: int, new_w: int, swap: bool, images: Tensor) -> list[Tensor]:
        """The weights for one input size; kept, as cameras do not change theirs."""
        n = images.shape[0]
        key = f"{n}x{h}x{w} {swap} {images.device}"
        if key in self._tables:
            return self._tables[key]
        if images.is_cuda:
            tables = dense_tables(h, w, new_h, new_w, self.area, swap)
        else:
            tables = banded_tables(n, h, w, new_h, new_w, self.area, swap)
        tables = [table.to(images.device) for table in tables]
        if torch.jit.is_scripting():  # an eager module stays clean: it may be scripted and saved later
            if len(self._tables) >= self.cached_sizes:
                self._tables.clear()
            self._tables[key] = tables
        return tables


def resize_banded(images: Tensor, tables: list[Tensor], new_w: int) -> Tensor:
    """Resize on a CPU: rows through the byte-wise embedding bag, columns by banded products.

    The embedding bag sums weighted uint8 rows straight to float32, without a float copy of the frame: a
    quarter of the time of any other way in torch. Each row must end in its own scale and bias: 1 and 0.

    Returns:
        (N, new_h, new_w, 3) float32 grey levels.
    """
    n, h, w = images.shape[0], images.shape[1], images.shape[2]
    padded = torch.cat([images.reshape(n * h, w * 3), tables[5].expand(n * h, 8)], 1)
    rows = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        padded, tables[0], tables[1], False, 0, False, tables[2], None, False
    )
    starts: list[int] = tables[3].tolist()
    band = tables[4]
    length = band.shape[1]
    parts: list[Tensor] = []
    for group in range(len(starts)):
        begin = starts[group] * 3
        parts.append(torch.mm(rows[:, begin : begin + length], band[group]))
    return torch.cat(parts, 1)[:, : new_w * 3].reshape(n, -1, new_w, 3)


def resize_dense(images: Tensor, tables: list[Tensor]) -> Tensor:
    """Resize on a GPU, where two dense products cost less than many small calls.

    Returns:
        (N, new_h, new_w, 3) float32 grey levels.
    """
    planar = images.permute(0, 3, 1, 2).index_select(1, tables[2]).float()
    grey = torch.matmul(torch.matmul(tables[0], planar), tables[1]).float()
    return grey.permute(0, 2, 3, 1).contiguous()
