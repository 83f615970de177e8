"""Swapping the bundle of a running node."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from std_srvs.srv import Trigger

from perception_rt.model.archive import read_manifest

from .conftest import TALL, wait_for

SLOW_TO_LOAD = {"warmup_sizes": [f"160x{TALL + 60}"]}  # a second, so that things happen meanwhile


@pytest.fixture
def feed():
    """Keep asking a camera, one frame at a time, until the test is over; the count of answers grows."""
    stop, answers, threads = threading.Event(), [], []

    def run(camera) -> list:
        def ask() -> None:
            while not stop.is_set():
                answers.append(camera.ask())

        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        return answers

    run.end = lambda: (stop.set(), [thread.join() for thread in threads])
    yield run
    run.end()


def test_a_good_bundle_takes_over_and_every_frame_is_answered(run_camera, make_bundle, feed):
    camera = run_camera()
    bench = camera.bench
    answers = feed(camera)
    assert wait_for(lambda: len(answers) >= 3)
    other = str(make_bundle("other"))
    assert bench.set_parameter("bundle", other).successful
    swap = bench.swap()
    assert wait_for(swap.done)
    assert swap.result().success, swap.result().message
    sha256 = read_manifest(Path(other)).sha256
    assert sha256[:12] in swap.result().message
    asked = len(answers)
    assert wait_for(lambda: len(answers) >= asked + 3)
    assert wait_for(lambda: bench.diagnostics("camera_detector").get("bundle") == "other")
    assert bench.diagnostics("camera_detector")["bundle_sha256"] == sha256
    feed.end()
    book = camera.book()
    assert book["received"] == book["states"]["published"] == len(answers)
    assert all(len(answer.detections) == 1 for answer in answers)


@pytest.mark.parametrize("kind", ["missing", "garbage"])
def test_a_bad_bundle_leaves_the_running_one(run_camera, tmp_path, feed, kind):
    camera = run_camera()
    bench = camera.bench
    answers = feed(camera)
    bad = tmp_path / "bad.pt"
    if kind == "garbage":
        bad.write_bytes(bytes(1000))
    assert bench.set_parameter("bundle", str(bad)).successful
    swap = bench.swap()
    assert wait_for(swap.done)
    assert not swap.result().success
    assert "bad.pt" in swap.result().message
    assert {"missing": "no such file", "garbage": "not a bundle"}[kind] in swap.result().message
    assert "the running bundle stays" in swap.result().message
    asked = len(answers)
    assert wait_for(lambda: len(answers) >= asked + 3)
    assert camera.node.component.runtime.manifest.name == "failing"
    feed.end()
    assert camera.count("published") == camera.book()["received"]


def test_settings_and_the_fallback_concern_the_running_bundle_until_a_swap(run_camera, failing, tmp_path):
    camera = run_camera()
    bench, detector = camera.bench, camera.node.component
    assert bench.set_parameter("bundle", str(tmp_path / "not_swapped_in.pt")).successful
    assert bench.set_parameter("score_thresholds", ["bright=0.95"]).successful  # BrightBox says 0.9
    assert len(camera.ask().detections) == 0
    refused = bench.set_parameter("classes", ["brihgt"])
    assert not refused.successful
    assert f"did you mean bright?; {failing} runs until bundle is swapped" in refused.reason
    primary = detector.runtime
    detector.worker.call(detector.watchdog._fall_back).result()
    assert detector.runtime is not primary
    assert detector.runtime.source == failing
    assert len(camera.ask().detections) == 0


def test_two_swaps_at_once_are_one_too_many(run_camera):
    camera = run_camera(**SLOW_TO_LOAD)
    swaps = [camera.bench.swap() for _ in range(2)]
    assert wait_for(lambda: all(swap.done() for swap in swaps))
    first, second = (swap.result() for swap in swaps)
    assert first.success, first.message
    assert not second.success
    assert "another swap is running" in second.message
    again = camera.bench.swap()
    assert wait_for(again.done)
    assert again.result().success
    camera.ask()


def test_a_swap_before_configure_says_what_will_happen(run_camera):
    camera = run_camera(autostart=False, wired=False)
    swap = camera.bench.swap()
    assert wait_for(swap.done)
    assert not swap.result().success
    assert "not configured" in swap.result().message


def test_cleaning_up_during_a_swap_ends_it(run_camera):
    camera = run_camera(**SLOW_TO_LOAD)
    swap = camera.bench.swap()
    assert camera.bench.change_state(Transition.TRANSITION_DEACTIVATE)
    assert camera.bench.change_state(Transition.TRANSITION_CLEANUP)
    assert wait_for(swap.done)
    assert not swap.result().success
    assert "cleaned up" in swap.result().message
    assert camera.bench.change_state(Transition.TRANSITION_CONFIGURE)
    assert camera.bench.change_state(Transition.TRANSITION_ACTIVATE)
    camera.rewire()
    camera.ask()


def test_each_of_many_calls_at_once_is_answered(run_camera):
    """200 calls in one burst: one swaps, the others are told to wait."""
    camera = run_camera(**SLOW_TO_LOAD)
    client = camera.bench.node.create_client(Trigger, "/camera_detector/swap_bundle")
    assert client.wait_for_service(15.0)
    swaps = [client.call_async(Trigger.Request()) for _ in range(200)]
    assert wait_for(lambda: all(swap.done() for swap in swaps), 60), sum(not swap.done() for swap in swaps)
    messages = [swap.result().message for swap in swaps]
    assert sum(swap.result().success for swap in swaps) >= 1
    assert all(" runs" in text or "another swap is running" in text for text in messages)
    camera.ask()


def test_a_swap_while_the_node_comes_up_is_refused_with_the_reason(run_camera):
    camera = run_camera(autostart=False, wired=False, **SLOW_TO_LOAD)
    answers = []
    configure = threading.Thread(target=camera.node.trigger_configure)
    configure.start()
    while configure.is_alive():
        swap = camera.bench.swap()
        assert wait_for(swap.done)
        answers.append(swap.result())
    configure.join()
    assert len(answers) > 1
    assert all("not configured" in one.message or one.success for one in answers), answers
    assert not answers[0].success
    assert camera.node.callback_errors == 0


def test_a_bundle_from_another_folder_is_not_loaded_and_the_folders_stay(run_camera, failing, tmp_path):
    camera = run_camera(bundle_folders=[""])  # that of the bundle
    bench = camera.bench
    elsewhere = tmp_path / "elsewhere.pt"
    elsewhere.write_bytes(Path(failing).read_bytes())
    link = Path(failing).with_name("link.pt")
    link.symlink_to(elsewhere)

    def swap(bundle):
        assert bench.set_parameter("bundle", str(bundle)).successful
        done = bench.swap()
        assert wait_for(done.done, 30)
        return done.result()

    for outside in (elsewhere, link, Path(failing).parent / ".." / "x" / ".." / elsewhere):
        answer = swap(outside)
        assert not answer.success
        assert "not below bundle_folders" in answer.message
    refused = bench.set_parameter("bundle_folders", ["/"])
    assert not refused.successful
    for inside in (failing, "sim_camera"):
        assert swap(inside).success
    bench.set_parameter("bundle", str(elsewhere))  # nor by way of the lifecycle
    assert bench.change_state(Transition.TRANSITION_DEACTIVATE)
    assert bench.change_state(Transition.TRANSITION_CLEANUP)
    assert not bench.set_parameter("bundle_folders", ["/"]).successful
    assert not bench.change_state(Transition.TRANSITION_CONFIGURE)
    link.unlink()
    assert bench.set_parameter("bundle", failing).successful
    assert bench.change_state(Transition.TRANSITION_CONFIGURE)


def test_all_swaps_load_on_one_thread(run_camera, monkeypatch):
    """Malloc keeps the space of a bundle for each thread that loaded one: memory grew with every swap."""
    camera = run_camera()
    component = camera.node.component
    threads, load = [], component.open
    monkeypatch.setattr(component, "open", lambda: threads.append(threading.get_ident()) or load())
    others = []
    for _ in range(3):
        swap = camera.bench.swap()
        assert wait_for(swap.done)
        assert swap.result().success, swap.result().message
        others.append(threading.Thread(target=threading.Event().wait, args=(5.0,), daemon=True))
        others[-1].start()  # takes the identity that a thread which ended would leave
    assert len(threads) == 3
    assert len(set(threads)) == 1
