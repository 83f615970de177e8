"""Damaged recordings through the whole replay: no crash, no hang, nothing lost in silence."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from perception_rt.cli.main import main
from perception_rt.codec import Detection3DEncoder, encode_image
from perception_rt.codec.vehicle import encode_odometry
from perception_rt.component.graph import read_graph
from perception_rt.replay.bag import Bag
from perception_rt.replay.lockstep.runner import Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.types import BagError, Detections3D
from perception_rt.types.state import EgoState
from test import drives
from test.mutations import mutations

START_NS, STEP_NS = 1_700_000_000_000_000_000, 100_000_000
IMAGE, BOXES, ODOM = "/image", "/boxes", "/odom"
TOPICS = {
    IMAGE: "sensor_msgs/msg/Image",
    BOXES: "vision_msgs/msg/Detection3DArray",
    ODOM: "nav_msgs/msg/Odometry",
}
COUNT = 1000
LIMIT_S = 20.0
"""For one replay of a few messages, on a busy machine."""


def messages() -> list[tuple[int, str, bytes]]:
    """Eight moments of a camera, a detector in space, and an odometry."""
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[4:12, 6:16, 0] = 255
    encoder, found = Detection3DEncoder(["car"]), []
    for number in range(8):
        stamp = START_NS + number * STEP_NS
        box = Detections3D(
            np.array([[9 + number, 1, 0, 4, 2, 1.5, 0]], np.float32),
            np.ones(1, np.float32),
            np.zeros(1, np.int64),
        )
        state = EgoState(stamp, float(number), 0.0, 0.0, 10.0, 0.0, 0.0, np.eye(6))
        found.append((stamp, ODOM, encode_odometry(state, "odom", "base_link")))
        found.append((stamp + 1, BOXES, encoder.encode(box, stamp, "lidar")))
        found.append((stamp + 2, IMAGE, encode_image(pixels, "rgb8", stamp, "camera")))
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return drives.write_bag(tmp_path_factory.mktemp("small") / "small", TOPICS, messages())


@pytest.fixture(scope="module")
def graph(make_bundle, tmp_path_factory) -> Path:
    """A camera's detector, a tracker and an ego filter."""
    nodes = {
        "camera_detector": {
            "bundle": str(make_bundle()),
            "image_topics": [IMAGE],
            "warmup_sizes": ["32x24"],
            "device": "cpu",
        },
        "object_tracker": {"detections_topic": BOXES, "fixed_frame": ""},
        "vehicle_state": {"odometry_topic": ODOM, "imu_topic": ""},
    }
    path = tmp_path_factory.mktemp("graph") / "graph.yaml"
    path.write_text(yaml.safe_dump({name: {"ros__parameters": values} for name, values in nodes.items()}))
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_thousand_damaged_recordings_are_replayed_or_refused_and_nothing_is_lost_in_silence(
    small, graph, tmp_path
):
    (file,) = small.glob("*.mcap")
    whole = len(messages())
    run = Run(read_graph(graph), parse_inference("fixed:5"))
    broken, out = tmp_path / "broken", tmp_path / "out"
    refused = read = told = 0
    for what, data in mutations(file.read_bytes(), COUNT, 7):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        shutil.copytree(small, broken, dirs_exist_ok=True)
        (broken / file.name).write_bytes(data)
        began = time.monotonic()
        try:
            with Bag(broken, salvage=True) as bag:
                metrics = replay(run, bag, out)
        except BagError:
            refused += 1
            continue
        finally:
            assert time.monotonic() - began < LIMIT_S, what
        found = rows(out)
        for stream in metrics["streams"].values():
            mine = [row for row in found if (row["node"], row["topic"]) == (stream["node"], stream["topic"])]
            assert stream["received"] == len(mine) == sum(stream["states"].values()), what
        got = metrics["bag"]["messages"]
        said = metrics["bag"]["unreadable"]
        # A damaged name of a topic makes it another one, which no node uses.
        told_of = said["reasons"] or metrics["bag"]["missing_topics"]
        assert got >= whole or told_of, f"{what}: {whole - got} lost in silence"
        assert len([row for row in found if row["outcome"] == "unreadable"]) == sum(1 for _ in bag.damage), (
            what
        )
        read += got
        told += bool(said["reasons"])
    assert refused < COUNT / 2
    assert read > COUNT * whole / 4
    assert told > COUNT / 4


def test_the_command_says_what_it_could_not_read_and_ends_with_3(small, graph, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(small, broken)
    (file,) = broken.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    given = [
        "--config",
        str(graph),
        "--inference",
        "fixed:5",
        "--out",
        str(tmp_path / "out"),
        "--progress",
        "none",
    ]
    assert main(["replay", str(broken), *given]) == 3
    assert "could not be read" in capsys.readouterr().out
    assert any(row["node"] == "bag" and row["reason"] for row in rows(tmp_path / "out"))


@pytest.mark.parametrize("content", [b"", b"not a recording"])
def test_what_is_no_recording_ends_with_2_and_a_line(graph, tmp_path, capsys, content):
    path = tmp_path / "drive.mcap"
    path.write_bytes(content)
    assert main(["replay", str(path), "--config", str(graph), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_stamps_out_of_order_and_wrong_messages_end_in_the_ledger(graph, tmp_path):
    given = messages()
    images = [n for n, (_, topic, _) in enumerate(given) if topic == IMAGE]
    earlier, later = given[images[2]], given[images[3]]
    given[images[2]] = (earlier[0], IMAGE, later[2])  # the stamps of two images in the wrong order
    given[images[3]] = (later[0], IMAGE, earlier[2])
    given[images[5]] = (given[images[5]][0], IMAGE, given[images[5]][2][:40])
    odometry = next(n for n, (_, topic, _) in enumerate(given) if topic == ODOM)
    given[odometry] = (given[odometry][0], ODOM, b"\x00\x01\x00\x00")
    bag = drives.write_bag(tmp_path / "bag", TOPICS, given)
    out = tmp_path / "out"
    arguments = [str(bag), "--config", str(graph), "--inference", "fixed:5", "--out", str(out), "--no-report"]
    assert main(["replay", *arguments]) == 0
    outcomes = {(row["topic"], row["number"]): row["outcome"] for row in rows(out)}
    assert outcomes[IMAGE, "3"] == "late"
    assert outcomes[IMAGE, "5"] == "decode_error"
    assert outcomes[ODOM, "0"] == "decode_error"
    assert sum(outcome == "published" for (topic, _), outcome in outcomes.items() if topic == IMAGE) == 6
