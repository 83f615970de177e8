"""camera_classifier: classifies camera images, or a detector's boxes in them, at a fixed rate.

With `detections_topics` it publishes a Detection2DArray for each one it receives: the same boxes and ids in
the same order, with the classes of the boxes as results. It uses the image with the same stamp; the image
counts as published when its boxes are passed to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from perception_rt.codec.classification import encode_classification, encode_classified
from perception_rt.codec.detection_array import Rows
from perception_rt.codec.detections import read_rows
from perception_rt.component.camera_detector import CameraDetector
from perception_rt.component.component import Host
from perception_rt.component.graph import output_prefixes
from perception_rt.component.parameters import Parameter
from perception_rt.component.watchdog import POLL_S
from perception_rt.model.task import CLASSIFY, DETECT2D
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pairing import Pair, StampPairing
from perception_rt.realtime.pipeline import Parsed, StreamStats
from perception_rt.stage.classify import classify, crops
from perception_rt.types import CameraFrame, CodecError, ConfigError
from perception_rt.types.classification import Classification

IMAGE_WAIT_NS = 200_000_000  # maximum wait for the image, which usually arrives first
HELD_IMAGES = 32
WHOLE = [""]  # `detections_topics` of whole images
_NOT_TAKEN = ("bundle", "nms_threshold")


class CameraClassifier(CameraDetector):
    """Classifies the images, or crops, of one or several cameras with one bundle."""

    NAME = "camera_classifier"
    TASK = CLASSIFY
    PARAMETERS: ClassVar[Sequence[Parameter]] = (
        Parameter("bundle", "resnet18", "Bundle file, or name of a downloaded bundle.", live=True),
        *(parameter for parameter in CameraDetector.PARAMETERS if parameter.name not in _NOT_TAKEN),
        Parameter("top_k", 5, "Maximum number of classes for an image or a box.", (1, 1000), live=True),
        Parameter(
            "detections_topics",
            WHOLE,
            "Detection2DArrays, one per image topic; one empty name: classify whole images.",
        ),
        Parameter(
            "crop_margin",
            0.0,
            "Margin on each side of a box, as a share of its width or height.",
            (0.0, 2.0),
            live=True,
        ),
        Parameter("max_crops", 64, "Maximum number of boxes per message, by score.", (1, 1000), live=True),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        # By stream of the detections.
        self._pairings: dict[str, StampPairing] = {}
        self._images: dict[str, StreamStats] = {}
        self._left_out: dict[str, int] = {}

    def inputs(self) -> dict[str, tuple[str, Any]]:
        """Return the camera topics, or the detection topics."""
        self._cameras = super().inputs()
        topics = self.values["detections_topics"]
        if topics == WHOLE:
            return self._cameras
        if not all(topics) or len(set(topics)) != len(topics) or len(topics) != len(self._cameras):
            raise ConfigError(f"detections_topics={topics}: must name one topic for each of image_topics")
        return dict.fromkeys(topics, (DETECT2D.message_type, _alone))

    def setup(self) -> None:
        """Set up as a detector, then subscribe to the images of the boxes."""
        super().setup()
        if self.values["detections_topics"] == WHOLE:
            return
        for topic, (camera, (message_type, parse)) in zip(
            self.values["detections_topics"], self._cameras.items(), strict=True
        ):
            stream, stats = self.host.resolve_topic_name(topic), StreamStats()
            self._left_out[stream], self._images[stream] = 0, stats
            self._pairings[stream] = StampPairing(
                self.pipeline.stats[stream], stats, 0, IMAGE_WAIT_NS, HELD_IMAGES
            )
            receive = partial(self._receive_image, stream, parse)
            self.listen(message_type, camera, stats, receive, self.values["reliability"])
        self.host.create_timer(POLL_S, self._poll)

    def stop(self) -> None:
        """Stop as a detector, and end messages that wait for their image or detections."""
        with self.gate:
            self._clear("the node was deactivated")
        super().stop()

    def on_clock_reset(self) -> None:
        """Forget what waits."""
        self._clear("the clock was set back")

    def teardown(self) -> None:
        """Release resources."""
        super().teardown()
        self._pairings = {}

    def open_outputs(self, streams: list[str]) -> None:
        """Create `~/classifications`, or `~/detections` for boxes; `~/<camera>/...` for several cameras."""
        cameras = [self.host.resolve_topic_name(topic) for topic in self._cameras]
        prefixes = list(output_prefixes(cameras).values())
        whole = self.values["detections_topics"] == WHOLE
        kind, name = (
            (self.TASK.message_type, "classifications") if whole else (DETECT2D.message_type, "detections")
        )
        self._dark = set()
        self._results = {
            stream: self.host.create_publisher(kind, f"~{prefix}/{name}", 5)
            for stream, prefix in zip(streams, prefixes, strict=True)
        }

    def subscribers(self, stream: str) -> int:
        """Return the number of subscriptions of the results."""
        return self._results[stream].get_subscription_count()

    def stream_values(self, stream: str) -> Mapping[str, object]:
        """Return the number of boxes not classified: outside the image, or more than `max_crops`."""
        return {"boxes_left_out": self._left_out[stream]} if stream in self._left_out else {}

    def use(self, runtime: Any) -> None:
        """Use `runtime` from the next frame on."""
        super().use(runtime)
        self._classes = runtime.manifest.classes

    def infer(self, frames: list[Any]) -> list[Any]:
        """Classify images, or all boxes of them in one batch."""
        whole = [frame.image if isinstance(frame, BoxedFrame) else frame for frame in frames]
        self.warn_of_dark(whole)
        if not self._pairings:
            return self._classify(whole)
        chosen = [self._chosen(frame) for frame in frames]
        answers = iter(self._classify([part for parts in chosen for part in parts.values()]))
        results = []
        for frame, parts in zip(frames, chosen, strict=True):
            found = {row: next(answers) for row in parts}
            results.append([found.get(row) for row in range(len(frame.rows.ids))])
        return results

    def _classify(self, images: list[CameraFrame]) -> list[Classification]:
        return classify(self.runtime, images, self.threshold("score"), self.values["top_k"])

    def _chosen(self, frame: BoxedFrame) -> dict[int, CameraFrame]:
        """Return the crops with the highest scores, by index of the detection."""
        best = np.argsort(-np.nan_to_num(frame.rows.scores), kind="stable")[: self.values["max_crops"]]
        parts = crops(frame.image, frame.rows.boxes[best], self.values["crop_margin"])
        return {int(row): part for row, part in zip(best, parts, strict=True) if part is not None}

    def publish(self, stream: str, frame: Any, result: Any) -> None:
        """Publish the classes with the header of the image, or the detections with their own header."""
        if isinstance(frame, BoxedFrame):
            self._left_out[stream] += result.count(None)
            found = [Classification.empty() if one is None else one for one in result]
            data = encode_classified(frame.rows, found, self._classes)
        else:
            data = encode_classification(result, self._classes, frame.stamp_ns, frame.frame_id)
        self._results[stream].publish(data)

    def publish_extras(self, stream: str, frame: Any, result: Any) -> None:
        """Publish nothing: there are no visualizations."""

    # Detections and their images.

    def _receive(self, stream: str, data: bytes, entry: Entry) -> None:
        if stream not in self._pairings or self.watchdog.refuses(stream):
            super()._receive(stream, data, entry)
            return
        rows = read_rows(data)
        now_ns = self.host.now_ns()
        self._hand_on(stream, self._pairings[stream].put_anchor(entry, rows.stamp_ns, rows, now_ns))

    def _receive_image(self, stream: str, parse: Any, data: bytes, entry: Entry) -> None:
        image = parse(data)
        now_ns = self.host.now_ns()
        self._hand_on(stream, self._pairings[stream].put_partner(entry, image.stamp_ns, image, now_ns))

    def _poll(self) -> None:
        with self.gate:
            for stream, pairing in self._pairings.items():
                self._hand_on(stream, pairing.poll(self.host.now_ns()))

    def _clear(self, reason: str) -> None:
        for pairing in self._pairings.values():
            pairing.clear(reason)

    def _hand_on(self, stream: str, pairs: Iterable[Pair]) -> None:
        for anchor, image, reason in pairs:
            if image is None:
                self.pipeline.stats[stream].ledger.finish(anchor.entry, Outcome.UNSYNCED, reason)
                continue
            self._images[stream].ledger.finish(image.entry, Outcome.PUBLISHED)
            boxed = _Boxed(anchor.stamp_ns, image.item, anchor.item)
            self.pipeline.enqueue(stream, boxed, anchor.entry, self.worker.put)


def _alone(data: bytes) -> Parsed:
    """Refuse to decode detections without their image, as a replay does in advance."""
    raise CodecError("image", None, "detections are classified in the image of their stamp")


@dataclass(frozen=True, slots=True, eq=False)
class BoxedFrame:
    """An image and the detections in it."""

    image: CameraFrame
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class _Boxed:
    """A `BoxedFrame` whose image is not decoded yet."""

    stamp_ns: int
    image: Parsed
    rows: Rows

    def decode(self) -> BoxedFrame:
        """Decode the image; raises CodecError."""
        return BoxedFrame(self.image.decode(), self.rows)
