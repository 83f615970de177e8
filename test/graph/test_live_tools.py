"""topic, param, lifecycle, record and init on a running graph, in the words of ros2's own tools."""

from __future__ import annotations

import json
import threading

import pytest
import yaml

from perception_rt.cli.main import main
from perception_rt.component.graph import read_graph
from perception_rt.replay.bag import Bag, frame_of
from test.domains import claim_domain

from .conftest import square

NODE, IMAGE = "/camera_detector", "/front/image_raw"


@pytest.fixture
def ask(run_camera, monkeypatch, capfd):
    """Run a command beside a detector whose camera publishes at 20 Hz; its output, errors too."""
    camera = run_camera(IMAGE)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(camera.bench.domain))
    monkeypatch.setattr("perception_rt.node.graph_client.ALONE_S", 60.0)  # however busy the machine is
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.05):
            camera.send()

    def run(command: str, code: int = 0) -> str:
        capfd.readouterr()
        found = main(command.split())
        out = capfd.readouterr()
        assert found == code, out
        return out.out + out.err * (code != 0)

    thread = threading.Thread(target=publish)
    thread.start()
    yield run
    stop.set()
    thread.join()


def test_a_graph_without_nodes_is_named(monkeypatch, capfd):
    domain, _lock = claim_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    assert main(["topic", "list"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == ["/parameter_events", "/rosout"]
    assert f"no other node found in 1 s (ROS_DOMAIN_ID={domain})" in err


def test_topics_are_listed_described_measured_and_shown(ask):
    assert f"{IMAGE} [sensor_msgs/msg/Image]" in ask("topic list -t").splitlines()
    assert IMAGE in ask("topic list").splitlines()
    assert {"name": IMAGE, "type": "sensor_msgs/msg/Image"} in json.loads(ask("topic list --json"))
    assert ask(f"topic info {IMAGE}").splitlines() == [
        "Type: sensor_msgs/msg/Image",
        "Publisher count: 1",
        "Subscription count: 1",
    ]
    told = json.loads(ask(f"topic info {IMAGE} --json"))
    assert [end["node"] for end in told["subscriptions"]] == [NODE]
    rate = json.loads(ask(f"topic hz {IMAGE} --seconds 2.2 --json").splitlines()[-1])
    assert rate["window"] > 3
    assert rate["min_s"] <= 1 / rate["rate_hz"] <= rate["max_s"]
    assert ask(f"topic hz {IMAGE} --seconds 1.5").startswith("average rate: ")
    text = ask(f"topic echo {IMAGE} --once")
    assert text.endswith("---\n")
    message = yaml.safe_load(text.removesuffix("---\n"))
    assert (message["header"]["frame_id"], message["width"]) == ("camera", 160)
    assert (len(message["data"]), message["data"][-1]) == (129, "...")
    assert ask(f"topic echo {IMAGE} --once --field width --json") == "160\n"
    full = json.loads(ask(f"topic echo {IMAGE} -n 1 --full-length --json"))
    assert full["data"] == square().ravel().tolist()


def test_parameters_are_listed_shown_described_and_set(ask):
    assert "  score_threshold" in ask(f"param list {NODE}").splitlines()
    assert ask(f"param get {NODE} rate_hz").startswith("Double value is: ")
    assert ask(f"param get {NODE} image_topics") == f"String values are: ['{IMAGE}']\n"
    assert ask(f"param set {NODE} score_threshold 0.4") == "Set parameter successful\n"
    assert json.loads(ask(f"param get {NODE} score_threshold --json")) == {"type": "double", "value": 0.4}
    assert "Setting parameter failed: " in ask(f"param set {NODE} rate_hz 99999.0", 1)
    assert "Setting parameter failed: " in ask(f"param set {NODE} rate_hz text", 1)
    lines = ask(f"param describe {NODE} rate_hz").splitlines()
    assert lines[:2] == ["Parameter name: rate_hz", "  Type: double"]
    assert lines[-2:] == ["    Min value: 0.1", "    Max value: 1000.0"]


def test_lifecycle_nodes_are_shown_and_changed(ask):
    assert NODE in ask("lifecycle nodes").splitlines()
    assert ask(f"lifecycle get {NODE}") == "active [3]\n"
    assert ask(f"lifecycle list {NODE}").startswith(
        "- deactivate [4]\n\tStart: active\n\tGoal: deactivating\n"
    )
    assert ask(f"lifecycle set {NODE} deactivate") == "Transitioning successful\n"
    assert json.loads(ask("lifecycle get --json"))[NODE] == {"state": "inactive", "id": 2}
    assert "available ones are cleanup [2], activate [3]" in ask(f"lifecycle set {NODE} configure", 2)


def test_recordings_hold_what_was_published_and_init_writes_a_file_for_the_graph(ask, tmp_path):
    bag, config = tmp_path / "drive", tmp_path / "car.yaml"
    assert f"{IMAGE}: " in ask(f"record {IMAGE} /diagnostics --output {bag} --seconds 2.5")
    with Bag(bag) as opened:
        images = list(opened.messages([IMAGE]))
        assert opened.topics["/diagnostics"][1] > 0
    assert len(images) > 3
    assert (frame_of(images[0]).pixels == square()).all()
    ask(f"init live --seconds 2 --out {config}")
    (node,) = [one for one in read_graph(config) if one.name == "camera_detector"]
    assert node.parameters == {"image_topics": [IMAGE], "warmup_sizes": ["160x120"]}


REFUSED = [
    ("topic hz /front/image_rav --seconds 1", "did you mean /front/image_raw"),
    ("topic echo /front/image_raw --field hight", "no field 'hight'; there are header, height"),
    ("topic echo /front/image_raw --seconds nan", "--seconds=nan: must be above 0"),
    ("topic hz /front/image_raw --window 0", "--window=0: must be above 0"),
    ("param get /camera_detectr rate_hz", "did you mean /camera_detector"),
    ("param get /camera_detector rate_h", "did you mean rate_hz"),
    ("param set /camera_detector rate_hz [1", "not YAML"),
    ("param set /camera_detector rate_hz {a:1}", "must be a bool, number, text, or a list"),
    ("lifecycle set /camera_detectr activate", "did you mean /camera_detector"),
    ("record", "name topics, or --all"),
    ("record /nothing --seconds 1", "topic '/nothing': not in the graph"),
    ("init live --seconds -1", "--seconds=-1.0: must be above 0"),
]


def test_what_cannot_be_done_ends_in_a_line(ask):
    for command, words in REFUSED:
        text = ask(command, 2)
        assert words in text
        assert "Traceback" not in text
