"""The demo's graph under every fault of `bench.soak`, once each, in about a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.soak import NAMES, PATIENCE_S, SHM

from ..domains import claim_domain  # noqa: TID252


@pytest.mark.parametrize("minutes", ["0.5"])
def test_the_graph_answers_after_every_fault_and_its_ledgers_are_exact(tmp_path, minutes):
    domain, lock = claim_domain()
    path = tmp_path / "soak.json"
    with lock:
        done = subprocess.run(
            [sys.executable, "-m", "bench.soak", "--minutes", minutes, "--out", path],
            env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    rows = {row["name"]: row["value"] for row in json.loads(path.read_text())["rows"]}
    for name in ("crashes", "ledger_violations", "pending_at_the_end", "unanswered_calls"):
        assert rows[f"soak/{name}"] == 0, done.stdout + done.stderr
    answers = {name: value for name, value in rows.items() if name.startswith("soak/answers_after/")}
    assert len(answers) >= len(set(NAMES) - {SHM}) + 1
    assert max(answers.values()) < PATIENCE_S, answers
