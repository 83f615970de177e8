from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from perception_rt.replay.compare import VOLATILE, Tolerance, compare_runs, comparison_table
from perception_rt.replay.compare.in_step import Item, Numbering, matched
from perception_rt.replay.compare.leaves import differing, ignore_paths
from perception_rt.types import BagError, ConfigError
from test.drives import START_NS
from test.runs import (
    CHATTER,
    DETECTIONS,
    DIAGNOSTICS,
    PERIOD_NS,
    STREAM,
    chatter,
    detections,
    diagnostics,
    ledger_row,
    messages,
    write_run,
)


def replaced(index: int, data: bytes, shift_ns: int = 0) -> list:
    rows = messages()
    topic, log_ns, _ = rows[index]
    rows[index] = (topic, log_ns + shift_ns, data)
    return rows


def compared(tmp_path, content=None, rows=None, scores=None, golden_scores=None, **options):
    golden = write_run(tmp_path / "golden", scores=golden_scores)
    new = write_run(tmp_path / "new", content, rows, scores)
    result = compare_runs(new, golden, **options)
    told = json.loads((new / "differences.json").read_text())
    assert len(told["differences"]) == sum(result.counts.values())
    assert told["counts"] == result.by_place()
    assert not list(new.glob(".*.partial"))
    return result, told["differences"]


def test_equal_runs_do_not_differ_and_were_compared(tmp_path):
    result, told = compared(tmp_path)
    assert result.same
    assert told == []
    assert result.compared == {DETECTIONS: 5, CHATTER: 5, DIAGNOSTICS: 1, "ledger.csv": 5, "metrics.json": 3}


def test_a_field_is_named_with_both_values(tmp_path):
    stamp_ns = START_NS + 2 * PERIOD_NS
    result, (told,) = compared(tmp_path, replaced(4, detections(stamp_ns, 103.0)))
    assert result.counts == {(DETECTIONS, "value"): 1}
    assert told["field"] == "detections[0].bbox.center.position.x"
    assert (told["new"], told["golden"]) == (123.0, 122.0)
    assert (told["stamp_ns"], told["log_ns"]) == (stamp_ns, stamp_ns + 20_000_000)


def test_another_number_of_boxes_is_one_difference(tmp_path):
    _, (told,) = compared(tmp_path, replaced(4, detections(START_NS + 2 * PERIOD_NS, 102.0, count=3)))
    assert (told["field"], told["new"], told["golden"], told["note"]) == ("detections", 3, 1, "lengths")


def test_floats_within_the_tolerance_are_equal(tmp_path):
    content = replaced(4, detections(START_NS + 2 * PERIOD_NS, 102.0005))
    assert compared(tmp_path / "loose", content, tolerance=Tolerance(0.001, 0.0))[0].same
    assert not compared(tmp_path / "tight", content, tolerance=Tolerance(0.0001, 0.0))[0].same


def test_messages_that_are_missing_or_extra_are_named(tmp_path):
    content = messages()
    del content[4]
    extra_ns = START_NS + 7 * PERIOD_NS
    content.append((DETECTIONS, extra_ns + 5, detections(extra_ns)))
    result, told = compared(tmp_path, content)
    assert result.counts == {(DETECTIONS, "missing"): 1, (DETECTIONS, "extra"): 1}
    assert {row["kind"]: row["stamp_ns"] for row in told} == {
        "missing": START_NS + 2 * PERIOD_NS,
        "extra": extra_ns,
    }


def test_two_messages_of_one_stamp_are_told_apart(tmp_path):
    twice = [*messages(), (DETECTIONS, START_NS + 9 * PERIOD_NS, detections(START_NS, 100.0))]
    result, (told,) = compared(tmp_path, twice)
    assert result.counts == {(DETECTIONS, "extra"): 1}
    assert told["log_ns"] == START_NS + 9 * PERIOD_NS


def test_a_topic_that_is_missing_or_extra_is_named(tmp_path):
    golden = write_run(tmp_path / "golden", [row for row in messages() if row[0] != DIAGNOSTICS])
    new = write_run(tmp_path / "new", [row for row in messages() if row[0] != CHATTER])
    assert compare_runs(new, golden).counts == {
        (CHATTER, "missing_topic"): 1,
        (DIAGNOSTICS, "extra_topic"): 1,
    }


