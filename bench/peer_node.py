"""A straightforward detector node, to compare with.

A deserialized message, reliable and ten deep; the pixels copied out of it as cv_bridge does, resized,
divided by 255 and transposed; the network in the callback, on rclpy's own executor; NMS; a Python loop over
the boxes.
Fast DDS as it comes. `python -m bench.peer_node ENGINE BUNDLE TOPICS TYPE` runs until SIGINT and prints
`{"forward_p50_ms": x}`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MEMORY = 10_000  # number of forward times to keep


def torch_network(bundle: str) -> Callable[[np.ndarray], list[Any]]:
    """Return the bundle's network in TorchScript on torch's own number of threads."""
    import io

    import torch

    from perception_rt.model.archive import read_archive
    from perception_rt.model.runtime import resolve_bundle

    archive = read_archive(resolve_bundle(bundle))
    file = next(one.file for one in archive.manifest.programs if one.kind == "torchscript")
    module = torch.jit.load(io.BytesIO(archive.members[file])).eval()

    def run(tensor: np.ndarray) -> list[Any]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(tensor))
        return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

    return run


def onnx_network(bundle: str) -> Callable[[np.ndarray], list[Any]]:
    """Return the bundle's network in onnxruntime with its default options."""
    import onnxruntime
    import torch

    from perception_rt.model.archive import read_archive
    from perception_rt.model.runtime import resolve_bundle

    archive = read_archive(resolve_bundle(bundle))
    file = next(
        one.file for one in archive.manifest.programs if one.kind == "onnx" and one.precision == "fp32"
    )
    session = onnxruntime.InferenceSession(archive.members[file], providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda tensor: [torch.from_numpy(output) for output in session.run(None, {name: tensor})]


def image_model(engine: str, bundle: str) -> Callable[[np.ndarray], list[tuple[Any, float, str]]]:
    """Return a function from (H, W, 3) uint8 RGB to boxes (xyxy px), scores and class names."""
    import cv2
    import torch
    import torchvision  # noqa: F401  its NMS is an operator of torch

    from perception_rt.model.archive import read_archive
    from perception_rt.model.network import best_candidates, make_decoder
    from perception_rt.model.runtime import resolve_bundle

    archive = read_archive(resolve_bundle(bundle))
    manifest, spec = archive.manifest, archive.manifest.input
    decoder = make_decoder(archive, torch.device("cpu"))
    height, width = spec.size
    network = {"torch": torch_network, "onnxruntime": onnx_network}[engine](bundle)

    def detect(pixels: np.ndarray) -> list[tuple[Any, float, str]]:
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        ordered = resized[..., ::-1] if spec.order == "bgr" else resized
        tensor = np.ascontiguousarray((ordered.astype(np.float32) / 255.0).transpose(2, 0, 1)[None])
        found = decoder(network(tensor), (height, width), manifest.score_threshold)
        kept = best_candidates(
            found, manifest.score_threshold, manifest.nms_threshold, decoder.needs_nms, 300
        )
        scale = np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2)
        names = [manifest.classes[label] for label in kept.labels.tolist()]
        return list(zip(kept.boxes.numpy() * scale, kept.scores.tolist(), names, strict=True))

    return detect


def cloud_model(engine: str, bundle: str) -> Callable[[np.ndarray], list[tuple[Any, float, str]]]:
    """Return a function from (N, 4) float32 points to boxes (xyzlwh_yaw), scores and class names."""
    from perception_rt.model.runtime import Runtime

    runtime = Runtime.open(bundle, "cpu", engine={"torch": "torchscript"}.get(engine, engine))
    classes = runtime.manifest.classes

    def detect(points: np.ndarray) -> list[tuple[Any, float, str]]:
        boxes, scores, labels = runtime(points)[:3]
        names = [classes[label] for label in labels.tolist()]
        return list(zip(boxes, scores.tolist(), names, strict=True))

    return detect


def main(engine: str, bundle: str, topics: str, kind: str) -> int:
    """Run until SIGINT."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from sensor_msgs.msg import Image, PointCloud2
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        ObjectHypothesisWithPose,
    )

    forward_s: list[float] = []
    detect = {"Image": image_model, "PointCloud2": cloud_model}[kind](engine, bundle)

    def timed(data: np.ndarray) -> list[tuple[Any, float, str]]:
        began = time.perf_counter()
        found = detect(data)
        if len(forward_s) < MEMORY:
            forward_s.append(time.perf_counter() - began)
        return found

    def hypothesis(name: str, score: float) -> Any:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = name, score
        return result

    class PeerNode(Node):
        def __init__(self) -> None:
            super().__init__("peer_detector")
            images = kind == "Image"
            for number, topic in enumerate(topics.split(",")):
                publisher = self.create_publisher(
                    Detection2DArray if images else Detection3DArray, f"peer/detections_{number}", 10
                )
                callback = self.on_image if images else self.on_cloud
                self.create_subscription(
                    Image if images else PointCloud2,
                    topic,
                    lambda message, p=publisher, call=callback: call(message, p),
                    10,
                )

        def on_image(self, message: Any, publisher: Any) -> None:
            pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3).copy()
            array = Detection2DArray(header=message.header)
            for box, score, name in timed(pixels):
                detection = Detection2D(header=message.header)
                detection.results.append(hypothesis(name, score))
                detection.bbox.center.position.x = float(box[0] + box[2]) / 2
                detection.bbox.center.position.y = float(box[1] + box[3]) / 2
                detection.bbox.size_x, detection.bbox.size_y = float(box[2] - box[0]), float(box[3] - box[1])
                array.detections.append(detection)
            publisher.publish(array)

        def on_cloud(self, message: Any, publisher: Any) -> None:
            names = ("x", "y", "z", "intensity")
            offsets = [field.offset for field in message.fields if field.name in names]
            layout = np.dtype(
                {
                    "names": names,
                    "formats": ["<f4"] * 4,
                    "offsets": offsets,
                    "itemsize": message.point_step,
                }
            )
            fields = np.frombuffer(message.data, layout)
            points = np.stack([fields[name] for name in names], axis=1)
            array = Detection3DArray(header=message.header)
            for box, score, name in timed(points[np.isfinite(points).all(1)]):
                detection = Detection3D(header=message.header)
                detection.results.append(hypothesis(name, score))
                center, size = detection.bbox.center, detection.bbox.size
                center.position.x, center.position.y, center.position.z = (float(v) for v in box[:3])
                size.x, size.y, size.z = (float(v) for v in box[3:6])
                center.orientation.z = float(np.sin(box[6] / 2))
                center.orientation.w = float(np.cos(box[6] / 2))
                array.detections.append(detection)
            publisher.publish(array)

    rclpy.init()
    node = PeerNode()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    print(json.dumps({"forward_p50_ms": float(np.median(forward_s)) * 1e3 if forward_s else None}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
