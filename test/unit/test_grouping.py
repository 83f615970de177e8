"""Grouping of several streams: each partner by the rules of pairing, and every ledger sums."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.realtime.grouping import StampGrouping
from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.pairing import StampPairing
from perception_rt.realtime.pipeline import StreamStats

MS = 1_000_000
WINDOW, WAIT = 50 * MS, 100 * MS


def finish(groups, anchors, partners, found):
    for group in groups:
        found.append(
            (group.anchor.stamp_ns, tuple(held.stamp_ns if held else None for held in group.partners))
        )
        anchors.ledger.finish(group.anchor.entry, Outcome.PUBLISHED)
        for stats, held, reason in zip(partners, group.partners, group.reasons, strict=True):
            assert bool(reason) == (held is None)
            if held is not None:
                stats.ledger.finish(held.entry, Outcome.PUBLISHED)


messages = st.lists(
    st.tuples(st.integers(-1, 2), st.integers(0, 60), st.integers(0, 30)), max_size=60
)  # stream (-1: the anchors), stamp and pause before it in steps of 10 ms


@settings(max_examples=200, deadline=None)
@given(messages, st.integers(0, 100))
def test_any_messages_give_what_each_pair_of_streams_gives(sent, reset_at):
    anchors, partners = StreamStats(), [StreamStats() for _ in range(3)]
    grouping = StampGrouping(anchors, partners, WINDOW, WAIT)
    alone = [(StreamStats(), StreamStats()) for _ in range(3)]
    pairings = [StampPairing(*both, WINDOW, WAIT) for both in alone]
    found, expected, now = [], [[] for _ in range(3)], 0
    for step, (stream, stamp, pause) in enumerate(sent):
        now += pause * 10 * MS
        if step == reset_at:
            grouping.clear("reset")
            anchors.reset_clock()
            for stats in partners:
                stats.reset_clock()
        if stream < 0:
            groups = grouping.put_anchor(anchors.receive(now), stamp * 10 * MS, "anchor", now)
        else:
            entry = partners[stream].receive(now)
            groups = grouping.put_partner(stream, entry, stamp * 10 * MS, "partner", now)
        finish(groups + grouping.poll(now), anchors, partners, found)
        for index, (pairing, both) in enumerate(zip(pairings, alone, strict=True)):
            pairs = []
            if stream < 0:
                pairs = pairing.put_anchor(both[0].receive(now), stamp * 10 * MS, "anchor", now)
            elif stream == index:
                pairs = pairing.put_partner(both[1].receive(now), stamp * 10 * MS, "partner", now)
            for pair in pairs + pairing.poll(now):
                expected[index].append((pair.anchor.stamp_ns, pair.partner and pair.partner.stamp_ns))
    if reset_at >= len(sent):  # a reset ends what only some pairings had decided
        for index, rows in enumerate(expected):
            assert [(stamp, held[index]) for stamp, held in found] == rows[: len(found)]
    finish(grouping.poll(now + 10 * WAIT), anchors, partners, found)
    grouping.clear("the end")
    for stats in (anchors, *partners):
        book = stats.ledger.snapshot()
        assert book["pending"] == 0
        assert sum(book["states"].values()) == book["received"]


def test_an_anchor_waits_for_the_slowest_camera_and_no_longer_than_the_limit():
    anchors, partners = StreamStats(), [StreamStats(), StreamStats()]
    grouping = StampGrouping(anchors, partners, WINDOW, WAIT)
    found: list = []
    finish(grouping.put_anchor(anchors.receive(0), 0, "a", 0), anchors, partners, found)
    finish(grouping.put_partner(0, partners[0].receive(0), 5 * MS, "c", 10 * MS), anchors, partners, found)
    assert found == []
    finish(grouping.poll(99 * MS), anchors, partners, found)
    assert found == []
    finish(grouping.poll(100 * MS), anchors, partners, found)
    assert found == [(0, (5 * MS, None))]


def test_after_a_reset_earlier_stamps_pair_with_every_camera():
    anchors, partners = StreamStats(), [StreamStats() for _ in range(2)]
    grouping = StampGrouping(anchors, partners, WINDOW, WAIT)

    def send(stamp_ns: int, now_ns: int) -> list:
        groups = []
        for index, stats in enumerate(partners):
            groups += grouping.put_partner(index, stats.receive(now_ns), stamp_ns, "partner", now_ns)
        return groups + grouping.put_anchor(anchors.receive(now_ns), stamp_ns, "anchor", now_ns)

    later = 1_000 * MS
    finish(send(later, later), anchors, partners, [])
    grouping.clear("the clock was set back")
    for stats in (anchors, *partners):
        stats.reset_clock()
    (group,) = send(500 * MS, later)
    assert [held.stamp_ns for held in group.partners if held] == [500 * MS] * 2
