"""Pairing by stamps under virtual time: any interleaving, delay and loss."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.pairing import HOLD_COUNT, StampPairing
from perception_rt.realtime.pipeline import StreamStats

MS = 1_000_000
S = 1_000_000_000
WINDOW, WAIT = 50 * MS, 100 * MS


class Bench:
    """Feeds a pairing and settles its pairs as a node does."""

    def __init__(self, window_ns: int = WINDOW, max_wait_ns: int = WAIT) -> None:
        self.lidar, self.camera = StreamStats(), StreamStats()
        self.pairing = StampPairing(self.lidar, self.camera, window_ns, max_wait_ns)
        self.pairs: list[tuple[int, int | None]] = []
        self.reasons: list[str] = []
        self.decided_at: dict[int, int] = {}

    def anchor(self, stamp: int, now: int | None = None) -> None:
        entry, at = self.lidar.receive(0), stamp if now is None else now
        self.take(self.pairing.put_anchor(entry, stamp, f"lidar {stamp}", at), now)

    def partner(self, stamp: int, now: int | None = None) -> None:
        entry, at = self.camera.receive(0), stamp if now is None else now
        self.take(self.pairing.put_partner(entry, stamp, f"camera {stamp}", at), now)

    def poll(self, now: int) -> None:
        self.take(self.pairing.poll(now), now)

    def take(self, pairs, now) -> None:
        for anchor, partner, reason in pairs:
            assert anchor.item == f"lidar {anchor.stamp_ns}"
            self.pairs.append((anchor.stamp_ns, partner.stamp_ns if partner else None))
            self.reasons.append(reason)
            self.decided_at[anchor.stamp_ns] = now
            self.lidar.ledger.finish(anchor.entry, Outcome.PUBLISHED if partner else Outcome.UNSYNCED, reason)
            if partner:
                assert partner.item == f"camera {partner.stamp_ns}"
                self.camera.ledger.finish(partner.entry, Outcome.PUBLISHED)

    def states(self, account: StreamStats) -> dict[str, int]:
        book = account.ledger.snapshot()
        return {state: n for state, n in book["states"].items() if n} | (
            {"pending": book["pending"]} if book["pending"] else {}
        )


def test_the_nearest_in_stamp_is_taken_whichever_came_first():
    bench = Bench()
    for camera in (0, 33, 67, 100):
        bench.partner(camera * MS, 120 * MS)
    bench.anchor(60 * MS, 130 * MS)
    bench.anchor(110 * MS, 140 * MS)
    assert bench.pairs == [(60 * MS, 67 * MS)]  # 0 and 33 were before, 100 is farther
    bench.partner(133 * MS, 150 * MS)
    assert bench.pairs[1:] == [(110 * MS, 100 * MS)]
    assert bench.states(bench.camera) == {"published": 2, "superseded": 1, "unsynced": 1, "pending": 1}


def test_the_lidar_does_not_wait_once_a_camera_message_at_its_stamp_or_after_has_come():
    bench = Bench()
    bench.anchor(100 * MS, 100 * MS)
    bench.partner(80 * MS, 101 * MS)
    assert bench.pairs == []  # a nearer one may still come
    bench.partner(100 * MS, 102 * MS)
    assert bench.pairs == [(100 * MS, 100 * MS)]
    assert bench.states(bench.camera) == {"published": 1, "superseded": 1}


def test_when_the_wait_is_over_the_best_so_far_is_taken():
    bench = Bench()
    bench.partner(80 * MS, 90 * MS)
    bench.anchor(100 * MS, 110 * MS)
    bench.poll(209 * MS)
    assert bench.pairs == []
    bench.poll(210 * MS)
    assert bench.pairs == [(100 * MS, 80 * MS)]


def test_a_dead_camera_leaves_the_lidar_alone_but_not_silent():
    bench = Bench()
    for k in range(1, 11):
        bench.anchor(k * S // 10, k * S // 10)
        bench.poll(k * S // 10 + 99 * MS)
    bench.poll(2 * S)
    assert [partner for _, partner in bench.pairs] == [None] * 10
    assert bench.states(bench.lidar) == {"unsynced": 10}
    assert bench.reasons[0] == "no partner came within 100 ms"


def test_a_partner_outside_of_the_window_is_not_taken_and_the_reason_says_how_far_it_is():
    bench = Bench()
    bench.anchor(100 * MS)
    bench.partner(151 * MS)
    assert bench.pairs == [(100 * MS, None)]
    assert bench.reasons == ["no partner within 50 ms: the nearest is 51.0 ms away"]
    bench.anchor(200 * MS)
    bench.partner(250 * MS)
    assert bench.pairs[1:] == [(200 * MS, 151 * MS)]  # 49 away: nearer than 250


def test_camera_messages_between_two_answered_clouds_are_superseded():
    """30 Hz against 5 Hz: most images are near no cloud, and that is normal."""
    bench = Bench()
    for k in range(31):
        bench.partner(round(k * S / 30), round(k * S / 30))
        if k % 6 == 0:
            bench.anchor(round(k * S / 30), round(k * S / 30))
    assert bench.states(bench.lidar) == {"published": 6}
    assert bench.states(bench.camera) == {"published": 6, "superseded": 25}


def test_camera_messages_without_a_lidar_are_unsynced_after_a_second():
    bench = Bench()
    bench.partner(0, 0)
    bench.poll(S)
    assert bench.states(bench.camera) == {"pending": 1}
    bench.poll(S + 1)
    assert bench.states(bench.camera) == {"unsynced": 1}
    for k in range(HOLD_COUNT + 10):
        bench.partner(2 * S + k, 2 * S)
    assert bench.states(bench.camera) == {"unsynced": 11, "pending": HOLD_COUNT}


def test_what_comes_after_its_anchors_wait_is_late():
    bench = Bench()
    bench.anchor(0, 0)
    bench.poll(100 * MS)
    bench.partner(10 * MS, 120 * MS)
    bench.anchor(100 * MS, 130 * MS)
    bench.partner(110 * MS, 140 * MS)
    assert bench.pairs == [(0, None), (100 * MS, 110 * MS)]
    assert bench.states(bench.camera) == {"late": 1, "published": 1}


def test_behind_the_newest_of_its_stream_is_late_and_a_repeated_stamp_superseded():
    bench = Bench()
    for stamp in (100, 90, 100):
        bench.partner(stamp * MS, 100 * MS)
        bench.anchor(stamp * MS, 100 * MS)
    assert bench.pairs == [(100 * MS, 100 * MS)]
    expected = {"published": 1, "late": 1, "superseded": 1}
    assert bench.states(bench.camera) == bench.states(bench.lidar) == expected


def test_one_partner_serves_one_anchor():
    bench = Bench()
    bench.anchor(0, 0)
    bench.anchor(20 * MS, 20 * MS)
    bench.partner(25 * MS, 25 * MS)
    bench.poll(S)
    assert bench.pairs == [(0, 25 * MS), (20 * MS, None)]


@pytest.mark.parametrize("first", ["anchor", "partner"])
def test_a_bag_that_loops_begins_anew(first):
    """The two streams step back one after the other, while messages of the old time still wait."""
    bench = Bench()
    bench.partner(59_950 * MS, 60 * S)
    bench.partner(59_995 * MS, 60 * S)
    bench.anchor(60 * S, 60 * S)
    second = "partner" if first == "anchor" else "anchor"
    getattr(bench, first)(10 * MS, 60_010 * MS)
    getattr(bench, second)(12 * MS, 60_011 * MS)
    bench.poll(61 * S)
    anchor, partner = (10, 12) if first == "anchor" else (12, 10)
    assert bench.pairs[0] == (60 * S, 59_995 * MS)
    assert bench.pairs[1:] == [(anchor * MS, partner * MS)]
    assert bench.states(bench.camera) == {"published": 2, "superseded": 1}


def test_an_image_of_the_old_time_does_not_hurry_a_cloud_of_the_new():
    bench = Bench()
    bench.partner(60 * S, 60 * S)
    bench.anchor(60 * S, 60 * S)
    bench.anchor(0, 60_100 * MS)
    bench.partner(60_033 * MS, 60_101 * MS)  # the camera has not looped yet
    assert bench.pairs == [(60 * S, 60 * S)]
    bench.partner(1 * MS, 60_102 * MS)
    assert bench.pairs[1:] == [(0, 1 * MS)]
    assert bench.states(bench.camera) == {"published": 2, "superseded": 1}


def test_anchors_of_the_old_time_say_nothing_of_messages_of_the_new():
    bench = Bench()
    bench.anchor(60 * S, 60 * S)
    bench.partner(60 * S, 60 * S)
    bench.anchor(0, 60_100 * MS)
    bench.partner(0, 60_100 * MS)
    assert bench.states(bench.camera) == {"published": 2}
    bench = Bench()
    bench.anchor(60 * S, 60 * S)
    bench.partner(60 * S, 60 * S)
    bench.partner(10 * MS, 60_100 * MS)
    bench.anchor(300 * MS, 60_101 * MS)
    bench.partner(300 * MS, 60_102 * MS)
    assert bench.states(bench.camera) == {"published": 2, "unsynced": 1}  # no anchor came before it


def test_an_injected_clock_that_is_set_back_delays_nothing():
    bench = Bench()
    bench.anchor(60 * S, 60 * S)
    bench.poll(1 * S)
    bench.poll(1 * S + WAIT)
    assert bench.pairs == [(60 * S, None)]


def test_what_waits_when_the_run_ends_is_superseded():
    bench = Bench()
    bench.anchor(100 * MS)
    bench.partner(80 * MS, 100 * MS)
    bench.pairing.clear("the node was deactivated")
    assert bench.states(bench.lidar) == bench.states(bench.camera) == {"superseded": 1}
    bench.poll(9 * S)
    assert bench.pairs == []


# Any stream: stamps with gaps, each delayed, reordered and lost at will.
message = st.tuples(st.integers(0, 3_000), st.integers(0, 400), st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.lists(message, max_size=60), st.integers(0, 120), st.integers(0, 200))
def test_any_interleaving(messages, window_ms, wait_ms):
    bench = Bench(window_ms * MS, wait_ms * MS)
    known: list[int] = []
    for stamp, delay, is_anchor in sorted(messages, key=lambda m: m[0] + m[1]):
        now = (stamp + delay) * MS
        bench.poll(now)
        (bench.anchor if is_anchor else bench.partner)(stamp * MS, now)
        known.append(stamp * MS)
    bench.poll(10 * S)
    for account in (bench.lidar, bench.camera):
        book = account.ledger.snapshot()
        assert book["pending"] == 0
        assert sum(book["states"].values()) == book["received"]
    used = [partner for _, partner in bench.pairs if partner is not None]
    assert len(set(used)) == len(used)
    for (a, p), (b, q) in pairwise([pair for pair in bench.pairs if pair[1] is not None]):
        if b > a:  # else the stream began anew
            assert p < q
    assert all(p is None or abs(p - a) <= window_ms * MS for a, p in bench.pairs)
    arrivals = {stamp * MS: (stamp + delay) * MS for stamp, delay, is_anchor in messages if is_anchor}
    assert all(at is not None for at in bench.decided_at.values())
    assert set(bench.decided_at) <= set(arrivals)


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.integers(101, 300), min_size=1, max_size=15),
    cameras=st.lists(st.integers(5, 200), min_size=1, max_size=60),
    delays=st.tuples(st.integers(0, 300), st.integers(0, 60)),
)
def test_in_order_and_without_overlapping_windows_every_anchor_gets_its_nearest(gaps, cameras, delays):
    """However late the lidar's detector is against the camera's, as long as the camera is not too late."""
    anchors = [sum(gaps[: k + 1]) * MS for k in range(len(gaps))]
    partners = [sum(cameras[: k + 1]) * MS for k in range(len(cameras))]
    events = [(stamp + delays[0] * MS, "anchor", stamp) for stamp in anchors]
    events += [(stamp + delays[1] * MS, "partner", stamp) for stamp in partners]
    bench = Bench(WINDOW, 120 * MS)  # the window and the camera's delay
    for now, stream, stamp in sorted(events):
        bench.poll(now)
        getattr(bench, stream)(stamp, now)
    bench.poll(10**12)
    for anchor, partner in bench.pairs:
        within = [stamp for stamp in partners if abs(stamp - anchor) <= WINDOW]
        best = min((abs(stamp - anchor) for stamp in within), default=None)
        assert (partner is None and best is None) or abs(partner - anchor) == best
    assert [anchor for anchor, _ in bench.pairs] == anchors


def test_messages_of_the_old_time_end_with_the_first_cloud_of_the_new():
    """The camera is ahead when the bag loops: its images of the old end wait for a cloud that never comes."""
    bench = Bench()
    bench.anchor(60 * S, 60 * S)
    bench.partner(60 * S, 60 * S)
    bench.partner(60_500 * MS, 60_500 * MS)
    assert bench.states(bench.camera) == {"published": 1, "pending": 1}
    bench.anchor(0, 60_600 * MS)
    assert bench.states(bench.camera) == {"published": 1, "superseded": 1}
    assert "set back" in bench.camera.ledger.snapshot()["reasons"]["superseded"]


def test_after_clear_any_stamps_are_taken():
    bench = Bench()
    bench.anchor(60 * S, 60 * S)
    bench.partner(60 * S, 60 * S)
    bench.partner(60_100 * MS, 60_100 * MS)
    bench.pairing.clear("the clock was set back")
    for stats in (bench.lidar, bench.camera):
        stats.reset_clock()
    bench.anchor(59_900 * MS, 60_110 * MS)
    bench.partner(59_900 * MS, 60_110 * MS)
    assert bench.pairs == [(60 * S, 60 * S), (59_900 * MS, 59_900 * MS)]
    assert bench.states(bench.camera) == {"published": 2, "superseded": 1}