def test_texts_are_exact_and_matched_by_order_without_a_header(tmp_path):
    result, (told,) = compared(tmp_path, replaced(3, chatter("frame one")))
    assert result.counts == {(CHATTER, "value"): 1}
    assert (told["field"], told["new"], told["golden"]) == ("data", "frame one", "frame 1")


def test_another_time_of_publishing_differs_unless_it_is_named_volatile(tmp_path):
    content = replaced(4, detections(START_NS + 2 * PERIOD_NS, 102.0), shift_ns=1000)
    _result, (told,) = compared(tmp_path / "strict", content)
    assert (told["field"], told["new"] - told["golden"]) == ("log_ns", 1000)
    assert compared(tmp_path / "lax", content, volatile=(*VOLATILE, "*:log_ns"))[0].same


def test_only_what_is_named_is_volatile(tmp_path):
    stamp_ns = messages()[-1][1]
    other_device = replaced(-1, diagnostics(stamp_ns, device="cuda:0", received=5))
    assert compared(tmp_path / "default", other_device)[0].same
    _result, told = compared(tmp_path / "none", other_device, volatile=())
    assert {row["field"] for row in told} == {
        "status[0:/camera_detector].hardware_id",
        "status[0:/camera_detector].values[0:device].value",
    }
    other_count = replaced(-1, diagnostics(stamp_ns, received=4))
    _, (told,) = compared(tmp_path / "count", other_count)
    assert told["field"] == "status[0:/camera_detector].values[1:received].value"


def test_outcomes_and_scores_are_compared(tmp_path):
    rows = [ledger_row(n) for n in range(5)]
    rows[3] = ledger_row(3, "superseded", reason="a newer one came")
    scores = [{DETECTIONS: {"ap50": value, "classes": {"car": 0.7}}} for value in (0.5, 0.6)]
    _result, told = compared(tmp_path, rows=rows, scores=scores[0], golden_scores=scores[1])
    outcome = next(row for row in told if row["kind"] == "outcome")
    assert outcome["field"] == f"{STREAM}[3].outcome"
    assert (outcome["new"], outcome["golden"], outcome["note"]) == (
        "superseded",
        "published",
        "a newer one came",
    )
    assert {row["field"] for row in told if row["kind"] == "metric"} == {
        f"streams.{STREAM}.states.published",
        f"streams.{STREAM}.states.superseded",
        f"scores.{DETECTIONS}.ap50",
    }


def test_an_outcome_of_a_message_that_only_one_run_received(tmp_path):
    _result, told = compared(tmp_path, rows=[ledger_row(n) for n in range(4)])
    outcome = next(row for row in told if row["kind"] == "outcome")
    assert (outcome["field"], outcome["new"], outcome["golden"]) == (
        f"{STREAM}[4].outcome",
        None,
        "published",
    )


def test_the_table_shows_a_few_and_counts_all(tmp_path):
    content = [
        (topic, log_ns, chatter("[red]other") if topic == CHATTER else data)
        for topic, log_ns, data in messages(20)
    ]
    golden = write_run(tmp_path / "golden", messages(20))
    result = compare_runs(write_run(tmp_path / "new", content), golden)
    assert result.counts == {(CHATTER, "value"): 20}
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison_table(result))
    text = console.file.getvalue()
    assert text.count("[red]other") == 5
    assert "... and 15 more" in text


def test_what_is_no_run_is_refused_with_its_name(tmp_path):
    new = write_run(tmp_path / "new")
    with pytest.raises(ConfigError, match=r"golden=.*contains no bag"):
        compare_runs(new, tmp_path / "nowhere")
    golden = write_run(tmp_path / "golden")
    (golden / "metrics.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"metrics.json: not the metrics of a replay"):
        compare_runs(new, golden)
    assert not (new / "differences.json").exists()
    with pytest.raises(ConfigError, match="volatile='log_ns'"):
        compare_runs(new, golden, volatile=["log_ns"])


def test_a_golden_bag_that_cannot_be_read_is_an_error(tmp_path):
    new, golden = write_run(tmp_path / "new"), write_run(tmp_path / "golden")
    (file,) = (golden / "bag").glob("*.mcap")
    file.write_bytes(b"not a recording")
    with pytest.raises(BagError):
        compare_runs(new, golden)


# Parts.


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True), st.randoms())
def test_matching_pairs_exactly_the_common_keys(left, right, chance):
    def items(keys):
        return iter(sorted(Item(key * 10 + chance.randrange(20), key, key) for key in keys))

    pairs = list(matched(items(left), items(right), window_ns=1000))
    assert sorted(a for a, b in pairs if a == b) == sorted({*left} & {*right})
    assert sorted(a for a, b in pairs if b is None) == sorted({*left} - {*right})
    assert sorted(b for a, b in pairs if a is None) == sorted({*right} - {*left})


