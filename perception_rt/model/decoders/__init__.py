"""Decoders map a network's raw outputs to candidate boxes; there is one file for each family.

Another package can add one under the entry point group ``perception_rt.decoders``; see
`perception_rt.model.decoder.Decoder` for its interface. If it also has ``preset`` (a
`Preset`), ``class_count`` and ``match``, the importers recognise its networks, too.
"""

from __future__ import annotations

from typing import Any

from perception_rt.model.decoders.classifier import Classifier
from perception_rt.model.decoders.detr import Detr
from perception_rt.model.decoders.distribution import NanoDet, PaddleRows, PicoDet
from perception_rt.model.decoders.fastestdet import FastestDet
from perception_rt.model.decoders.masks import YoloV5Seg, YoloV8Seg
from perception_rt.model.decoders.rfdetr import RfDetr
from perception_rt.model.decoders.rtdetr import RtDetr
from perception_rt.model.decoders.semantic import Semantic
from perception_rt.model.decoders.ssd import Ssd
from perception_rt.model.decoders.yolov5 import YoloV5
from perception_rt.model.decoders.yolov8 import YoloV8
from perception_rt.model.decoders.yolox import YoloX

DECODERS: dict[str, type[Any]] = {
    "yolov5": YoloV5,
    "yolov8": YoloV8,
    "yolox": YoloX,
    "nanodet": NanoDet,
    "picodet": PicoDet,
    "paddle": PaddleRows,
    "detr": Detr,
    "rtdetr": RtDetr,
    "rfdetr": RfDetr,
    "ssd": Ssd,
    "fastestdet": FastestDet,
    "classifier": Classifier,
    "yolov5seg": YoloV5Seg,
    "yolov8seg": YoloV8Seg,
    "semantic": Semantic,
}
