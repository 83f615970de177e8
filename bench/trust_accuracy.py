"""Figures on recordings not used to choose parameters, each beside its baseline.

`value` is the figure of the held-out recording, `tuned_value` the figure with the shipped parameters, which
were chosen on all recordings. Argoverse 2 was never used to choose, so there the shipped parameters are
scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.argoverse import GROUPS, predict_log
from bench.camera_motion import camera_motion_rows
from bench.ego_accuracy import ego_trust_rows
from bench.image_accuracy import PEERS, track_with_defaults
from bench.image_sequences import image_sequences, pooled, score_image_tracks
from bench.prediction_accuracy import SETS
from bench.rows import Row, against, rounded, row
from bench.tracking_accuracy import (
    AB3DMOT,
    AB3DMOT_MORE,
    CLASSES,
    KITTI,
    KITTI_NAMES,
    hota_3d,
    kitti_scenes,
)
from bench.trajectories import STEP_S, constant_velocity, displacement_errors, read_windows
from bench.tune_clusters import left_out as left_out_clusters
from bench.tune_clusters import plain, tuned
from bench.tune_pedestrians import left_out, run
from bench.tune_tracks import left_out_2d, left_out_3d
from perception_rt.replay.clear_mot import Scene, score_scenes
from perception_rt.stage.prediction.motion import PEDESTRIAN

UNITS_3D = {"id_switches": "switches", "fragments": "fragments"}  # counts: less is better
STEPS = [round(seconds / STEP_S) - 1 for seconds in (1.2, 2.0, 2.8, 4.8)]
SHARES = {"50%": (0.42, 0.58), "95%": (0.90, 0.98)}


def trust_rows(data: Path) -> list[Row]:
    """Every row; `data` is the folder of the recordings."""
    return [
        *pedestrian_rows(data),
        *argoverse_rows(data / "av2"),
        *tracks_3d_rows(data / "tracking_kitti"),
        *tracks_2d_rows(data),
        *camera_motion_rows(),
        *ego_trust_rows(),
        *cluster_rows(),
    ]


def pedestrian_rows(data: Path) -> list[Row]:
    """ADE, FDE and what the ellipses hold on each scene, with parameters of the others."""
    rows = []
    for name, file in SETS.items():
        windows = read_windows(data / "eth_ucy" / file)
        unseen, shipped = run(windows, left_out(data, name)), run(windows, PEDESTRIAN)
        base = displacement_errors(constant_velocity(windows.seen), windows.ahead)
        errors = [displacement_errors(each.predictions.xy, windows.ahead) for each in (unseen, shipped)]
        prefix, tuned_on = f"trust/pedestrians/{name}", "ETH/UCY but this scene"
        for at, figure in enumerate(("ade", "fde")):
            rows.append(
                against(
                    f"{prefix}/{figure}", errors[0][at], "m", base[at], most=True,
                    tuned_value=errors[1][at], tuned_on=tuned_on,
                )
            )  # fmt: skip
        runs = unseen, shipped, run(windows, replace(PEDESTRIAN, spread=None))
        for share, label in enumerate(SHARES):
            held = [each.held(share)[STEPS] for each in runs]
            rows += [held_row(f"{prefix}/held_{label}", which, label, held) for which in ("least", "most")]
    return rows


def held_row(prefix: str, which: str, label: str, held: Sequence[np.ndarray]) -> Row:
    """The least or the most that ellipses hold over the horizons: left out, tuned, of the filter alone."""
    value, tuned, plain = (float(getattr(each, {"least": "min", "most": "max"}[which])()) for each in held)
    least, most = SHARES[label]
    found = row(f"{prefix}_{which}", value, "share", f">= {least}" if which == "least" else f"<= {most}")
    return replace(
        found, tuned_value=rounded(tuned), baseline=rounded(plain), tuned_on="ETH/UCY but this scene"
    )


def argoverse_rows(folder: Path) -> list[Row]:
    """ADE and FDE of each log and group, all objects and moving ones."""
    rows = []
    for path in sorted(folder.glob("*.npz")):
        found = predict_log(path)
        for name in GROUPS:
            for part, chosen in (
                ("", found.groups == name),
                ("_moving", (found.groups == name) & found.moving),
            ):
                if not chosen.any():
                    continue
                some = found[chosen]
                ours, base = some.errors(some.predicted), some.errors(some.baseline)
                prefix = f"trust/argoverse_{path.stem}/{name}{part}"
                rows += [
                    against(f"{prefix}/{figure}", ours[at], "m", base[at], most=True, tuned_on="other data")
                    for at, figure in enumerate(("ade", "fde"))
                ]
    return rows


def tracks_3d_rows(folder: Path) -> list[Row]:
    """Scores of KITTI's sequences, each with the settings that the others chose."""
    shipped = {name: kitti_scenes(folder, name, KITTI) for name in KITTI_NAMES}
    rows = []
    for label, kind in enumerate(CLASSES):
        unseen = figures_3d(left_out_3d(folder, label)[1])
        tuned = figures_3d([shipped[name][label] for name in KITTI_NAMES])
        (samota, mota), (hota, fragments) = AB3DMOT[kind][2], AB3DMOT_MORE[kind]
        base = {"samota": samota, "mota": mota, "hota": hota, "id_switches": 0, "fragments": fragments}
        rows += [
            against(
                f"trust/kitti/{kind.lower()}/{name}", value, UNITS_3D.get(name, "%"), base[name],
                most=name in UNITS_3D, tuned_value=tuned[name], tuned_on="the other sequences",
            )
            for name, value in unseen.items()
        ]  # fmt: skip
    return rows


def figures_3d(scenes: Sequence[Scene]) -> dict[str, float]:
    """sAMOTA, and where MOTA is best it, HOTA, switches and fragments."""
    score = score_scenes(scenes)
    return {
        "samota": 100 * score.samota,
        "mota": 100 * score.best.mota,
        "hota": hota_3d(scenes, score.threshold),
        "id_switches": score.best.switches,
        "fragments": score.best.fragments,
    }


def tracks_2d_rows(data: Path) -> list[Row]:
    """Pooled scores in the image, each sequence with the settings that the others chose."""
    unseen = score_image_tracks(pooled(left_out_2d(data)[1]))
    tuned = score_image_tracks(pooled([track_with_defaults(each) for each in image_sequences(data)]))
    return [
        against(
            f"trust/image/pooled/{name}", getattr(unseen, name), "%", peer,
            tuned_value=getattr(tuned, name), tuned_on="the other sequences",
        )
        for name, peer in PEERS.items()
    ]  # fmt: skip


def cluster_rows() -> list[Row]:
    """What `bev_cluster` finds in each recording with the parameters that the others chose."""
    unseen, all_, base = left_out_clusters(), tuned(), plain()
    cars = [(one.recall(), one.precision(), one.recall(1), one.recall(2)) for one in (unseen, all_, base)]
    names = ("car_recall", "car_precision", "car_recall_half_the_rings", "car_recall_a_quarter_of_the_rings")
    people = [one.people[[0, 2]] / one.people[[1, 3]] for one in (unseen, all_, base)]
    figures = [
        *zip(names, *cars, strict=True),
        *zip(("person_recall", "person_precision"), *people, strict=True),
    ]
    return [
        against(
            f"trust/bev_cluster/{name}", float(value), "ratio", float(peer),
            tuned_value=float(tuned_value), tuned_on="the other recordings",
        )
        for name, value, tuned_value, peer in figures
    ]  # fmt: skip
