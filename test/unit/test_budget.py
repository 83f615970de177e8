from __future__ import annotations

import io

import pytest
from rich.console import Console

from perception_rt.replay.budget import Budget, budget_table, check_budgets, parse_budget
from perception_rt.types import ConfigError
from test.runs import STREAM, ledger_row, metrics_of

OTHER = "/vehicle_state: /imu"
SCORES = {
    "/camera_detector/detections": {
        "kind": "detections",
        "truth": {"frames": 10, "boxes": 40},
        "as_seen": {
            "ap50": 0.75,
            "ap50_95": 0.5,
            "per_class": {"car": {"ap50": 0.9}, "cyclist": {"ap50": None}},
        },
        "streaming": {"ap50": 0.6},
        "calibration": {"ece": 0.05},
    },
    "/object_tracker/tracks": {"tracking": {"mota": 0.8, "id_switches": 3}, "as_seen": {"ap50": 0.7}},
    "/vehicle_state/odometry": {
        "rmse": {"position_m": 0.4},
        "rate_hz": 100.0,
        "ellipses": {"within_95": 0.93},
    },
}


def metrics() -> dict:
    outcomes = {2: ledger_row(2, "superseded"), 7: ledger_row(7, "late")}
    whole = metrics_of([outcomes.get(n, ledger_row(n, age_ms=20.0 + n)) for n in range(10)], SCORES)
    imu = metrics_of([])["streams"][STREAM]
    whole["streams"][OTHER] = imu | {"node": "/vehicle_state", "topic": "/imu"}
    return whole


def check(text: str):
    return check_budgets([parse_budget(text)], metrics())


def only(text: str):
    (result,) = check(text)
    return result


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("age_p99=60", Budget(None, "age_p99", None, 60.0)),
        (" age_p99 <= 60 ", Budget(None, "age_p99", False, 60.0)),
        ("ap50>=0.6", Budget(None, "ap50", True, 0.6)),
        ("/fusion:lost=1%", Budget("/fusion", "lost", None, 1.0, percent=True)),
        ("/cam: /image_raw: rate_min=9.5", Budget("/cam: /image_raw", "rate_min", None, 9.5)),
        ("per_class.car.ap50=0.5", Budget(None, "per_class.car.ap50", None, 0.5)),
        ("x=-1e-3", Budget(None, "x", None, -0.001)),
    ],
)
def test_grammar(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("age_p99", "write "),
        ("age_p99=", "write "),
        ("=60", "write "),
        ("age_p99==60", "is not a number"),
        ("age_p99=fast", "limit 'fast' is not a number"),
        ("age_p99=nan", "limit 'nan' is not a number"),
        ("age_p99=inf", "limit 'inf' is not a number"),
        ("age_p99=60%", "only lost, "),
    ],
)
def test_what_is_no_budget_is_refused(text, why):
    with pytest.raises(ConfigError, match="budget=") as error:
        parse_budget(text)
    assert why in str(error.value)


def test_a_budget_without_a_stream_is_about_all_and_no_data_fails():
    first, second = check("age_p99=60")
    assert first == (f"{STREAM}: age_p99", 29.0, "<= 60 ms", True)
    assert second == (f"{OTHER}: age_p99", None, "<= 60 ms", False)


@pytest.mark.parametrize("stream", ["/camera_detector", "/camera/image_raw", STREAM, STREAM.replace(" ", "")])
def test_a_stream_is_meant_by_node_topic_or_both(stream):
    assert only(f"{stream}:age_max<=28.9") == (f"{STREAM}: age_max", 29.0, "<= 28.9 ms", False)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("lost=2", 2, True),
        ("lost=1", 2, False),
        ("lost=20%", 20.0, True),
        ("lost=19.9%", 20.0, False),
        ("superseded=0", 1, False),
        ("late=1", 1, True),
        ("unsynced=0", 0, True),
        ("published=9", 8, False),
        ("unaccounted=0", 0, True),
        ("rate_min=10", 10.0, True),
        ("rate_min=10.1", 10.0, False),
        ("infer_p99=2", 2.0, True),
        ("wait_p50=0.5", 1.0, False),
        ("age_p50>=30", 25.0, False),
    ],
)
def test_metrics_of_streams(text, value, holds):
    result = only(f"/camera_detector:{text}")
    assert (result.value, result.holds) == (value, holds)


