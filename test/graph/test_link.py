"""A process whose shared-memory port is gone: told from a publisher that is silent, and ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nav_msgs.msg import Odometry

from perception_rt.node.link import DEAF
from perception_rt.node.run import spinning_node

from .conftest import wait_for

PROGRAM = """
from perception_rt.node import link, run
from perception_rt.node.vehicle_state import VehicleStateNode

link.SILENT_S = link.PAUSE_S = 2
link.PROBE_S = 3.0
run.run([VehicleStateNode], ["--ros-args", "-p", "odometry_topic:=/odom", "-p", "imu_topic:=''"])
"""


def ports(domain: int) -> set[Path]:
    """The shared-memory ports of a domain, which is this test's alone."""
    found = [(path, re.fullmatch(r"fastdds_port(\d+)", path.name)) for path in Path("/dev/shm").iterdir()]
    return {path for path, match in found if match and (int(match[1]) - 7400) // 250 == domain}


@pytest.fixture
def child(bench):
    """A vehicle_state in a process of its own, and the ports that came with it."""
    before = ports(bench.domain)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "ROS_DOMAIN_ID": str(bench.domain)},
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, before
    process.kill()
    process.communicate(timeout=20)
    bench.status.clear()  # its last diagnostics may not have come


def probing(bench) -> bool:
    return "_perception_rt_link" in bench.node.get_node_names()


def test_a_dead_port_ends_the_process_and_a_silent_publisher_does_not(bench, child):
    process, before = child
    odom = bench.publisher("/odom", "reliable", Odometry)
    assert wait_for(odom.get_subscription_count, 60), "never came up"
    assert wait_for(lambda: probing(bench), 30)  # the publisher sends nothing: no one hears it
    assert wait_for(lambda: not probing(bench), 30)
    assert wait_for(lambda: probing(bench), 30)  # it begins to send while the probe listens: both hear it
    for _ in range(100):
        odom.publish(Odometry())
        time.sleep(0.03)
    assert wait_for(lambda: not probing(bench), 30)
    time.sleep(2.0)
    assert process.poll() is None
    gone = ports(bench.domain) - before
    assert gone
    for port in gone:
        port.unlink()

    with spinning_node("driver", bench.domain) as driver:  # writes to a port that it opens by its name
        odom = driver.create_publisher(Odometry, "/odom", 5)

        def ended() -> bool:
            odom.publish(Odometry())
            return process.poll() is not None

        assert wait_for(ended, 60)
    _, said = process.communicate(timeout=20)
    assert process.returncode == DEAF, said
    (line,) = [line for line in said.splitlines() if "shared-memory port" in line]
    assert "/odom: nothing came for" in line
    assert f"exit code {DEAF}" in line