def test_matching_gives_up_beyond_the_window():
    pairs = matched(iter([Item(0, "a", 1)]), iter([Item(50, "b", 2), Item(101, "a", 3)]), window_ns=100)
    assert list(pairs) == [(1, None), (None, 2), (None, 3)]


def test_numbering_counts_and_forgets():
    numbering = Numbering()
    assert [numbering.number("a", t) for t in (0, 1, 2)] == [0, 1, 2]
    for second in range(1000):
        assert numbering.number(("b", second), second * 1_000_000_000) == 0
    assert len(numbering._seen) < 20


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("/t:pose.x", "pose.x", True),
        ("/t:pose", "pose.x", True),
        ("/t:pose.x", "pose.xy", False),
        ("/t:a[*].b", "a[3].b", True),
        ("/t:a.b", "a[3:name].b", True),
        ("/t:a[3].b", "a[2].b", False),
        ("/t:*.b", "a[2].c.b", True),
        ("/t:a.*.b", "a[0:name].b", True),
        ("/t:a.*.b", "a[0].c[1].b", True),
        ("/t:a.*.b", "a[0].bc", False),
        ("/t:a.*.b", "ab.b", False),
        ("/u:*", "a", False),
        ("*:a", "a[0]", True),
    ],
)
def test_volatile_patterns(pattern, path, ignored):
    assert ignore_paths([pattern])("/t", path) is ignored


def test_arrays_name_the_worst_element_and_how_many():
    golden = {"k": np.array([1.0, 2.0, np.nan, 4.0])}
    new = {"k": np.array([1.5, 2.0, np.nan, 6.0])}
    (leaf,) = differing(new, golden, Tolerance(), lambda path: False)
    assert leaf == ("k[3]", 6.0, 4.0, "2 of 4 elements")
    (leaf,) = differing(
        {"k": np.zeros(2, np.uint8)}, {"k": np.zeros(3, np.uint8)}, Tolerance(), lambda path: False
    )
    assert leaf == ("k", 2, 3, "lengths")


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_a_tolerance_is_as_it_says(new, golden):
    alike = not list(differing([new], [golden], Tolerance(0.5, 0.25), lambda path: False))
    if np.isnan(new) or np.isnan(golden):
        assert alike == (np.isnan(new) and np.isnan(golden))
    elif np.isinf(new) or np.isinf(golden):
        assert alike == (new == golden)
    else:
        assert alike == (abs(new - golden) <= 0.5 + 0.25 * abs(golden))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_cannot_be_is_refused(value):
    with pytest.raises(ConfigError, match="tolerance absolute"):
        Tolerance(absolute=value)


def test_types_are_not_mixed_up():
    assert list(differing({"a": True}, {"a": 1}, Tolerance(), lambda path: False))
    assert list(differing({"a": None}, {"a": 0.0}, Tolerance(), lambda path: False))
    assert not list(differing({"a": 1}, {"a": 1.0}, Tolerance(), lambda path: False))
    assert list(differing(SimpleNamespace(), 3, Tolerance(), lambda path: False))


def test_memory_does_not_grow_with_the_bags(tmp_path):
    """Peak memory of comparing 1 000 and 20 000 messages, all different, each in a process of its own."""
    code = """
        import resource, sys
        from pathlib import Path
        from perception_rt.replay.compare import compare_runs
        found = compare_runs(Path(sys.argv[1]), Path(sys.argv[2]))
        print(sum(found.counts.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks = []
    for count in (500, 10_000):
        new = write_run(tmp_path / f"new{count}", messages(count, 20_000_000))
        golden = write_run(tmp_path / f"golden{count}", messages(count, 30_000_000))
        argv = [sys.executable, "-c", textwrap.dedent(code), str(new), str(golden)]
        output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        assert int(output[0]) > 2 * count
        peaks.append(int(output[1]) / 1024)
    assert peaks[1] - peaks[0] < 60, f"peak memory, MB: {peaks}"