@pytest.mark.parametrize(
    "metric", ["lost=0", "lost=5%", "unaccounted=0", "rate_min=0", "wait_p50=9", "late=0"]
)
def test_a_stream_that_received_nothing_holds_no_budget(metric):
    whole = metrics()
    stage = dict.fromkeys(("wait", "decode", "infer", "publish"))
    whole["streams"][OTHER]["stages_ms"] = stage
    (result,) = check_budgets([parse_budget(f"/imu:{metric}")], whole)
    assert (result.value, result.holds) == (None, False)


def test_messages_without_an_end_are_unaccounted():
    whole = metrics()
    whole["streams"][STREAM]["received"] += 3
    (result,) = check_budgets([parse_budget(f"{STREAM}: unaccounted=0")], whole)
    assert (result.value, result.holds) == (3, False)


def test_what_could_not_be_read_is_of_the_whole_recording():
    assert only("unreadable=0") == ("unreadable", 0, "<= 0", True)


def test_scores_have_a_natural_direction():
    assert [r.name for r in check("ap50=0.72")] == [
        "/camera_detector/detections: as_seen.ap50",
        "/object_tracker/tracks: as_seen.ap50",
    ]
    assert [r.holds for r in check("ap50=0.72")] == [True, False]
    assert only("ece=0.04") == ("/camera_detector/detections: calibration.ece", 0.05, "<= 0.04", False)
    assert only("position_m=0.5") == ("/vehicle_state/odometry: rmse.position_m", 0.4, "<= 0.5", True)
    assert only("id_switches=3").holds
    assert only("mota<=0.7").holds is False


def test_scores_are_meant_by_the_end_of_their_path():
    assert only("streaming.ap50=0.6").holds
    assert only("/camera_detector/detections: per_class.car.ap50=0.95").holds is False
    assert only("/camera_detector: streaming.ap50=0.6").holds
    assert only("cyclist.ap50=0.1") == (
        "/camera_detector/detections: as_seen.per_class.cyclist.ap50",
        None,
        ">= 0.1",
        False,
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("age_p98=1", "no such metric; the metrics are: age_p50,"),
        ("ap51=1", "the scores are: as_seen.ap50, "),
        ("/absent:age_p99=1", f"no such stream; the streams are: {STREAM}, {OTHER}"),
        ("/absent:ap50=1", "no such scored topic; the scored topics are: /camera_detector/detections, "),
        ("/vehicle_state/odometry:ap50=1", "has only: rmse.position_m, rate_hz, "),
        ("within_95=0.9", "write <= or >="),
    ],
)
def test_what_is_not_there_is_listed(text, why):
    with pytest.raises(ConfigError) as error:
        check(text)
    assert why in str(error.value)


def test_an_ambiguous_score_is_not_guessed():
    whole = metrics_of([ledger_row(0)], {"/t": {"a": {"hota": 0.1}, "b": {"hota": 0.9}}})
    with pytest.raises(ConfigError, match=r"/t has several, choose one of: a.hota, b.hota"):
        check_budgets([parse_budget("hota=0.5")], whole)


def test_without_ground_truth_there_is_no_score():
    with pytest.raises(ConfigError, match="need --truth"):
        check_budgets([parse_budget("ap50=0.5")], metrics_of([ledger_row(0)]))


def test_the_table_tells_all():
    console = Console(file=io.StringIO(), width=120)
    console.print(budget_table(check("age_p99=60")))
    text = console.file.getvalue()
    assert "29" in text
    assert "<= 60 ms" in text
    assert "no data" in text


def test_without_truth_a_score_is_refused_before_anything_is_replayed():
    assert parse_budget("lost=1%", scored=False) == parse_budget("lost=1%")
    assert parse_budget("unreadable=0", scored=False).metric == "unreadable"
    with pytest.raises(ConfigError, match=r"ap50>=0.6.*age_p99.*need --truth"):
        parse_budget("ap50>=0.6", scored=False)
    with pytest.raises(ConfigError, match=r"agep99=60.*no such metric"):
        parse_budget("agep99=60", scored=False)
