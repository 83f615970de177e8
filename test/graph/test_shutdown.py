"""Signals to a real process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import TALL, square, stamp_of, wait_for

EXECUTABLE = "import sys; from perception_rt.node.camera_detector import main; sys.exit(main())"
STREAM = "camera_detector: /image_raw"
SECONDS_OF_WORK = square(shape=(TALL + 3000, 160))


@pytest.fixture
def process(bench, failing):
    """Run the node's executable in a process group of its own, as a launcher does; ended with the test."""
    processes = []

    def run(**values) -> subprocess.Popen:
        values = {"bundle": failing, "warmup_sizes": "['160x120']", "threads": 1, "rate_hz": 100.0} | values
        arguments = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", EXECUTABLE, "--ros-args", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(bench.domain)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield run
    for child in processes:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def end(child: subprocess.Popen, number: int) -> str:
    """Signal the group; the process ends in time, cleanly, and leaves nothing. Returns what it wrote."""
    segments = shared_memory(child.pid)
    began = time.monotonic()
    os.killpg(child.pid, number)
    output, _ = child.communicate(timeout=20)
    took = time.monotonic() - began
    assert child.returncode == 0, output
    assert "Traceback" not in output
    assert took < 2.0, output
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
    left = {segment for segment in segments if segment.exists()}
    assert left <= shared_memory(os.getpid()), output
    return output


def shared_memory(pid: int) -> set[Path]:
    """The segments of Fast DDS that a process has mapped: its own and those of whom it talks to."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(path) for path in re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}\b", maps)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_inference_ends_the_process_in_time(bench, process, number):
    child = process()
    publisher = bench.publisher("/image_raw")
    assert wait_for(publisher.get_subscription_count, 60), "never came up"
    assert wait_for(lambda: bench.message("camera_detector") == "running")
    bench.send(publisher, SECONDS_OF_WORK)
    assert wait_for(lambda: bench.diagnostics(STREAM).get("received") == "1")
    time.sleep(0.1)  # well inside, by whatever clock
    assert bench.diagnostics(STREAM)["pending"] == "1"
    bench.send(publisher, square())  # waits in the mailbox
    time.sleep(0.1)
    end(child, number)
    # The last diagnostics, which the fixture holds to its sum too.
    assert wait_for(lambda: bench.message("camera_detector") == "inactive")
    book = bench.diagnostics(STREAM)
    assert (book["received"], book["superseded"], book["pending"]) == ("2", "2", "0")


def settled(bench, found: list) -> int:
    """Return how many more answers the node counts than were found, once all that were sent have ended."""
    for _ in range(2):  # the first may have been on its way
        last = bench.status[STREAM]
        assert wait_for(lambda last=last: bench.status[STREAM] is not last)
    return int(bench.diagnostics(STREAM)["published"]) - len(found)


def test_a_signal_while_frames_flow_loses_none(bench, process):
    child = process()
    found = bench.listen("/camera_detector/detections")
    publisher = bench.publisher("/image_raw")
    assert wait_for(publisher.get_subscription_count, 60), "never came up"
    assert wait_for(lambda: bench.node.get_publishers_info_by_topic("/camera_detector/detections"))
    assert wait_for(lambda: bench.send(publisher, square()) and found)
    # Answers from before the node knew of the listener are lost by the transport, as to any late subscriber.
    assert wait_for(lambda: STREAM in bench.status)
    before = settled(bench, found)
    for _ in range(5):
        sent = bench.send(publisher, square())
        assert wait_for(lambda sent=sent: stamp_of(found[-1]) == sent)
    end(child, signal.SIGINT)
    assert wait_for(lambda: bench.message("camera_detector") == "inactive")
    assert int(bench.diagnostics(STREAM)["published"]) - len(found) == before


def test_a_signal_while_the_model_loads_ends_the_process_in_time(bench, process):
    child = process(warmup_sizes=f"['160x{TALL + 3000}']")
    assert wait_for(lambda: "camera_detector" in bench.node.get_node_names(), 60)
    time.sleep(0.5)
    end(child, signal.SIGINT)


def test_a_node_that_cannot_start_ends_with_an_error(process):
    child = process(bundle="/nowhere/model.pt")
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "cannot configure: /nowhere/model.pt: no such file" in output


def test_a_parameter_of_another_type_ends_it_with_one_line(process):
    child = process(rate_hz=30)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "Traceback" not in output
    assert "'rate_hz' to '30' of type 'INTEGER', expecting type 'DOUBLE'" in output


def test_security_that_cannot_be_had_ends_it_with_one_line(tmp_path):
    """SROS 2 without keys for the enclave."""
    security = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}
    child = subprocess.run(
        [sys.executable, "-c", EXECUTABLE, "--ros-args", "--enclave", "/car/camera_detector"],
        env={**os.environ, **security, "ROS_SECURITY_KEYSTORE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 1
    assert "Traceback" not in child.stderr
    assert (
        f"SECURITY ERROR: directory '{tmp_path}/enclaves/car/camera_detector' does not exist" in child.stderr
    )


def test_in_one_process_the_end_takes_under_two_seconds(run_camera):
    camera = run_camera()
    camera.send(square(shape=(TALL + 500, 160)))
    assert wait_for(lambda: camera.book()["received"] == 1)
    assert wait_for(lambda: camera.node.component.worker._mailbox.ready() == {})
    assert camera.bench.end() < 2.0
