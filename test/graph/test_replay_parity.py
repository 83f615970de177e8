"""A replay says what the graph says: the same bytes for the same frames, and the same frames left out."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from rosgraph_msgs.msg import Clock

from perception_rt.cli.main import main
from perception_rt.codec.encode import encode_image
from perception_rt.component.graph import GraphNode, read_graph
from perception_rt.node.source import to_time
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.lockstep.runner import Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from test.domains import claim_domain

from .conftest import check_sum, square, wait_for
from .recorded import (
    CAMERA,
    FUSED,
    LIDAR,
    TRACKS,
    Answers,
    Ear,
    as_drivers_offer,
    play,
    replayed,
    up,
    wanted_subscribers,
)

CONFIG = Path(__file__).parents[2] / "config" / "kitti.yaml"
FRAMES = 24  # of each sensor
IMAGE = "/image_raw"
PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")  # DDS may fill a message up to a multiple of 4 bytes


@pytest.fixture(scope="module")
def drive(shared_data):
    return shared_data / "bags" / "kitti_city"


@pytest.fixture(scope="module")
def parameters(shared_data, tmp_path_factory) -> dict[str, dict]:
    """By node: sums depend on device and threads; no load of the machine may part a pair."""
    bundle = tmp_path_factory.mktemp("bundle") / "fastestdet.pt"
    onnx = str(shared_data / "models" / "FastestDet.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--decoder", "fastestdet", "--out", str(bundle)]) == 0
    alike = {"device": "cpu", "threads": 1, "engine": "reference"}
    return {
        "camera_detector": {"bundle": str(bundle), **alike},
        "lidar_detector": alike,
        "fusion": {"max_wait_ms": 1000.0},
    }


@pytest.fixture(scope="module")
def overrides(parameters) -> list[str]:
    """The same as of a command line."""
    return [
        f"{node}:{name}:={value}" for node, values in parameters.items() for name, value in values.items()
    ]


@pytest.fixture(scope="module")
def expected(drive, parameters, tmp_path_factory) -> Answers:
    """What a replay of the drive says."""
    folder = tmp_path_factory.mktemp("replay")
    with Bag(drive, salvage=True) as bag:
        replay(Run(read_graph(CONFIG), parse_inference("fixed:20"), parameters), bag, folder)
    answers = replayed(folder / "bag")
    assert {topic: len(found) for topic, found in answers.items()} == dict.fromkeys(answers, FRAMES)
    return answers


def same(ours: bytes, theirs: bytes) -> bool:
    """Whether a message that came by DDS is the other one, byte by byte."""
    return ours.startswith(theirs) and ours[len(theirs) :] in PADDING


def check_answers(found: Answers, expected: Answers) -> None:
    """Every answer to a frame is that of the replay, as far as both had the same to work on.

    A busy machine may lose frames. Fusion remembers nothing; what the tracker says depends on all before.
    """
    for topic in (CAMERA, LIDAR):
        assert len(found[topic]) >= 20, topic
        assert set(found[topic]) <= set(expected[topic])
        different = [s for s, data in found[topic].items() if not same(data, expected[topic][s])]
        assert different == [], topic
    pairs = sorted(set(found[CAMERA]) & set(found[LIDAR]) & set(found[FUSED]))
    assert len(pairs) >= 18
    assert [s for s in pairs if not same(found[FUSED][s], expected[FUSED][s])] == []
    alike = 0
    for stamp in sorted(expected[TRACKS]):
        if stamp not in pairs or stamp not in found[TRACKS]:
            break
        assert same(found[TRACKS][stamp], expected[TRACKS][stamp]), stamp
        alike += 1
    assert alike >= 5


def check_books(ear: Ear) -> None:
    """Every message that a node received ended in one state."""
    streams = ("camera_detector", "lidar_detector", "fusion", "fusion", "object_tracker")
    books = lambda: {name: s for name, s in ear.status.items() if ": /" in name}  # noqa: E731
    assert wait_for(lambda: all(values["pending"] == "0" for values in books().values()))
    assert sorted(name.partition(":")[0] for name in books()) == sorted(streams)
    for values in books().values():
        check_sum(values)
        assert int(values["received"]) >= 18


def test_the_graph_says_what_a_replay_says(drive, overrides, expected):
    domain, _lock = claim_domain()
    with Ear(domain) as ear, up(domain, CONFIG, f"bag:={drive}", wanted_subscribers(), *overrides) as process:
        assert process.wait(60) == 0
        check_answers(ear.answers, expected)
        check_books(ear)


def test_the_graph_says_the_same_of_a_player_that_knows_nothing_of_it(drive, overrides, expected, tmp_path):
    config = yaml.safe_load(CONFIG.read_text())
    del config["bag_player"]
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(config))
    recording = as_drivers_offer(drive, tmp_path / "drive")
    domain, _lock = claim_domain()
    with Ear(domain) as ear, up(domain, tmp_path / "graph.yaml", *overrides) as process:
        play(ear, recording)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
        check_answers(ear.answers, expected)
        check_books(ear)


def test_nothing_is_taken_before_simulated_time_begins(bench, run_camera):
    """A player's clock may come later than its first frame: dated at zero, that frame would be ages late."""
    camera = run_camera(use_sim_time=True)
    begins = 1_300_000_000 * 10**9
    camera.send(stamp_ns=begins)
    assert wait_for(lambda: bench.said("waiting for /clock"))
    assert camera.book()["received"] == 0
    clock = bench.node.create_publisher(Clock, "/clock", 10)
    assert wait_for(clock.get_subscription_count)
    clock.publish(Clock(clock=to_time(begins)))
    assert wait_for(lambda: camera.node.now_ns() == begins)
    camera.ask(stamp_ns=begins)
    values = wait_for(lambda: camera.status().get("published") == "1") and camera.status()
    assert {values[f"{name}_ms_p99"] for name in ("age", "wait", "decode", "infer", "publish")} == {"0.00"}
    whole = bench.diagnostics("camera_detector")
    assert (whole["ticks_empty"], whole["ticks_skipped"]) == ("0", "0")


