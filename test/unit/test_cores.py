"""Cores and priorities of threads."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_rt.realtime.cores import available_cores, parse_cores, schedule_thread, scheduled
from perception_rt.types import ConfigError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="affinity and SCHED_FIFO are of Linux")


def affinity_of_a_new_thread() -> set[int]:
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ("text", "cores"), [("", set()), ("0", {0}), ("0-2", {0, 1, 2}), (" 0, 2-3 ,", {0, 2, 3})]
)
def test_a_list_of_cores_is_read_as_taskset_reads_it(text, cores):
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["a", "1-0", "0-", "-1", "0;1", "0-99999999", "1.5", "²"])
def test_other_texts_are_refused_with_the_value(text):
    with pytest.raises(ConfigError, match="cpu_affinity"):
        parse_cores(text)


@LINUX
def test_cores_that_the_process_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="may use the cores"):
        parse_cores("4000-4005")


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text):
    with suppress(ConfigError):
        assert all(core >= 0 for core in parse_cores(text))


@LINUX
def test_threads_that_begin_within_keep_the_cores_and_the_caller_gets_its_own_back():
    before = os.sched_getaffinity(0)
    one = {min(before)}
    with scheduled(one, 0, pytest.fail):
        assert available_cores() == 1
        assert affinity_of_a_new_thread() == one
    assert os.sched_getaffinity(0) == before == affinity_of_a_new_thread()


@LINUX
def test_the_policy_of_a_thread_is_set_or_the_refusal_says_how_to_allow_it():
    warnings: list[str] = []
    with scheduled((), 5, warnings.append):
        now = os.sched_getscheduler(0)
        assert (now == os.SCHED_FIFO) != any("rtprio 5" in text for text in warnings)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@LINUX
def test_a_thread_that_has_ended_is_refused_and_nothing_is_raised():
    assert schedule_thread(2**22 + 1, {0}, 0)
