"""Whether a learned residual of ego prediction beats CTRA on drives that it has not seen.

Both start from the filter's own states, on simulated drives and on a real one of comma2k19. Ahead of each
moment lies the same path; only the residual is between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.ego_comma2k19 import CONFIG, drive, errors_ahead
from bench.ego_simulated import ORIGIN, measurements
from bench.rows import Row, row
from perception_rt.model.runtime import PathRuntime, Runtime
from perception_rt.replay.comma2k19 import read_segment
from perception_rt.sim.drive import Drive
from perception_rt.stage.ego_prediction import predict_path
from perception_rt.stage.ego_residual import refine_path
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic
from perception_rt.train.drives import evaluation_seeds
from perception_rt.types.state import EgoPath, VehicleState

DRIVES = 60
NOWS_S = (8.0, 12.0, 16.0, 19.9)
AHEAD_S = (1, 2, 3)
EVERY = 2  # poses of comma2k19 come at 20 Hz, histories at 10 Hz


def residual_rows(bundle: Path | str, segment: Path | None = None) -> list[Row]:
    """RMSE of the place 1, 2, 3 s ahead, of CTRA and refined.

    Args:
        bundle: of task `predict`. segment: of comma2k19; None leaves it out.
    """
    runtime = Runtime.open(bundle, "cpu")
    rows = _rows("sim", *simulated(runtime, evaluation_seeds(DRIVES)))
    return rows if segment is None else rows + _rows("comma2k19", *recorded(runtime, segment))


def simulated(runtime: PathRuntime, seeds: Sequence[int]) -> tuple[list[float], list[float]]:
    """RMSE of CTRA and of the refined path, m, for each of AHEAD_S, on simulated drives."""
    errors: tuple[list, list] = ([], [])
    steps = [round(seconds / runtime.manifest.input.step_s) for seconds in AHEAD_S]
    for seed in seeds:
        simulation = Drive(seed, (64, 64))
        for states, begin in histories(simulation, seed, runtime):
            path = predict_path(states[-1])
            now = states[-1].stamp_ns * 1e-9
            later = [simulation.ego(now + seconds) for seconds in AHEAD_S]
            truth = np.array([[ego.x, ego.y] for ego in later]) - begin
            for kept, what in zip(errors, (path, refined(path, states, runtime)), strict=True):
                kept.append(what.states[steps, :2] - truth)
    plain, better = (np.sqrt((np.array(kept) ** 2).sum(-1).mean(0)).tolist() for kept in errors)
    return plain, better


def histories(
    simulation: Drive, seed: int, runtime: PathRuntime
) -> Iterator[tuple[list[VehicleState], np.ndarray]]:
    """The filter's last states before each of NOWS_S, each as it was known then, and its frame's origin."""
    spec = runtime.manifest.input
    rows = {round((now - spec.step_s * back) * 1e9): back for now in NOWS_S for back in range(spec.rows)}
    ego, states = VehicleStateFilter(VehicleStateConfig()), []
    for measurement in measurements(simulation, seed):
        for stamp in sorted(stamp for stamp in rows if stamp < measurement.stamp_ns):
            states.append(ego.state_at(stamp))
            if rows.pop(stamp) == 0:
                yield states, enu_from_geodetic(np.array(ego.estimate.place.origin), ORIGIN)[:2]
                states = []
        ego.add(measurement)


def recorded(runtime: PathRuntime, path: Path) -> tuple[list[float], list[float]]:
    """The same on a segment of comma2k19."""
    segment = read_segment(path)
    ego, states = drive(segment)
    origin = np.array(ego.estimate.place.origin)
    reach = EVERY * (runtime.manifest.input.rows - 1)
    plain, better = [], []
    for now in range(reach, len(states)):
        past = states[now - reach : now + 1 : EVERY]
        if None not in past:
            plain.append(predict_path(past[-1], CONFIG.motion))
            better.append(refined(plain[-1], past, runtime))
    return tuple(
        [errors_ahead(segment, paths, seconds, origin).rmse() for seconds in AHEAD_S]
        for paths in (plain, better)
    )


def refined(path: EgoPath, states: Sequence[VehicleState], runtime: PathRuntime) -> EgoPath:
    """The path, moved by the residual."""
    history = np.array([[state.speed, state.yaw_rate, state.acceleration] for state in states])
    return refine_path(path, history, runtime)


def _rows(name: str, plain: list[float], better: list[float]) -> list[Row]:
    rows = []
    for seconds, before, after in zip(AHEAD_S, plain, better, strict=True):
        prefix = f"ego/residual/{name}/ahead_{seconds}s_"
        rows.append(row(f"{prefix}ctra_rmse_m", before, "m"))
        rows.append(row(f"{prefix}refined_rmse_m", after, "m"))
    return rows
