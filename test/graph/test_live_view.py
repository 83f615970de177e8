"""up --live: what a graph publishes comes to the viewer, in the time of /clock."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from rosgraph_msgs.msg import Clock

from perception_rt.cli.main import main
from perception_rt.codec.image import parse_image
from perception_rt.node import live_view as module
from perception_rt.node.live_view import live_view
from perception_rt.node.source import to_time

from .conftest import square, wait_for


class Seen:
    """Keeps what a viewer is given."""

    where = "here"

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, int, bytes]] = []
        self.plotted: list[tuple[str, float]] = []
        self.closed = False

    def begin(self, topics: Mapping[str, str], timeout_s: float) -> bool:
        return True

    def message(self, topic: str, message_type: str, log_ns: int, data: bytes) -> None:
        self.messages.append((topic, message_type, log_ns, data))

    def ages(self, topic: str, log_ns: int, age_ms: float) -> None:
        self.plotted.append((topic, age_ms))

    def close(self) -> None:
        self.closed = True


def test_messages_and_ages_of_every_topic_are_shown(run_camera, monkeypatch):
    seen = Seen()
    monkeypatch.setattr(module, "open_live", lambda kind: seen)
    camera = run_camera("/front/image_raw")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(camera.bench.domain))
    with live_view("foxglove"):
        assert wait_for(lambda: camera.send() and {m[0] for m in seen.messages} >= {"/front/image_raw"})
        assert wait_for(
            lambda: camera.send() and "/camera_detector/detections" in {t for t, _ in seen.plotted}
        )
        assert wait_for(lambda: "/diagnostics" in {m[0] for m in seen.messages})
        image = next(m for m in seen.messages if m[0] == "/front/image_raw")
        assert (parse_image(image[3]).decode().pixels == square()).all()
        assert abs(image[2] - time.time_ns()) < 60 * 10**9
        clock = camera.bench.publisher("/clock", message_type=Clock)

        def at_seven() -> bool:
            clock.publish(Clock(clock=to_time(7 * 10**9)))
            camera.send()
            return any(m[2] == 7 * 10**9 for m in seen.messages)

        assert wait_for(at_seven)
    assert seen.closed


@pytest.mark.parametrize("viewer", ["paper", "foxglove:99999999", "rerun:nowhere:1"])
def test_a_viewer_that_cannot_be_opened_ends_in_a_line(tmp_path, capsys, viewer):
    config = tmp_path / "car.yaml"
    config.write_text("vehicle_state: {ros__parameters: {}}")
    assert main(["up", str(config), "--live", viewer]) == 2
    assert f"--live {viewer}: " in capsys.readouterr().err
