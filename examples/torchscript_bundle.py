"""Make a bundle of a TorchScript module of one's own: ``python examples/torchscript_bundle.py mine.pt``.

The module here finds the bounding box of bright pixels. A real one holds a network, with the same interface:
it takes the camera's images and returns boxes in their pixels.
"""

import sys

import numpy as np
import torch

from perception_rt.model import bundle
from perception_rt.model.specs import ImageSpec


class BrightBox(torch.nn.Module):
    """One box around all pixels above a grey level, in each image."""

    def __init__(self) -> None:
        super().__init__()
        self.score_threshold = 0.5
        self.nms_threshold = 0.5

    def forward(
        self, images: torch.Tensor, bgr: bool, score_threshold: float, nms_threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes (K, 4) xyxy in px, scores (K,), labels (K,) and the image of each box (K,)."""
        boxes, indices = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
        for index in range(images.shape[0]):
            rows, columns = torch.where(images[index].float().mean(2) > 200.0)
            if rows.numel() > 0:
                corners = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
                boxes.append(corners[None].float())
                indices.append(torch.full((1,), index))
        xyxy, image_index = torch.cat(boxes), torch.cat(indices)
        return xyxy, torch.ones(len(xyxy)), torch.zeros(len(xyxy), dtype=torch.int64), image_index


def main(path: str) -> None:
    """Write the bundle; its golden input is a picture in which the module finds something."""
    picture = np.zeros((1, 240, 320, 3), np.uint8)
    picture[0, 60:120, 100:200] = 255
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    manifest = bundle.save(
        path,
        BrightBox(),
        name="bright_box",
        classes=["bright"],
        input_spec=spec,
        licence="Apache-2.0",
        golden=picture,
    )
    print(f"{path}: {manifest.name}, sha256 {manifest.sha256[:12]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
