"""doctor against real topics."""

from __future__ import annotations

import os
import threading

import pytest

from perception_rt.cli.main import main

from .conftest import square


@pytest.fixture
def doctor_domain(bench, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(bench.domain))
    return bench


def test_a_topic_that_flows_and_one_that_is_misspelt(doctor_domain, capfd):
    bench, stop = doctor_domain, threading.Event()
    publisher = bench.publisher("/front/image_raw")

    def publish():
        while not stop.wait(0.05):
            bench.send(publisher, square())

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        assert main(["doctor", "/front/image_raw", "--seconds", "1"]) == 0
        line = next(line for line in capfd.readouterr().out.splitlines() if "/front/image_raw" in line)
        assert line.split()[0] == "ok"
        assert "Hz" in line
        assert "best_effort" in line
        assert main(["doctor", "/fromt/image_raw", "--seconds", "0.1"]) == 1
        line = next(line for line in capfd.readouterr().out.splitlines() if "/fromt" in line)
        assert line.split()[0] == "FAIL"
        assert "did you mean /front/image_raw?" in line
    finally:
        stop.set()
        thread.join()


def test_a_profile_that_is_not_there_is_a_failure(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(tmp_path / "none.xml"))
    monkeypatch.setitem(os.environ, "RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    assert main(["doctor"]) == 1
    assert "none.xml: no such file" in capfd.readouterr().out
