from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from perception_rt.replay.batch import (
    BatchPlan,
    ProgressLines,
    UnitResult,
    batch_table,
    exit_code,
    find_bags,
    merge_runs,
    name_bags,
    read_progress,
    run_batch,
)
from perception_rt.replay.batch.progress import Progress, parse_progress
from perception_rt.replay.batch.run import REPLAY
from perception_rt.types import BagError, ConfigError
from test.runs import DETECTIONS, STREAM, ledger_row, metrics_of, write_run

ROOT = Path(__file__).parents[2]
STAND_IN = '''
"""Stands in for the replay of one bag: does what the bag's file says."""
import json, os, signal, sys, time
from pathlib import Path
from perception_rt.replay.batch import ProgressLines
from test.runs import ledger_row, write_run

bag, out = Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--out") + 1])
assert sys.argv[-2:] == ["--progress", "json"]
orders = json.loads((bag / "metadata.yaml").read_text())
tell = ProgressLines(2.0, sys.stderr)
tell(0.0)
pids = out.with_name(out.name + ".pids")
with pids.open("a") as file:
    print(os.getpid(), os.environ["OMP_NUM_THREADS"], *sorted(os.sched_getaffinity(0)), file=file)
attempt = len(pids.read_text().splitlines())
(out).mkdir()
(out / "half").write_text("done")
if attempt <= orders.get("kills_itself", 0):
    os.kill(os.getpid(), signal.SIGKILL)
gate = orders.get("waits_for")
while gate and not Path(gate).exists():
    time.sleep(0.02)
if orders.get("says"):
    print(orders["says"], file=sys.stderr)
code = orders.get("code", 0)
if code in (0, 1, 3):
    (out / "half").unlink()
    out.rmdir()
    write_run(out, rows=[ledger_row(n, age_ms=age) for n, age in enumerate(orders.get("ages", [20.0]))])
    (out / "run.json").write_text(json.dumps({"exit_code": code}))
tell(2.0)
sys.exit(code)
'''


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Runs a batch of stand-ins; gives the outcomes by name, and what was said."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def run(
        orders: dict[str, dict], plan: BatchPlan | None = None, arguments=lambda name: ["--config", "none"]
    ):
        for name, order in orders.items():
            folder = tmp_path / "bags" / name
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(order)
            if not (folder / "metadata.yaml").exists() or (folder / "metadata.yaml").read_text() != text:
                (folder / "metadata.yaml").write_text(text)
        bags = find_bags([tmp_path / "bags"])
        console = Console(file=io.StringIO(), width=200)
        program = [sys.executable, str(script)]
        outcomes = run_batch(bags, tmp_path / "out", arguments, plan or BatchPlan(jobs=2), console, program)
        return {outcome.name: outcome for outcome in outcomes}, console.file.getvalue()

    run.out = tmp_path / "out"
    return run


