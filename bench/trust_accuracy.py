"""Figures on recordings not used to choose parameters, each beside its baseline.

`value` is the figure of the held-out recording, `tuned_value` the figure with the shipped parameters, which
were chosen on all recordings. Argoverse 2 was never used to choose, so there the shipped parameters are
scored.
"""

from __future__ import annotations

from pathlib import Path

from bench.argoverse import GROUPS, predict_log
from bench.ego_accuracy import ego_trust_rows
from bench.image_accuracy import PEERS, track_with_defaults
from bench.image_sequences import image_sequences, pooled, score_image_tracks
from bench.prediction_accuracy import SETS
from bench.rows import Row, against, row
from bench.tracking_accuracy import AB3DMOT, CLASSES, KITTI, KITTI_NAMES, kitti_sequence
from bench.trajectories import STEP_S, constant_velocity, displacement_errors, read_windows
from bench.tune_pedestrians import left_out, run
from bench.tune_tracks import left_out_2d, left_out_3d
from perception_rt.replay.clear_mot import score_tracks
from perception_rt.stage.prediction.motion import PEDESTRIAN

AB3DMOT_FRAGMENTS = {"Car": 9, "Pedestrian": 12}
HELD_AT_S = (1.2, 2.0, 2.8, 4.8)
SHARES = {"50%": (0.42, 0.58), "95%": (0.90, 0.98)}


def trust_rows(data: Path) -> list[Row]:
    """Every row; `data` is the folder of the recordings."""
    return [
        *pedestrian_rows(data),
        *argoverse_rows(data / "av2"),
        *tracks_3d_rows(data / "tracking_kitti"),
        *tracks_2d_rows(data),
        *ego_trust_rows(),
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
        for share, (label, (least, most)) in enumerate(SHARES.items()):
            steps = [round(seconds / STEP_S) - 1 for seconds in HELD_AT_S]
            held = unseen.held(share)[steps]
            rows += [
                row(f"{prefix}/held_{label}_least", held.min(), "share", f">= {least}"),
                row(f"{prefix}/held_{label}_most", held.max(), "share", f"<= {most}"),
            ]
    return rows


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
    shipped = {name: kitti_sequence(folder, name, KITTI) for name in KITTI_NAMES}
    rows = []
    for label, kind in enumerate(CLASSES):
        _, unseen = left_out_3d(folder, label)
        tuned = score_tracks([shipped[name][label] for name in KITTI_NAMES])
        samota, mota = AB3DMOT[kind][2]
        prefix, tuned_on = f"trust/kitti/{kind.lower()}", "the other sequences"
        figures = (
            ("samota", 100 * unseen.samota, "%", samota, 100 * tuned.samota),
            ("mota", 100 * unseen.best.mota, "%", mota, 100 * tuned.best.mota),
        )
        rows += [
            against(f"{prefix}/{name}", value, unit, base, tuned_value=all_, tuned_on=tuned_on)
            for name, value, unit, base, all_ in figures
        ]
        rows.append(
            against(
                f"{prefix}/fragments", unseen.best.fragments, "fragments", AB3DMOT_FRAGMENTS[kind], most=True,
                tuned_value=tuned.best.fragments, tuned_on=tuned_on,
            )
        )  # fmt: skip
    return rows


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