@pytest.fixture
def slowed(bench, failing):
    """Bring up a camera detector, on the machine's own clock, whose model takes `infer_ms` more.

    Returns its parameters, its publisher, and its ledger's entries as they end.
    """

    def run(infer_ms: float, rate_hz: float):
        from perception_rt.node.camera_detector import CameraDetectorNode

        values = {"bundle": failing, "device": "cpu", "threads": 1, "engine": "reference", "rate_hz": rate_hz}
        values |= {"image_topics": [IMAGE], "warmup_sizes": ["160x120"]}
        node = bench.start(CameraDetectorNode, **values)
        detector, ended = node.component, []
        infer = detector.infer
        detector.infer = lambda frames: (time.sleep(infer_ms / 1e3), infer(frames))[1]
        detector.stats[IMAGE].ledger.on_end = ended.append
        publisher = bench.publisher(IMAGE, "reliable")
        assert wait_for(publisher.get_subscription_count)
        time.sleep(0.5)  # discovery is not the same for both sides
        return values, publisher, ended

    return run


def send(bench, publisher, gaps_ms: list[int]) -> dict[int, bytes]:
    """Publish images with these gaps after each; by stamp, what was sent."""
    sent, due = {}, time.monotonic()
    for gap_ms in gaps_ms:
        time.sleep(max(0.0, due - time.monotonic()))
        stamp_ns = bench.now_ns()
        sent[stamp_ns] = bytes(encode_image(square(), "rgb8", stamp_ns, "camera"))
        publisher.publish(sent[stamp_ns])
        due += gap_ms / 1e3
    return sent


def replay_again(folder: Path, values: dict, sent: dict[int, bytes], ended: list[Entry]) -> list[str]:
    """Record what the node received when it did, and replay it with the node's times: the outcomes."""
    with BagWriter(folder / "drive") as writer:
        for entry in ended:
            writer.write(IMAGE, "sensor_msgs/msg/Image", entry.arrival_ns, sent[entry.stamp_ns])
    with (folder / "trace.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("node", "stamp_ns", "decode_ms", "infer_ms"))
        for entry in ended:
            times = entry.stages_ms
            if entry.outcome is Outcome.PUBLISHED:
                rows.writerow(("/camera_detector", entry.stamp_ns, times["decode"], times["infer"]))
    (folder / "replay").mkdir()
    with Bag(folder / "drive", salvage=True) as bag:
        inference = parse_inference(f"trace:{folder / 'trace.csv'}")
        replay(Run([GraphNode("camera_detector", "/", values)], inference), bag, folder / "replay")
    with (folder / "replay" / "ledger.csv").open(newline="") as file:
        outcomes = {int(row["number"]): row["outcome"] for row in csv.DictReader(file)}
    return [outcomes[entry.number] for entry in ended]


@pytest.mark.parametrize(
    ("infer_ms", "rate_hz", "gaps_ms"),
    [(120, 100.0, [50, 50, 50, 350] * 6), (1, 12.0, ([33] * 9 + [300]) * 5)],
    ids=["the model is slower than the camera", "the rate is below the camera's"],
)
def test_a_replay_leaves_out_the_frames_that_the_node_left_out(
    bench, slowed, tmp_path, infer_ms, rate_hz, gaps_ms
):
    """Bursts, as after each silence both begin anew: where this machine stalls, one of them may differ."""
    values, publisher, ended = slowed(infer_ms, rate_hz)
    sent = send(bench, publisher, gaps_ms)
    assert wait_for(lambda: len(ended) == len(sent))
    ended.sort(key=lambda entry: entry.number)
    ours = [entry.outcome.value for entry in ended]
    again = replay_again(tmp_path, values, sent, ended)
    assert set(ours) == set(again) == {"published", "superseded"}
    assert sum(a == b for a, b in zip(ours, again, strict=True)) >= 0.8 * len(ours), (ours, again)