def started(out: Path, name: str) -> list[list[int]]:
    """Of every process that was started for a bag: its id, its threads, its cores."""
    path = out / f"{name}.pids"
    return [[int(n) for n in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


# Finding bags.


def test_bags_are_found_wherever_they_lie(tmp_path):
    for folder in ("b/drive", "a/deep/er/drive", ".hidden/drive", "out/done/bag", "cut"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("b/drive", "a/deep/er/drive", ".hidden/drive", "out/done/bag"):
        (tmp_path / folder / "metadata.yaml").write_text("x")
        (tmp_path / folder / "drive_0.mcap").write_text("x")
    (tmp_path / "out/done/ledger.csv").write_text("x")
    for file in ("cut/cut_0.mcap", "cut/cut_1.mcap", "b/bare.mcap", "b/old.db3", "b/notes.txt"):
        (tmp_path / file).write_text("x")
    (tmp_path / "b/loop").symlink_to(tmp_path)
    expected = ["a/deep/er/drive", "b/bare.mcap", "b/drive", "b/old.db3", "cut"]
    assert [str(bag.relative_to(tmp_path)) for bag in find_bags([tmp_path])] == expected
    assert find_bags([tmp_path], skip=tmp_path / "a") == [tmp_path / path for path in expected[1:]]


def test_bags_are_taken_once_and_in_order(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.yaml").write_text("x")
    assert find_bags([tmp_path / "b", tmp_path]) == [tmp_path / "b", tmp_path / "a"]


def test_a_path_without_a_bag_is_an_error(tmp_path):
    with pytest.raises(BagError, match="nowhere: no such bag"):
        find_bags([tmp_path / "nowhere"])
    with pytest.raises(BagError, match=r"no bag in it; a bag is"):
        find_bags([tmp_path])


def test_names_are_short_and_differ():
    paths = ["/d/one/drive", "/d/two/drive", "/d/two/other.mcap", "/d/x/same", "/d/x/same.mcap", "/e/x/same"]
    names = name_bags([Path(path) for path in paths])
    assert names[:3] == ["one-drive", "two-drive", "other"]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)


# Progress.


def test_progress_is_written_and_read(tmp_path):
    log = tmp_path / "log"
    assert read_progress(log) is None
    with log.open("w") as file:
        lines = ProgressLines(60.0, file)
        for done in range(61):
            lines(float(done))
        print('a warning\n{"done_s": nonsense', file=file)
    assert read_progress(log) == Progress(60.0, 60.0)
    assert len([1 for line in log.read_text().splitlines() if parse_progress(line)]) < 61


@pytest.mark.parametrize(
    "line", ["", "warning", "{}", '{"done_s": 1}', '{"done_s": "x", "total_s": 2}', '{"done_s": 1.0, "to']
)
def test_other_lines_are_no_progress(line):
    assert parse_progress(line) is None


# Running.


def test_every_bag_is_replayed_into_its_folder(batch):
    outcomes, said = batch({"one": {}, "two": {"code": 3}, "three": {"code": 1}})
    assert {name: (o.state, o.exit_code, o.attempts) for name, o in outcomes.items()} == {
        "one": ("done", 0, 1),
        "two": ("done", 3, 1),
        "three": ("done", 1, 1),
    }
    assert (batch.out / "one/run.json").is_file()
    assert "two: done, exit code 3" in said
    assert exit_code(list(outcomes.values())) == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be shared out")
def test_bags_at_work_have_cores_of_their_own(batch, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for cores that no other batch of this machine takes
    gate, share = tmp_path / "gate", len(os.sched_getaffinity(0)) // 2
    opener = threading.Thread(
        target=lambda: (
            wait_for(lambda: started(batch.out, "one") and started(batch.out, "two")),
            gate.write_text(""),
        )
    )
    opener.start()
    batch({name: {"waits_for": str(gate)} for name in ("one", "two")}, BatchPlan(jobs=2))
    opener.join()
    (_, *one), (_, *two) = (started(batch.out, name)[0] for name in ("one", "two"))
    assert [one[0], len(one[1:])] == [two[0], len(two[1:])] == [share, share]
    assert not {*one[1:]} & {*two[1:]}


def test_a_bag_that_cannot_be_used_is_reported_and_stops_no_other(batch):
    outcomes, said = batch({"bad": {"code": 2, "says": "replay: bad: not a bag"}, "good": {}})
    bad = outcomes["bad"]
    assert (bad.state, bad.exit_code, bad.attempts, bad.reason) == ("failed", 2, 1, "replay: bad: not a bag")
    assert outcomes["good"].state == "done"
    assert "bad: failed: replay: bad: not a bag" in said
    assert exit_code(list(outcomes.values())) == 2


def test_a_crash_without_a_result_is_a_failure_whatever_its_code(batch):
    outcomes, _ = batch({"crash": {"code": 70, "says": "Traceback: [/red]boom"}})
    assert (outcomes["crash"].state, outcomes["crash"].reason) == ("failed", "Traceback: [/red]boom")
    console = Console(file=io.StringIO(), width=120)
    console.print(batch_table(list(outcomes.values())))
    assert "[/red]boom" in console.file.getvalue()


def test_what_is_done_is_skipped_and_what_changed_is_done_anew(batch, tmp_path):
    config = tmp_path / "config.yaml"
    bundle = tmp_path / "bundle.pt"
    config.write_text(f"camera_detector: {{ros__parameters: {{bundle: {bundle}}}}}")
    bundle.write_text("weights")
    orders = {"one": {}, "two": {"code": 3}}

    def states(name_orders=orders, more=()):
        outcomes, said = batch(name_orders, arguments=lambda name: ["--config", str(config), *more])
        return {name: outcome.state for name, outcome in outcomes.items()}, outcomes, said

    assert states()[0] == {"one": "done", "two": "done"}
    again, outcomes, said = states()
    assert again == {"one": "skipped", "two": "skipped"}
    assert outcomes["two"].exit_code == 3
    assert "one: done before, skipped, exit code 0" in said
    assert states({"one": {"code": 1}})[0] == {"one": "done", "two": "skipped"}  # another recording
    assert states(orders)[0]["one"] == "done"
    bundle.write_text("others!")
    assert states()[0] == {"one": "done", "two": "done"}  # another bundle, that the config names
    assert states(more=["--truth", "/t"])[0] == {"one": "done", "two": "done"}  # another argument
    (batch.out / "one/run.json").unlink()
    assert states(more=["--truth", "/t"])[0] == {"one": "done", "two": "skipped"}  # half done
    (batch.out / "two/run.json").write_text(json.dumps({"exit_code": 0, "arguments": "others"}))
    assert states(more=["--truth", "/t"])[0] == {"one": "skipped", "two": "done"}  # done by another


def test_a_folder_of_our_name_where_one_works_is_not_what_runs(tmp_path):
    """As in a workflow that checks this package out beside its recordings."""
    (tmp_path / "perception_rt" / "cli").mkdir(parents=True)
    told = subprocess.run([*REPLAY, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stderr) == (0, "")
    assert "--compare" in told.stdout


def test_an_unrelated_folder_is_left_alone(batch):
    (batch.out / "one").mkdir(parents=True)
    (batch.out / "one/thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="one: exists and is not from a batch"):
        batch({"one": {}})
    (batch.out / "one.log").write_text("a log of mine")
    with pytest.raises(ConfigError, match="not from a batch"):
        batch({"one": {}})
    assert (batch.out / "one/thesis.tex").read_text() == "years of work"


def test_the_recording_is_never_written_over(tmp_path):
    bag = tmp_path / "drive"
    bag.mkdir()
    (bag / "metadata.yaml").write_text("x")
    (tmp_path / "drive.log").write_text("")
    with pytest.raises(ConfigError, match="is where the recording"):
        run_batch([bag], tmp_path, lambda name: [], BatchPlan(), Console(file=io.StringIO()))
    assert (bag / "metadata.yaml").read_text() == "x"


@pytest.mark.parametrize("bad", [{"jobs": 0}, {"retries": -1}])
def test_a_plan_that_cannot_be_is_refused(bad):
    with pytest.raises(ConfigError, match="must be >="):
        BatchPlan(**bad)


# Killed workers.


def kill_when_it_waits(out: Path, name: str) -> threading.Thread:
    """Kill the process of a bag's first attempt by SIGKILL, while it works."""

    def work():
        pid = wait_for(lambda: started(out, name))[0][0]
        wait_for((out / name / "half").exists)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_killed_worker_is_started_again(batch, tmp_path):
    gate = tmp_path / "gate"
    killer = kill_when_it_waits(batch.out, "one")
    opener = threading.Thread(
        target=lambda: (wait_for(lambda: len(started(batch.out, "one")) == 2), gate.write_text(""))
    )
    opener.start()
    outcomes, said = batch({"one": {"waits_for": str(gate)}, "two": {}})
    killer.join()
    opener.join()
    assert (outcomes["one"].state, outcomes["one"].attempts) == ("done", 2)
    assert outcomes["two"].attempts == 1
    assert "one: done at attempt 2" in said
    assert not (batch.out / "one/half").exists()


def test_a_worker_that_is_always_killed_is_given_up_and_the_others_go_on(batch):
    outcomes, said = batch({"one": {"kills_itself": 99}, "two": {}}, BatchPlan(jobs=1, retries=2))
    assert (outcomes["one"].state, outcomes["one"].attempts) == ("failed", 3)
    assert outcomes["one"].reason == "killed by SIGKILL"
    assert outcomes["two"].state == "done"
    assert "one: failed in 3 attempts: killed by SIGKILL" in said
    assert exit_code(list(outcomes.values())) == 2


def test_the_work_ends_with_the_batch(batch, tmp_path):
    """A batch that is killed leaves no process that goes on writing; a batch that is interrupted neither."""
    code = f"""
        import sys
        from pathlib import Path
        from perception_rt.replay.batch import BatchPlan, find_bags, run_batch
        bags = find_bags([Path({str(tmp_path / "bags")!r})])
        run_batch(bags, Path({str(batch.out)!r}), lambda name: [], BatchPlan(), None,
                  [sys.executable, {str(tmp_path / "stand_in.py")!r}])
    """
    folder = tmp_path / "bags/one"
    folder.mkdir(parents=True)
    (folder / "metadata.yaml").write_text(json.dumps({"waits_for": str(tmp_path / "never")}))
    for number, end in enumerate((signal.SIGKILL, signal.SIGINT), start=1):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.DEVNULL)
        pids = wait_for(lambda n=number: len(started(batch.out, "one")) == n and started(batch.out, "one"))
        assert alive(pids[-1][0])
        process.send_signal(end)
        process.wait(30)
        wait_for(lambda pid=pids[-1][0]: not alive(pid))


# On Ray.


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="needs the extra `ray`")


def test_ray_does_the_same_work_and_survives_killed_workers(ray, batch, tmp_path):
    """One bag loses its command, one its Ray worker, one is always killed, one is bad, one is good."""
    gate = tmp_path / "gate"
    killer = kill_when_it_waits(batch.out, "command")

    def kill_worker():
        pid = wait_for(lambda: started(batch.out, "worker"))[0][0]
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert "ray::" in Path(f"/proc/{parent}/cmdline").read_text()
        os.kill(parent, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
        wait_for(lambda: len(started(batch.out, "worker")) == 2 and len(started(batch.out, "command")) == 2)
        gate.write_text("")

    worker_killer = threading.Thread(target=kill_worker)
    worker_killer.start()
    waits = {"waits_for": str(gate)}
    orders = {"command": waits, "worker": waits, "doomed": {"kills_itself": 99}}
    orders |= {"bad": {"code": 2, "says": "not a bag"}, "good": {"code": 3}}
    cores = len(os.sched_getaffinity(0))
    outcomes, _ = batch(orders, BatchPlan(jobs=cores, ray="", retries=1))
    killer.join()
    worker_killer.join()
    assert {name: (o.state, o.exit_code, o.attempts) for name, o in outcomes.items()} == {
        "command": ("done", 0, 2),
        "worker": ("done", 0, 2),
        "doomed": ("failed", None, 2),
        "bad": ("failed", 2, 1),
        "good": ("done", 3, 1),
    }
    again, _ = batch(orders, BatchPlan(jobs=cores, ray="", retries=0))
    assert [again[name].state for name in ("command", "worker", "good")] == ["skipped"] * 3


def test_a_cluster_that_is_not_there_is_an_error(ray, batch):
    with pytest.raises(ConfigError, match=r"--ray 127.0.0.1:1: no cluster answers"):
        batch({"one": {}}, BatchPlan(ray="127.0.0.1:1"))


def test_without_ray_one_is_told_how_to_install_it(tmp_path):
    """In a process in which Ray cannot be imported."""
    code = "import sys; sys.modules['ray'] = None; import perception_rt.replay.batch.on_ray"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "ConfigError: --ray: " in result.stderr
    assert "pip install 'perception_rt[ray]'" in result.stderr


# Merging.


def merged(tmp_path, runs: dict[str, tuple[list, dict]]):
    outcomes = []
    for name, (rows, scores) in runs.items():
        write_run(tmp_path / name, rows=rows, scores=scores)
        outcomes.append(UnitResult(name, tmp_path / "bags" / name, "done", 0, 1))
    outcomes.append(UnitResult("lost", tmp_path / "bags/lost", "failed", None, 3, "killed by SIGKILL"))
    whole = merge_runs(tmp_path, outcomes)
    assert json.loads((tmp_path / "metrics.json").read_text()) == whole
    return whole


def test_counts_are_summed_and_percentiles_are_those_of_all_messages(tmp_path):
    rng = random.Random(1)
    rows = {
        name: [
            ledger_row(n, rng.choice(["published", "published", "late"]), round(rng.uniform(5, 90), 6))
            for n in range(size)
        ]
        for name, size in (("a", 40), ("b", 300))
    }
    whole = merged(tmp_path, {name: (of, {}) for name, of in rows.items()})
    stream, all_rows = whole["streams"][STREAM], [row for of in rows.values() for row in of]
    assert stream["received"] == 340
    counts = Counter(row["outcome"] for row in all_rows)
    assert {state: n for state, n in stream["states"].items() if n} == counts
    ages = sorted(row["age_ms"] for row in all_rows if row["outcome"] == "published")
    rank = {f"p{q}": ages[-(-q * len(ages) // 100) - 1] for q in (50, 90, 99)} | {"max": ages[-1]}
    assert stream["age_ms"] == {name: round(value, 3) for name, value in rank.items()}
    assert stream["stages_ms"]["decode"] == {"p50": 2.0, "p99": 2.0, "max": 2.0}
    assert whole["bag"]["messages"] == 340
    assert whole["outputs"][DETECTIONS]["messages"] == counts["published"]
    assert whole["bags"]["a"]["outputs"] == {DETECTIONS: "0" * 64}
    assert whole["bags"]["lost"] == {"exit_code": None, "failed": True, "reason": "killed by SIGKILL"}


def test_a_recording_without_the_topic_does_not_lower_its_rate(tmp_path):
    for name, count, rate_hz, duration_s in (
        ("a", 20, 10.0, 2.0),
        ("b", 20, 5.0, 4.0),
        ("without", 0, 0.0, 9.0),
    ):
        path = write_run(tmp_path / name, rows=[ledger_row(n) for n in range(count)]) / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["streams"][STREAM]["rate_hz"] = rate_hz
        metrics["bag"]["duration_s"] = duration_s
        path.write_text(json.dumps(metrics))
    outcomes = [UnitResult(name, tmp_path / "bags" / name, "done", 0, 1) for name in ("a", "b", "without")]
    stream = merge_runs(tmp_path, outcomes)["streams"][STREAM]
    assert (stream["received"], stream["rate_hz"]) == (40, 6.667)


def test_scores_are_weighted_by_what_they_are_about(tmp_path):
    def scores(boxes, ap50, mota, truths):
        row = {"kind": "detections", "truth": {"name": "/t", "frames": 10, "boxes": boxes}}
        row["as_seen"] = {
            "ap50": ap50,
            "unanswered": 1,
            "per_class": {"car": {"ap50": ap50, "truths": boxes}},
        }
        row["tracking"] = {"mota": mota, "truths": truths, "id_switches": 2, "curve": [1, truths]}
        return {DETECTIONS: row}

    rows = [ledger_row(0)]
    whole = merged(tmp_path, {"a": (rows, scores(30, 0.9, 0.5, 100)), "b": (rows, scores(10, 0.5, 1.0, 300))})
    found = whole["scores"][DETECTIONS]
    assert found["as_seen"]["ap50"] == pytest.approx((30 * 0.9 + 10 * 0.5) / 40)
    assert found["as_seen"]["per_class"]["car"]["truths"] == 40
    assert found["as_seen"]["unanswered"] == 2
    assert found["tracking"] == {"mota": 0.875, "truths": 400, "id_switches": 4}  # exact: 50 errors of 400
    assert found["truth"] == {"name": "/t", "frames": 20, "boxes": 40}
    assert (found["kind"], found["bags"]) == ("detections", 2)
    assert "mean" in found["merged"]
    assert "curve" not in whole["bags"]["a"]["scores"][DETECTIONS]["tracking"]


def test_a_score_that_one_bag_does_not_know_is_that_of_the_others(tmp_path):
    rows = [ledger_row(0)]
    runs = {
        "a": (rows, {"/t": {"ap50": None, "x": None}}),
        "b": (rows, {"/t": {"ap50": 0.5}}),
        "c": (rows, {}),
    }
    found = merged(tmp_path, runs)["scores"]["/t"]
    assert (found["ap50"], found["x"], found["bags"]) == (0.5, None, 2)


def test_merged_metrics_have_the_shape_of_single_ones(tmp_path):
    whole = merged(tmp_path, {"a": ([ledger_row(0)], {})})
    single = metrics_of([ledger_row(0)])
    assert single.keys() <= whole.keys()
    assert whole["streams"][STREAM].keys() == single["streams"][STREAM].keys()
    assert whole["bag"].keys() == single["bag"].keys()


def test_a_run_without_metrics_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone/metrics.json: not a replay's metrics"):
        merge_runs(tmp_path, [UnitResult("gone", tmp_path, "done", 0, 1)])


@pytest.mark.parametrize(
    ("codes", "worst"), [([0, 0], 0), ([0, 3], 3), ([3, 1, 0], 1), ([1, None, 3], 2), ([], 0)]
)
def test_the_exit_code_is_the_worst_of_the_bags(codes, worst):
    outcomes = [
        UnitResult(str(i), Path(str(i)), "failed" if code is None else "done", code, 1)
        for i, code in enumerate(codes)
    ]
    assert exit_code(outcomes) == worst
