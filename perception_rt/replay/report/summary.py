"""Summarise a run as a verdict and cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from perception_rt.replay.report import svg
from perception_rt.replay.report.charts import words
from perception_rt.replay.report.ledger import OUTCOMES
from perception_rt.replay.report.scores import headlines

_MOST_FINDINGS = 12


class Verdict(NamedTuple):
    """Verdict on a run: `level` (good, warn or bad) and its wording; `lines` are sentences."""

    level: str
    word: str
    lines: Sequence[str]

    @property
    def text(self) -> str:
        """Return the lines as one paragraph."""
        return " ".join(self.lines)


class Card(NamedTuple):
    """A key figure of the whole run."""

    label: str
    value: str
    more: str


def judge(metrics: Mapping, checks: Sequence, findings: Sequence[str] = ()) -> Verdict:
    """Return the verdict on a run, the worst problem first; `findings` as of `findings_of`."""
    streams = metrics["streams"]
    received = sum(stream["received"] for stream in streams.values())
    ended = sum(sum(stream["states"].values()) for stream in streams.values())
    failed = [check.name for check in checks if not check.holds]
    bag = metrics["bag"]
    found = []
    if ended != received:
        found.append(f"{received - ended} of {received} messages are not accounted for")
    if failed:
        more = f" and {len(failed) - 2} more" if len(failed) > 2 else ""
        found.append(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed[:2])}{more}")
    bad = bool(found)
    if bag["unreadable"]["messages"] or bag["unreadable"]["reasons"]:
        found.append("part of the recording is unreadable")
    if bag["missing_topics"]:
        found.append(f"not in the recording: {', '.join(sorted(bag['missing_topics']))}")
    if received == 0:
        found.append("no node received a message")
    gaps = bool(found)
    found += findings[:_MOST_FINDINGS]
    if len(findings) > _MOST_FINDINGS:
        found.append(f"{len(findings) - _MOST_FINDINGS} more lines are in run.json")
    if found:
        word = "Not good" if bad else "With gaps" if gaps else "Look at this"
        lines = [line[:1].upper() + line[1:] + "." * (line[-1] not in ".?") for line in found]
        return Verdict("bad" if bad else "warn", word, lines)
    ended_as = _states(streams.values())
    text = f"All {_count(received)} received messages are accounted for: {ended_as}."
    if checks:
        text += f" All {len(checks)} checks hold." if len(checks) > 1 else " The check holds."
    return Verdict("good", "Good", [text])


def _states(streams: Sequence[Mapping]) -> str:
    totals = {outcome: sum(stream["states"].get(outcome, 0) for stream in streams) for outcome in OUTCOMES}
    return (
        ", ".join(f"{_count(count)} {words(outcome)}" for outcome, count in totals.items() if count)
        or "no messages"
    )


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _streams(number: int) -> str:
    return "messages of one stream" if number == 1 else f"messages of {number} streams"


def cards_of(metrics: Mapping, run: Mapping) -> list[Card]:
    """Return the key figures of the whole run, and the first of each kind of score."""
    streams = list(metrics["streams"].values())
    received = sum(stream["received"] for stream in streams)
    ended = sum(sum(stream["states"].values()) for stream in streams)
    published = sum(stream["states"]["published"] for stream in streams)
    cards = [Card("Accounted for", f"{_count(ended)} of {_count(received)}", _streams(len(streams)))]
    lost = ended - published
    share = f"{published / received:.1%}" if received else "–"
    cards.append(Card("Published", share, _states(streams) if lost else "no messages lost"))
    aged = [stream for stream in streams if stream["age_ms"]]
    if aged:
        worst = max(aged, key=lambda stream: stream["age_ms"]["p99"])
        cards.append(Card("Worst age, p99", f"{svg.number(worst['age_ms']['p99'])} ms", worst["node"]))
    unreadable = metrics["bag"]["unreadable"]["messages"]
    if unreadable:
        cards.append(Card("Unreadable", svg.number(unreadable), "messages of the recording"))
    if run.get("speed"):
        wall = f"{run['wall_s']:.1f} s of computation" if run.get("wall_s") else ""
        cards.append(Card("Speed", f"{run['speed']:.2f} ×", f"real time, {wall}".rstrip(", ")))
    cards += [Card(*line) for line in headlines(metrics["scores"])]
    return cards


def stream_card(stream: Mapping) -> dict[str, object]:
    """Return the outcomes, rate and ages of one stream."""
    ended = sum(stream["states"].values())
    outcomes = [
        {
            "name": outcome,
            "words": words(outcome),
            "count": stream["states"][outcome],
            "told": _count(stream["states"][outcome]),
        }
        for outcome in OUTCOMES
        if stream["states"].get(outcome)
    ]
    figures = [("rate", f"{stream['rate_hz']:.2f} Hz")]
    if stream["age_ms"]:
        age = stream["age_ms"]
        figures.append(
            ("age p50/p99/max, ms", f"{' / '.join(svg.number(age[q]) for q in ('p50', 'p99', 'max'))}")
        )
    return {
        "node": stream["node"],
        "topic": stream["topic"],
        "accounted": f"{_count(ended)} of {_count(stream['received'])} accounted for",
        "outcomes": outcomes,
        "figures": figures,
    }
