"""The report's parts: a ledger on its grid, charts, the choice of frames, the verdict."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from perception_rt.codec import DetectionEncoder
from perception_rt.realtime.ledger import Outcome
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.budget import BudgetResult
from perception_rt.replay.report import charts, findings_of, svg, write_index, write_report
from perception_rt.replay.report import ledger as ledgers
from perception_rt.replay.report.box_statistics import BoxStatistics
from perception_rt.replay.report.choose import ARRAY_2D, SensorStream, choose, sensors_of
from perception_rt.replay.report.findings import box_findings
from perception_rt.replay.report.graph import graph_chart
from perception_rt.replay.report.ledger import MOMENTS, OUTCOMES, read_ledger
from perception_rt.replay.report.quality import AnswerQuality
from perception_rt.replay.report.scores import headlines, score_sections
from perception_rt.replay.report.streams import stages_of, stream_sections
from perception_rt.replay.report.summary import judge
from perception_rt.replay.report.timeline import timeline_of
from perception_rt.types import ConfigError, Detections2D
from test.replayed import COLUMNS, row, streams_of, write_ledger

START = 1_700_000_000_000_000_001
NODE, TOPIC = "/camera_detector", "/image_raw"
STREAM = f"{NODE}: {TOPIC}"
HOSTILE = "/<script>alert('x')</script>&\"'"


def some_rows(count: int, topic: str = TOPIC) -> list[dict]:
    """Ages from 20 ms up; every fifth message is lost."""
    made = []
    for n in range(count):
        arrival = START + n * 100_000_000
        if n % 5 == 4:
            made.append(row(NODE, topic, n, arrival, arrival - 1_000_000, Outcome.SUPERSEDED, None))
        else:
            published = arrival + 19_000_000 + n % 100 * 1_000_000
            made.append(row(NODE, topic, n, arrival, arrival - 1_000_000, Outcome.PUBLISHED, published))
    return made


def metrics_of(rows: list[dict]) -> dict:
    return {
        "format": 1,
        "streams": streams_of(rows),
        "bag": {
            "duration_s": 2.0,
            "messages": len(rows),
            "topics": {},
            "missing_topics": {},
            "unreadable": {"messages": 0, "reasons": {}},
            "faults": {},
        },
        "bundles": {},
        "outputs": {},
        "scores": {},
    }


def write_run(folder: Path, rows: list[dict], metrics: dict | None = None) -> Path:
    folder.mkdir()
    write_ledger(folder / "ledger.csv", rows)
    (folder / "metrics.json").write_text(json.dumps(metrics or metrics_of(rows)))
    return folder


def test_a_ledger_on_its_grid_counts_every_message(tmp_path):
    rows = some_rows(1000)
    write_ledger(tmp_path / "ledger.csv", rows)
    view = read_ledger(tmp_path / "ledger.csv")
    stream = view.streams[STREAM]
    assert view.start_ns == START  # all 19 digits
    assert stream.outcomes.sum(1).tolist() == [800, 200, *([0] * (len(OUTCOMES) - 2))]
    assert view.duration_s == pytest.approx(99.9)
    np.testing.assert_allclose(stream.outcomes.sum(0), 1000 / MOMENTS, atol=1.5)  # as evenly as they came
    assert stream.times["age"].total == 800
    assert len(stream.times["age"].points) == 0  # a long run keeps none


def test_percentiles_of_the_grid_are_those_of_the_values(tmp_path):
    rows = some_rows(5000)
    write_ledger(tmp_path / "ledger.csv", rows)
    age = read_ledger(tmp_path / "ledger.csv").streams[STREAM].times["age"]
    values = np.array([made["age_ms"] for made in rows if made["age_ms"] != ""])
    for q in (50, 90, 99):
        assert age.percentile_of_all(q) == pytest.approx(np.percentile(values, q), rel=0.024)
    assert np.nanmax(age.greatest) == values.max()
    assert (age.percentile(99) <= age.greatest).all()


def test_chunks_make_no_difference(tmp_path, monkeypatch):
    write_ledger(tmp_path / "ledger.csv", some_rows(500))
    whole = read_ledger(tmp_path / "ledger.csv").streams[STREAM]
    monkeypatch.setattr(ledgers, "_CHUNK_ROWS", 7)
    parts = read_ledger(tmp_path / "ledger.csv").streams[STREAM]
    np.testing.assert_array_equal(whole.outcomes, parts.outcomes)
    np.testing.assert_array_equal(whole.times["infer"].points, parts.times["infer"].points)
    assert whole.reasons == parts.reasons
    assert whole.oldest == parts.oldest


def test_reasons_that_differ_in_numbers_alone_count_as_one(tmp_path):
    write_ledger(tmp_path / "ledger.csv", some_rows(100))
    (reason,) = read_ledger(tmp_path / "ledger.csv").streams[STREAM].reasons.items()
    assert reason == (("superseded", "message 5 came before its turn"), 20)


def test_reasons_without_end_are_pooled(tmp_path):
    rows = some_rows(500)
    for n, made in enumerate(rows):
        made["reason"] = f"reason {chr(97 + n % 26)}{chr(97 + n // 26)}"
    write_ledger(tmp_path / "ledger.csv", rows)
    reasons = read_ledger(tmp_path / "ledger.csv").streams[STREAM].reasons
    assert len(reasons) <= 50
    assert sum(reasons.values()) == 500


def test_what_could_not_be_read_counts_by_its_number_and_needs_no_time(tmp_path):
    lump = dict.fromkeys(COLUMNS, "") | {"node": "bag", "topic": "/t", "number": 17, "outcome": "unreadable"}
    write_ledger(tmp_path / "ledger.csv", [*some_rows(10), lump | {"reason": "a damaged chunk"}])
    view = read_ledger(tmp_path / "ledger.csv")
    assert view.streams["bag: /t"].reasons == {("unreadable", "a damaged chunk"): 17}
    assert view.streams[STREAM].rows == 10


def test_a_topic_may_be_called_na(tmp_path):
    write_ledger(tmp_path / "ledger.csv", some_rows(5, topic="NA"))
    assert list(read_ledger(tmp_path / "ledger.csv").streams) == [f"{NODE}: NA"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\n" + "x" * 20 + "\n"])
def test_what_is_no_ledger_is_said(tmp_path, text):
    (tmp_path / "ledger.csv").write_text(text)
    with pytest.raises(ConfigError, match="not a replay's ledger"):
        read_ledger(tmp_path / "ledger.csv")


def test_an_unknown_outcome_is_said(tmp_path):
    rows = some_rows(3)
    rows[1]["outcome"] = "vanished"
    write_ledger(tmp_path / "ledger.csv", rows)
    with pytest.raises(ConfigError, match="vanished"):
        read_ledger(tmp_path / "ledger.csv")


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (0, 47.3, False), (0, 1e5, False), (18, 50, True), (0.01, 1e6, True)],
)
def test_an_axis_has_some_ticks_and_not_too_many(low, high, log):
    ticks = svg.x_scale(low, high, log).ticks()
    assert 2 <= len(ticks) <= 9
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in ticks)


def test_whole_numbers_have_whole_ticks():
    assert svg.y_scale(0, 2.1, whole=True).ticks() == [0, 1, 2]


@pytest.mark.parametrize("count", [3, 2000])
def test_charts_are_sound_markup_within_their_frame(tmp_path, count):
    write_ledger(tmp_path / "ledger.csv", some_rows(count, topic=HOSTILE))
    view = read_ledger(tmp_path / "ledger.csv")
    (stream,) = view.streams.values()
    for chart in (
        charts.outcomes_chart(view, stream),
        charts.age_chart(view, stream),
        charts.age_histogram(stream),
        charts.stages_chart(view, stream, ["wait", "infer"]),
        charts.stages_histogram(stream, ["wait", "infer"]),
        charts.ahead_chart(HOSTILE, [0.5, 1.0], [0.1, 0.3]),
        charts.curves_chart(HOSTILE, {HOSTILE: ([0, 1], [1, 0.5])}),
        charts.reliability_chart(HOSTILE, [0.5, 0.9], [0.4, 1.0], [3, 4]),
    ):
        parsed = ElementTree.fromstring(chart)
        assert "script" not in {part.tag for part in parsed.iter()}
        assert HOSTILE in parsed.get("aria-label")
        assert "nan" not in chart.lower()
        assert any(part.tag == "title" for part in parsed.iter())


def test_times_that_never_change_are_told_in_figures_and_not_drawn(tmp_path):
    rows = some_rows(40)
    for made in rows:
        if made["age_ms"] != "":
            made |= {"age_ms": 25.0, "wait_ms": 0.0, "infer_ms": 20.0, "decode_ms": 0.0, "publish_ms": 0.0}
    write_ledger(tmp_path / "ledger.csv", rows)
    view = read_ledger(tmp_path / "ledger.csv")
    stream = view.streams[STREAM]
    assert stream.times["age"].constant == 25.0
    assert stages_of(stream) == ["infer"]
    (section,) = stream_sections(streams_of(rows), view)
    assert [part.title for part in section["charts"]] == [
        "Outcomes by arrival",
        "Age at publishing",
        "In figures, ms",
    ]
    rows[0]["age_ms"] = 25.002
    write_ledger(tmp_path / "ledger.csv", rows)
    assert read_ledger(tmp_path / "ledger.csv").streams[STREAM].times["age"].constant is None


def test_a_run_that_published_nothing_has_a_report(tmp_path):
    rows = [made for made in some_rows(20) if made["outcome"] == "superseded"]
    folder = write_run(tmp_path / "run", rows)
    write_report(folder)
    text = (folder / "report.html").read_text()
    assert "4 of 4" in text
    assert (folder / "report.png").stat().st_size > 10_000


def test_an_empty_run_says_that_nothing_came(tmp_path):
    folder = write_run(tmp_path / "run", [])
    write_report(folder)
    assert "No node received a message" in (folder / "report.html").read_text()


def test_names_and_reasons_are_text_and_never_markup(tmp_path):
    rows = some_rows(20, topic=HOSTILE)
    for made in rows:
        made["reason"] = made["reason"] and HOSTILE
    metrics = metrics_of(rows)
    metrics["bag"]["topics"] = {HOSTILE: {"type": HOSTILE, "messages": 20, "used_by": [HOSTILE]}}
    metrics["bag"]["missing_topics"] = {HOSTILE: [HOSTILE]}
    metrics["bag"]["unreadable"] = {"messages": 1, "reasons": {HOSTILE: 1}}
    metrics["bundles"] = {HOSTILE: dict.fromkeys(("name", "task", "sha256"), HOSTILE)}
    metrics["outputs"] = {HOSTILE: {"type": HOSTILE, "node": HOSTILE, "messages": 1, "sha256": HOSTILE}}
    metrics["scores"] = {HOSTILE: {"truth": {"name": HOSTILE}, HOSTILE: {HOSTILE: 1.0}}}
    folder = write_run(tmp_path / "run", rows, metrics)
    write_report(
        folder,
        run={HOSTILE: HOSTILE, "bag": HOSTILE},
        checks=[BudgetResult(HOSTILE, HOSTILE, HOSTILE, False)],
    )
    write_index(tmp_path, [folder])
    for page in (folder / "report.html", tmp_path / "index.html"):
        own = 2 if page.name == "report.html" else 0  # the timeline's data and its program
        assert page.read_text().count("<script") == own
    assert "&lt;script&gt;" in (folder / "report.html").read_text()


def test_the_timeline_has_every_message_with_its_outcome_and_reason(tmp_path):
    rows = some_rows(40)
    write_ledger(tmp_path / "ledger.csv", rows)
    timeline = timeline_of(tmp_path / "ledger.csv", read_ledger(tmp_path / "ledger.csv"), metrics_of(rows))
    (stream,) = timeline["data"]["streams"]
    assert stream["t"] == [100 * n for n in range(40)]
    assert [OUTCOMES[o] for o in stream["o"]] == [made["outcome"] for made in rows]
    assert stream["texts"][stream["x"][4]] == "message 5 came before its turn"
    assert stream["texts"][stream["x"][0]] == "20 ms old"
    (lane,) = timeline["rows"]
    assert lane["svg"].count("v8") == 32
    assert lane["svg"].count("v20") == 8


def test_a_long_stream_and_sensor_faults_keep_the_timeline_small(tmp_path):
    rows = some_rows(6000)
    write_ledger(tmp_path / "ledger.csv", rows)
    metrics = metrics_of(rows)
    fault = {"sensor": TOPIC, "what": HOSTILE, "level": "ERROR", "begin_s": 60.0, "end_s": None}
    metrics["health"] = {"findings": [fault]}
    timeline = timeline_of(tmp_path / "ledger.csv", read_ledger(tmp_path / "ledger.csv"), metrics)
    (stream,) = timeline["data"]["streams"]
    assert len(stream["t"]) <= 2 * MOMENTS
    assert len(json.dumps(timeline, default=str)) < 50_000
    bar = ElementTree.fromstring(timeline["rows"][1]["svg"])[0]
    assert float(bar.get("x")) == pytest.approx(100.0, abs=1)
    assert float(bar.get("x")) + float(bar.get("width")) == pytest.approx(1000, abs=1)


def test_the_graph_leads_from_sensors_to_outputs_with_rates_and_ages():
    metrics = metrics_of(some_rows(20))
    metrics["bag"]["topics"] = {
        TOPIC: {"type": "sensor_msgs/msg/Image", "messages": 20, "used_by": [NODE]},
        HOSTILE: {"type": "x", "messages": 4, "used_by": [NODE]},
        "/unused": {"type": "x", "messages": 4, "used_by": []},
    }
    output = {"type": "x", "node": NODE, "messages": 16, "sha256": ""}
    metrics["outputs"] = {"/out": output, "/diagnostics": output | {"node": ""}}
    drawn = ElementTree.fromstring(graph_chart(metrics))
    left = {group[0].text: float(group[1].get("x")) for group in drawn if group.tag == "g"}
    assert left[TOPIC] == left[HOSTILE] < left[NODE] < left["/out"]
    assert set(left) == {TOPIC, HOSTILE, NODE, "/out"}
    texts = {part.text for part in drawn.iter("text")}
    assert "10.0 Hz" in texts
    assert "8.0 Hz" in texts
    assert any(f"{text}".startswith("age p50/p99 ") for text in texts)
    assert {part[0].text for part in drawn if part.tag == "path"} == {
        f"{TOPIC}: 16 of 20 published", f"{NODE} subscribes to {HOSTILE}", f"{NODE} publishes /out",
    }  # fmt: skip


def test_a_graph_with_a_loop_ends():
    metrics = metrics_of(some_rows(5))
    metrics["outputs"] = {TOPIC: {"type": "x", "node": NODE, "messages": 5, "sha256": ""}}
    ElementTree.fromstring(graph_chart(metrics))


def test_the_verdict_names_what_is_wrong():
    rows = some_rows(20)
    good = metrics_of(rows)
    assert judge(good, ()).level == "good"
    assert "16 published, 4 superseded" in judge(good, ()).text

    lost = metrics_of(rows)
    lost["streams"][STREAM]["received"] += 2
    assert judge(lost, ()).level == "bad"
    assert "2 of 22 messages are not accounted for" in judge(lost, ()).text

    gaps = metrics_of(rows)
    gaps["bag"]["missing_topics"] = {"/imu": ["/vehicle_state"]}
    assert judge(gaps, ()).level == "warn"
    assert "/imu" in judge(gaps, ()).text


def statistics_of(**given) -> BoxStatistics:
    made = {"frames": 50, "boxes": 150, "compared": 48, "compared_boxes": 144} | given
    return BoxStatistics(made.pop("kind", "detections"), NODE, **made)


def lives(count: int, life_ms: int) -> dict[str, tuple[int, int]]:
    return {str(n): (n * 10_000_000, n * 10_000_000 + life_ms * 1_000_000) for n in range(count)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ""),
        (
            {"boxes": 1100, "compared_boxes": 1056, "single": 912},
            "/d: 22 boxes a frame, of which 19 live for one frame: raise the score threshold?",
        ),
        ({"boxes": 1100, "compared_boxes": 1056, "single": 400}, ""),
        ({"boxes": 30, "compared_boxes": 28, "single": 28}, ""),  # few: any street flickers a little
        ({"compared": 5, "compared_boxes": 110, "single": 95}, ""),
        ({"crowded": 40, "crowd": 11}, "up to 11 boxes on one object, three or more in 40 of 50 frames"),
        ({"crowded": 2, "crowd": 11}, ""),
        ({"boxes": 0, "compared_boxes": 0}, "no box in 50 frames"),
        ({"boxes": 0, "compared_boxes": 0, "frames": 8, "compared": 6}, ""),
        (
            {"kind": "tracks", "end_ns": 20_000_000_000, "lives_ns": lives(40, 300)},
            "40 ids in 20 s, of which 40",
        ),
        ({"kind": "tracks", "end_ns": 20_000_000_000, "lives_ns": lives(40, 900)}, ""),
        ({"kind": "tracks", "end_ns": 500_000_000, "lives_ns": lives(40, 100)}, ""),  # it ended too soon
    ],
)
def test_a_finding_about_boxes_needs_its_cause(given, said):
    found = list(box_findings({"/d": statistics_of(**given)}))
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_fusion_without_a_match_is_found_where_the_detectors_found_something():
    fused = statistics_of(kind="fused")
    assert "none of 150 objects" in next(box_findings({"/d": statistics_of(), "/f": fused}))
    assert not list(box_findings({"/f": fused}))
    assert not list(box_findings({"/d": statistics_of(), "/f": statistics_of(kind="fused", matched=1)}))


def boxes_run(folder: Path, frames: list[np.ndarray]) -> Path:
    """A run whose camera detector published these (N, 4) boxes every 100 ms."""
    topic = f"{NODE}/detections"
    encoder = DetectionEncoder(("car",))
    rows = some_rows(40)
    metrics = metrics_of(rows)
    metrics["outputs"] = {topic: {"type": ARRAY_2D, "node": NODE, "messages": len(frames), "sha256": ""}}
    write_run(folder, rows, metrics)
    with BagWriter(folder / "bag") as bag:
        for n, xyxy in enumerate(frames):
            stamp_ns, count = START + n * 100_000_000, len(xyxy)
            found = Detections2D(
                xyxy.astype(np.float32), np.full(count, 0.5, np.float32), np.zeros(count, np.int64)
            )
            bag.write(topic, ARRAY_2D, stamp_ns, encoder.encode(found, stamp_ns, "camera"))
    return folder


CAR = np.array([[100.0, 100, 200, 180]])


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (lambda n: CAR + 5 * n, "Good."),
        (lambda n: np.repeat(CAR, 11, 0) + np.arange(11)[:, None], "Up to 11 boxes on one object"),
        (
            lambda n: np.concatenate((CAR, CAR + 300 + 150 * np.arange(n % 2, 8, 2)[:, None])),
            "5 boxes a frame, of which 4 live for one frame",
        ),
        (lambda n: CAR[:0], "no box in 40 frames"),
    ],
)
def test_the_page_judges_the_boxes_of_the_output_bag(tmp_path, frame, said):
    folder = boxes_run(tmp_path / "run", [frame(n) for n in range(40)])
    write_report(folder)
    verdict = (folder / "report.html").read_text().partition('class="verdict')[2].partition("</div>")[0]
    assert said.lower() in verdict.replace("</strong>", "").lower()
    assert ("Good" in verdict) == (said == "Good.")


def test_old_outputs_sensor_faults_and_losses_are_found(tmp_path):
    rows = [made for made in some_rows(100) if made["outcome"] == "published"]
    metrics = metrics_of(rows)
    metrics["bag"] |= {"duration_s": 8.0, "topics": {TOPIC: {"type": "sensor_msgs/msg/Image"}}}
    assert findings_of(tmp_path, metrics) == []
    metrics["bag"]["duration_s"] = 4.0
    fault = {"sensor": TOPIC, "what": "the image is frozen", "level": "ERROR", "begin_s": 1.0, "end_s": None}
    metrics["health"] = {"findings": [fault]}
    old, frozen = findings_of(tmp_path, metrics)
    assert "ms old when published, longer than the sensor's period of 50 ms" in old
    assert frozen == f"{TOPIC}: the image is frozen, from 1.0 s to the end (error)"
    metrics["streams"][STREAM]["states"] |= {"published": 10, "superseded": 70}
    assert "70 of 80 messages are lost (superseded" in findings_of(tmp_path, metrics)[0]
    assert judge(metrics, (), findings_of(tmp_path, metrics)).level == "warn"


def test_folders_that_are_none_are_said(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.json: no such file"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="replay again"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text("[")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_report(tmp_path)


def test_an_index_has_a_row_for_every_run_and_says_which_failed(tmp_path):
    good = write_run(tmp_path / "good", some_rows(20))
    (good / "run.json").write_text(json.dumps({"exit_code": 0, "speed": 2.5}))
    write_report(good)
    half = write_run(tmp_path / "half", some_rows(10))
    write_index(tmp_path, [good, half, tmp_path / "gone"])
    text = (tmp_path / "index.html").read_text()
    assert 'href="good/report.html"' in text
    assert "not complete" in text
    assert "no results" in text
    assert "1 of 3 are good" in text
    assert "2.50 ×" in text


class NoOutputs:
    topics = ()


def test_the_best_and_the_worst_of_each_part_are_chosen(tmp_path):
    write_ledger(tmp_path / "ledger.csv", some_rows(100))
    view = read_ledger(tmp_path / "ledger.csv")
    sensor = SensorStream(NODE, TOPIC, "sensor_msgs/msg/Image", None, "")
    rights = {10: 9, 20: 1, 60: 8, 90: 2}
    judged = [
        AnswerQuality(
            START + n * 100_000_000, START + n * 100_000_000 + 5, right, 10 - right, 0, np.zeros((0, 4))
        )
        for n, right in rights.items()
    ]
    choices = choose(view, NoOutputs(), sensor, 2, judged)
    found = [
        (choice.why, (choice.near_ns - START) // 100_000_000)
        for choice in choices
        if choice.truth is not None
    ]
    assert found == [("best", 10), ("best", 60), ("worst", 20), ("worst", 90)]
    lost = [choice for choice in choices if choice.lost]
    assert {choice.why for choice in lost} == {"superseded"}
    assert all(choice.detail for choice in lost)


def test_sensors_know_their_outputs():
    metrics = {
        "bag": {
            "topics": {
                "/a/image": {"type": "sensor_msgs/msg/Image"},
                "/b/points": {"type": "sensor_msgs/msg/PointCloud2"},
            }
        },
        "streams": {
            "1": {"node": "/l", "topic": "/b/points"},
            "2": {"node": "/c", "topic": "/a/image"},
            "3": {"node": "/f", "topic": "/l/detections"},
        },
        "outputs": {
            "/c/a/detections": {"type": "vision_msgs/msg/Detection2DArray"},
            "/l/detections": {"type": "vision_msgs/msg/Detection3DArray"},
        },
    }
    camera, lidar = sensors_of(metrics)
    assert (camera.output, lidar.output) == ("/c/a/detections", "/l/detections")


def test_scores_become_cards_and_tables():
    scores = {
        "/d": {
            "kind": "detections",
            "truth": {"name": "/truth", "frames": 3, "boxes": 9},
            "as_seen": {"ap50": 0.5, "per_class": {"car": {"ap50": 0.5}}, "curves": {"car": [1.0] * 101}},
            "at_publish": {"ap50": 0.4, "per_class": {}},
            "streaming": {"ap50": None, "per_class": {}},
            "calibration": {
                "ece": 0.1,
                "detections": 5,
                "bins": [{"confidence": 0.5, "right": 0.6, "count": 5}],
            },
        },
        "/tracks": {"tracking": {"mota": 0.8, "idf1": 0.7, "hota": None}},
        "/custom": {"deep": {"deeper": {"value": 3}}},
    }
    assert [line.value for line in headlines(scores)] == ["0.500", "0.800"]
    detections, _, custom = score_sections(scores)
    assert [chart.title.split(",")[0] for chart in detections["charts"]] == [
        "Precision over recall",
        "Reliability",
    ]
    cells = {cell for table in detections["tables"] for line in table["rows"] for cell in line}
    assert {"as seen", "at publish", "streaming", "car", "0.400", "–"} <= cells
    assert custom["tables"][0]["rows"] == [("deeper", "3")]


@pytest.mark.parametrize(("count", "first"), [(6, "0.1 s"), (19, "0.1 s"), (30, "0.3 s")])
def test_long_tables_of_times_ahead_are_thinned_and_end_with_the_last(count, first):
    ellipses = {"count": 4, "within_95": 1.0, "nees": 0.5, "nees_expected": 2, "without_covariance": 0}
    horizons = {
        f"{k / 10:g}": {"count": 4, "mean_m": k / 100, "ellipses": ellipses} for k in range(1, count + 1)
    }
    (section,) = score_sections({"/v/predictions": {"ade_m": 0.1, "fde_m": 0.2, "horizons": horizons}})
    assert [chart.title for chart in section["charts"]] == ["Mean error by prediction horizon"]
    assert section["charts"][0].svg.count("<circle") == count
    rows = section["tables"][-1]["rows"]
    assert len(rows) <= 10
    assert (rows[0][0], rows[-1][0]) == (first, f"{count / 10:g} s")
    assert section["tables"][-1]["head"] == ("", "count", "mean_m", "within_95", "nees")


def test_differences_show_the_digits_in_which_values_differ(tmp_path):
    folder = write_run(tmp_path / "run", some_rows(10))
    difference = {
        "kind": "value", "where": "/t", "field": "x", "new": 38.02149, "golden": 38.02249, "log_ns": START,
        "stamp_ns": None, "note": "",
    }  # fmt: skip
    section = difference | {"kind": "metric", "new": {"curve": [0.125] * 500}, "golden": None}
    lines = ",\n".join(json.dumps(one) for one in (difference, section))
    (folder / "differences.json").write_text('{"differences": [\n' + lines + "\n]}\n")
    write_report(folder, checks=[BudgetResult("differences", 1, "<= 0", False)])
    text = (folder / "report.html").read_text()
    assert "38.02149" in text
    assert "38.02249" in text
    assert 5 < text.count("0.125") < 20


def test_what_could_not_be_read_is_told_once(tmp_path):
    rows, reason = some_rows(10), "drive.mcap: chunk at byte 17: CRC"
    metrics = metrics_of(rows)
    metrics["bag"]["unreadable"] = {"messages": 4, "reasons": {reason: 4}}
    lump = {"node": "bag", "topic": "", "number": 4, "outcome": "unreadable", "reason": reason}
    folder = write_run(tmp_path / "run", [*rows, dict.fromkeys(COLUMNS, "") | lump], metrics)
    write_report(folder)
    text = (folder / "report.html").read_text()
    assert text.count(reason) == 1
    assert 'class="verdict warn"' in text


def test_faults_that_cost_nothing_are_told(tmp_path):
    rows = some_rows(10)
    metrics = metrics_of(rows)
    metrics["bag"]["faults"] = {"metadata.yaml: says 12 messages": 1}
    folder = write_run(tmp_path / "run", rows, metrics)
    write_report(folder)
    text = (folder / "report.html").read_text()
    assert "metadata.yaml: says 12 messages" in text
    assert 'class="verdict good"' in text


def test_memory_stays_flat_with_a_long_ledger(tmp_path):
    """Its grid is all that is kept."""
    import tracemalloc

    path = tmp_path / "ledger.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for _ in range(30):
            writer.writerows(some_rows(10_000))
    tracemalloc.start()
    try:
        view = read_ledger(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert view.streams[STREAM].outcomes.sum() == 300_000
    assert held < 5e6
    assert peak < 150e6
