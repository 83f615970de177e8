"""For scale: the camera node as it is usually written, with the same bundle.

A deserialized Image, reliable and ten deep; pixels copied out of the message as cv_bridge does; the model in
the callback, on rclpy's own executor; detections as message objects; Fast DDS as it comes. The bundle is the
module as it was saved, with its own resizing and NMS, which is kinder than most.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench.publisher import Sensor
from bench.rows import Row, row
from perception_rt.node.transport import PROFILE_VARIABLES

TOPIC = "/camera/image_raw"
SETTLE_S = 2.0
LIMIT_S = 60.0  # for everything but the measurement


def usual_rows(
    prefix: str, bundle: str, image: Path, rate_hz: float, overload_hz: float, seconds: float
) -> list[Row]:
    """The usual node's frames/s under more than it can take, and its ages at the camera's rate."""
    environment = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    busy = run_usual(bundle, image, overload_hz, seconds, environment)
    paced = run_usual(bundle, image, rate_hz, seconds, environment)
    return [
        row(f"{prefix}/usual_node_fps", busy["fps"], "frames/s"),
        row(f"{prefix}/usual_node_age_p50_ms", paced["age_p50_ms"], "ms"),
        row(f"{prefix}/usual_node_age_p99_ms", paced["age_p99_ms"], "ms"),
        row(f"{prefix}/usual_node_cpu_ms_per_frame", paced["cpu_ms_per_frame"], "ms"),
    ]


def run_usual(bundle: str, image: Path, hz: float, seconds: float, environment: dict[str, str]) -> dict:
    """Run the usual node in a process of its own with a camera at `hz`; returns what it measured."""
    command = [sys.executable, "-m", "bench.usual_node", bundle, str(seconds)]
    with Sensor(TOPIC, "Image", image, "reliable", environment) as camera:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        try:
            camera.wait_until_heard()
            camera.rate(hz)
            output, _ = process.communicate(timeout=seconds + LIMIT_S)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise RuntimeError(f"the usual node ended with status {process.returncode}; its log is above")
    return json.loads(output.splitlines()[-1])


def main(bundle: str, seconds: float) -> int:
    """Measure for `seconds` once images come, and print the result."""
    import rclpy
    import torch
    from rclpy.node import Node
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    from perception_rt.model.bundle import load

    model, manifest = load(bundle)
    answers: list[tuple[int, int, float]] = []

    class UsualNode(Node):
        def __init__(self) -> None:
            super().__init__("usual_detector")
            self.create_subscription(Image, TOPIC, self.on_image, 10)
            self.publisher = self.create_publisher(Detection2DArray, "detections", 10)

        def on_image(self, message: Image) -> None:
            pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3).copy()
            with torch.no_grad():
                boxes, scores, labels, _ = model(torch.from_numpy(pixels)[None], False, -1.0, -1.0)
            array = Detection2DArray(header=message.header)
            for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
                detection, result = Detection2D(header=message.header), ObjectHypothesisWithPose()
                result.hypothesis.class_id, result.hypothesis.score = manifest.classes[label], score
                detection.results.append(result)
                detection.bbox.center.position.x = (box[0] + box[2]) / 2
                detection.bbox.center.position.y = (box[1] + box[3]) / 2
                detection.bbox.size_x, detection.bbox.size_y = box[2] - box[0], box[3] - box[1]
                array.detections.append(detection)
            self.publisher.publish(array)
            now, stamp = time.time_ns(), message.header.stamp
            answers.append((stamp.sec * 10**9 + stamp.nanosec, now, time.process_time()))

    rclpy.init()
    node = UsualNode()
    end = time.monotonic() + seconds + LIMIT_S
    while time.monotonic() < end and not (answers and span_s(answers) > SETTLE_S + seconds):
        rclpy.spin_once(node, timeout_sec=0.5)
    node.destroy_node()
    rclpy.try_shutdown()
    print(json.dumps(figures(answers)))
    return 0


def span_s(answers: list[tuple[int, int, float]]) -> float:
    """From the first to the last answer, s."""
    return (answers[-1][1] - answers[0][1]) / 1e9


def figures(answers: list[tuple[int, int, float]]) -> dict[str, float]:
    """Frames/s, ages and processor time, without the first seconds."""
    stamps, published, cpu_s = np.array(answers, np.float64).T
    kept = published - published[0] >= SETTLE_S * 1e9
    stamps, published, cpu_s = stamps[kept], published[kept], cpu_s[kept]
    age = (published - stamps) / 1e6
    return {
        "fps": (len(age) - 1) / ((published[-1] - published[0]) / 1e9),
        "age_p50_ms": float(np.median(age)),
        "age_p99_ms": float(np.percentile(age, 99)),
        "cpu_ms_per_frame": 1000 * (cpu_s[-1] - cpu_s[0]) / (len(age) - 1),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
