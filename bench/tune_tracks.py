"""Choose the track lifecycle settings on all recordings but one.

In space on KITTI's sequences with PointRCNN's boxes, in the image on MOT15 and KITTI's with RRC's boxes.
There is little to choose on: few settings, and what is left of them comes from the presets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.image_accuracy import track_with, track_with_sort
from bench.image_sequences import ImageScore, image_sequences, pooled, score_image_tracks
from bench.tracking_accuracy import (
    AB3DMOT,
    AB3DMOT_MORE,
    CLASSES,
    KITTI,
    KITTI_NAMES,
    hota_3d,
    kitti_scenes,
)
from perception_rt.replay.clear_mot import Scene, Score, score_scenes
from perception_rt.replay.score.hota import TrackFrame
from perception_rt.stage.tracking.presets import config_2d

Changes = dict[str, Any]
LIVES_3D: tuple[Changes, ...] = tuple(
    {"coast_s": coast_s, "wide_gate": wide_gate, "sure_score": sure_score}
    for coast_s, wide_gate, sure_score in product((0.15, 0.35, 0.55), (0.99, 0.999), (0.95, 0.98))
)
FRAGMENT = 0.4  # points of sAMOTA and MOTA together that a fragment counts as
LIVES_2D: tuple[Changes, ...] = (
    {},
    {"birth_score": 0.6},
    {"birth_score": 0.7},
    {"hits_to_confirm": 3},
    {"memory_s": 1.5},
    {"high_score": 0.35},
    {"high_score": 0.5},
)


@cache
def _kitti(folder: Path, choice: int) -> dict[str, list[Scene]]:
    """Truth and tracks of each class, by sequence, with one of LIVES_3D."""
    lives = tuple(replace(life, **LIVES_3D[choice]) for life in KITTI.lives)
    config = replace(KITTI, lives=lives)
    return {name: kitti_scenes(folder, name, config) for name in KITTI_NAMES}


def merit_3d(score: Score) -> float:
    """The criterion: sAMOTA plus MOTA, minus `FRAGMENT` points per fragment."""
    return 100 * (score.samota + score.best.mota) - FRAGMENT * score.best.fragments


def left_out_3d(folder: Path, label: int) -> tuple[dict[str, int], list[Scene]]:
    """For each sequence the choice of the others, and each as tracked by its own."""

    def merit(choice: int, left: str) -> float:
        scenes = _kitti(folder, choice)
        return merit_3d(score_scenes([scenes[name][label] for name in KITTI_NAMES if name != left]))

    chosen = {left: max(range(len(LIVES_3D)), key=lambda choice: merit(choice, left)) for left in KITTI_NAMES}
    return chosen, [_kitti(folder, chosen[name])[name][label] for name in KITTI_NAMES]


def tune_tracks3d(data: Path, console: Console) -> None:
    """Print what each setting scores on all, each fold's choice, and the score of what was left out."""
    folder = data / "tracking_kitti"
    for label, kind in enumerate(CLASSES):
        table = Table("settings", "sAMOTA", "MOTA", "HOTA", "switches", "fragments", title=kind)
        for choice, changes in enumerate(LIVES_3D):
            scenes = _kitti(folder, choice)
            table.add_row(_text(changes), *_cells([scenes[name][label] for name in KITTI_NAMES]))
        chosen, scenes_left = left_out_3d(folder, label)
        table.add_section()
        for name, choice in chosen.items():
            table.add_row(f"without {name}: {_text(LIVES_3D[choice])}")
        table.add_row("left out, together", *_cells(scenes_left))
        shipped = [kitti_scenes(folder, name, KITTI)[label] for name in KITTI_NAMES]
        table.add_row("presets", *_cells(shipped))
        samota, mota = AB3DMOT[kind][2]
        hota, fragments = AB3DMOT_MORE[kind]
        table.add_row("AB3DMOT", f"{samota:.2f}", f"{mota:.2f}", f"{hota:.2f}", "0", str(fragments))
        console.print(table)


def _text(changes: Changes) -> str:
    return " ".join(f"{name}={value:g}" for name, value in changes.items())


def _cells(scenes: Sequence[Scene]) -> list[str]:
    score = score_scenes(scenes)
    best = score.best
    return [
        f"{100 * score.samota:.2f}",
        f"{100 * best.mota:.2f}",
        f"{hota_3d(scenes, score.threshold):.2f}",
        str(best.switches),
        str(best.fragments),
    ]


@cache
def _image(data: Path, choice: int) -> list[list[TrackFrame]]:
    """Tracks of each sequence with one of LIVES_2D."""
    found = []
    for sequence in image_sequences(data):
        config = config_2d((sequence.class_name,))
        lives = tuple(replace(life, **LIVES_2D[choice]) for life in config.lives)
        found.append(track_with(sequence, replace(config, lives=lives)))
    return found


def left_out_2d(data: Path) -> tuple[list[int], list[list[TrackFrame]]]:
    """For each sequence the choice of the others and its tracks; by the sum of pooled HOTA, IDF1 and MOTA."""
    count = len(image_sequences(data))

    def merit(choice: int, left: int) -> float:
        score = score_image_tracks(pooled([_image(data, choice)[at] for at in range(count) if at != left]))
        return score.hota + score.idf1 + score.mota

    chosen = [max(range(len(LIVES_2D)), key=lambda choice: merit(choice, left)) for left in range(count)]
    return chosen, [_image(data, choice)[at] for at, choice in enumerate(chosen)]


def tune_tracks2d(data: Path, console: Console) -> None:
    """Print each fold's choice and the score of the sequence that was left out, beside SORT's."""
    sequences = image_sequences(data)
    chosen, tracks = left_out_2d(data)
    sort = [track_with_sort(sequence) for sequence in sequences]
    table = Table("left out", "settings", "HOTA", "IDF1", "MOTA", "SORT's MOTA")
    for sequence, choice, mine, other in zip(sequences, chosen, tracks, sort, strict=True):
        score, baseline = score_image_tracks(mine), score_image_tracks(other)
        table.add_row(sequence.name, str(LIVES_2D[choice]), *_percent(score), f"{baseline.mota:.2f}")
    table.add_section()
    for choice, changes in enumerate(LIVES_2D):
        score = score_image_tracks(pooled(_image(data, choice)))
        table.add_row("none: all", str(changes), *_percent(score))
    baseline = score_image_tracks(pooled(sort))
    table.add_row(
        "left out, together", "", *_percent(score_image_tracks(pooled(tracks))), f"{baseline.mota:.2f}"
    )
    table.add_row("SORT", "", *_percent(baseline))
    console.print(table)


def _percent(score: ImageScore) -> list[str]:
    return [f"{value:.2f}" if np.isfinite(value) else "-" for value in (score.hota, score.idf1, score.mota)]
