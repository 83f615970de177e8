"""Measure how the age depends on the start: twenty starts at random phase to the sensor.

    python -m bench.phase            # virtual time and real topics, about five minutes
    python -m bench.phase --virtual  # virtual time alone, a second

A naive timer adds up to one period of age, differently at each start. Each start gives a median age; the rows
are the spread of the medians over the starts, the part of the forward in it, and the spread that medians of
so few frames have by chance. The naive timer is simulated beside it. Writes `out/bench/phase.json`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.command import command, use_private_graph
from bench.rows import Row, row, table_of, write_rows
from perception_rt.realtime.scheduler import FixedRateScheduler

OUT = Path("out/bench/phase.json")
STARTS, RATES = 20, (10.0, 30.0)
FORWARD_MS = 12.0
JITTER_MS = 3.0  # on average, of frames that come late
RUN_S, SETTLED_S = 20.0, 10.0
DEALS = 200  # of all ages to the starts at random


def ages_of(
    rate_hz: float, phase_s: float, drift: float, late_ms: Callable[[], float] = lambda: 0.0
) -> np.ndarray:
    """Return the settled ages of one start in virtual time, ms; the first tick is `phase_s` before a frame.

    Args:
        rate_hz: of timer and sensor.
        phase_s: of the sensor against the start.
        drift: by which the sensor's period differs, as a share.
        late_ms: by how much the next frame is late, ms.
    """
    scheduler, ages = FixedRateScheduler(rate_hz), []
    period, forward = 1e9 / rate_hz * (1 + drift), round(FORWARD_MS * 1e6)
    due = [0.0, *(phase_s * 1e9 + k * period for k in range(1, round(RUN_S * rate_hz)))]
    arrivals = sorted(round(time_ns + late_ms() * 1e6) for time_ns in due)
    now, waiting = 0, None
    while arrivals:
        while arrivals and arrivals[0] <= now:
            waiting = arrivals.pop(0)
        if scheduler.poll(now, waiting):
            now += forward
            scheduler.finished(now)
            if now > SETTLED_S * 1e9:
                ages.append((now - waiting) / 1e6)
            waiting = None
            continue
        events = [t for t in (scheduler.wake_ns(waiting), arrivals[0] if arrivals else None) if t is not None]
        now = max(now, min(events)) if events else now
    return np.array(ages)


def spread(medians: list[float]) -> float:
    """Return the difference between the greatest and the least median, ms."""
    return max(medians) - min(medians)


def spread_by_chance(starts: list[np.ndarray], seed: int = 1) -> float:
    """Return the spread that the medians have on average if the start decides nothing, ms.

    Args:
        starts: ages of each start, ms. They are dealt out again at random, to groups of the same sizes.
    """
    rng, pool = np.random.default_rng(seed), np.concatenate(starts)
    ends = np.cumsum([len(ages) for ages in starts])[:-1]
    deals = ([float(np.median(part)) for part in np.split(rng.permutation(pool), ends)] for _ in range(DEALS))
    return float(np.mean([spread(medians) for medians in deals]))


def virtual_rows(seed: int = 1) -> list[Row]:
    """Return the spreads in virtual time, with a naive timer beside."""
    rng, rows = random.Random(seed), []
    for rate in RATES:
        starts = [(rng.random() / rate, rng.uniform(-2e-4, 2e-4)) for _ in range(STARTS)]
        ours = [float(np.median(ages_of(rate, *start))) for start in starts]
        naive = [FORWARD_MS + 1e3 * phase for phase, _ in starts]  # waits from the frame to the next tick
        prefix = f"phase/virtual/{rate:g}_hz"
        uneven = [
            float(np.median(ages_of(rate, *start, lambda: rng.expovariate(1 / JITTER_MS))))
            for start in starts
        ]
        rows += [
            row(f"{prefix}/median_age_spread_ms", spread(ours), "ms", "<= 2"),
            row(f"{prefix}/naive_timer_spread_ms", spread(naive), "ms"),
            row(f"{prefix}/jitter_{JITTER_MS:g}_ms/median_age_spread_ms", spread(uneven), "ms", "<= 2"),
        ]
    return rows


def topic_rows(seconds: float, console: Console) -> list[Row]:
    """Return the spreads on real topics: the node is activated at a random moment, again and again."""
    from bench.camera import feed
    from bench.inputs import model
    from bench.pipeline import MeasuredCamera, active, running

    rng, rows = random.SystemRandom(), []
    with tempfile.TemporaryDirectory() as folder, running(MeasuredCamera, bundle=model(OUT.parent)) as node:
        frames = feed("720p", Path(folder))
        with frames.sensor(dict(os.environ)) as sensor:
            sensor.wait_until_heard()
            for rate in RATES:
                sensor.rate(rate)
                whole, forward = [], []  # ages, and forwards, of each start
                for start in range(STARTS):
                    time.sleep(rng.random() / rate)
                    with active(node, rate):
                        time.sleep(1.0)
                        answers = node.answered(seconds)
                    whole.append(np.array([a.published_ns - a.stamp_ns for a in answers]) / 1e6)
                    forward.append(np.array([a.infer_ns for a in answers]) / 1e6)
                    console.print(
                        f"{rate:g} Hz, start {start + 1} of {STARTS}: median {np.median(whole[-1]):.2f} ms, "
                        f"of the forward {np.median(forward[-1]):.2f} ms"
                    )
                beyond = [ages - infer for ages, infer in zip(whole, forward, strict=True)]
                medians, forwards, beyonds = (
                    [float(np.median(v)) for v in of] for of in (whole, forward, beyond)
                )
                prefix = f"phase/topics/{rate:g}_hz"
                rows += [
                    row(f"{prefix}/median_age_spread_ms", spread(medians), "ms", "<= 2"),
                    row(f"{prefix}/median_age_ms", float(np.median(medians)), "ms"),
                    # What the phase decides; the forward differs by what else the machine does.
                    row(f"{prefix}/beyond_forward_spread_ms", spread(beyonds), "ms"),
                    row(f"{prefix}/forward_spread_ms", spread(forwards), "ms"),
                    row(f"{prefix}/by_chance_spread_ms", spread_by_chance(whole), "ms"),
                ]
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--virtual", action="store_true", help="virtual time alone")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each start (default 4)")
    args = parser.parse_args(argv)
    use_private_graph()
    return command(lambda: measure(args, Console()))


def measure(args: argparse.Namespace, console: Console) -> None:
    """Run both parts."""
    rows = virtual_rows()
    if not args.virtual:
        from perception_rt.node.run import keep_large_blocks

        keep_large_blocks()
        rows += topic_rows(args.seconds, console)
    write_rows(OUT, rows)
    console.print(table_of(rows))
    console.print(f"written: {OUT}")


if __name__ == "__main__":
    sys.exit(main())
