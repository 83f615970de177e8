"""Scores of the shipped lidar network on simulated drives that no training used."""

from __future__ import annotations

from rich.progress import Progress

from bench.rows import Row, row
from perception_rt.model.runtime import Runtime, resolve_bundle
from perception_rt.train.drives import EVALUATION_DRIVES, evaluation_seeds
from perception_rt.train.pillars.score import evaluate


def pillars_rows(bundle: str, frames: int, bar: Progress) -> list[Row]:
    """Average precision by footprints: of all, by class, and by distance; the size of the file."""
    task = bar.add_task(f"{bundle}, simulated clouds", total=frames)
    seeds = evaluation_seeds(min(EVALUATION_DRIVES, frames))
    score = evaluate(Runtime.open(bundle, device="cpu"), seeds, frames, lambda: bar.advance(task))
    prefix = f"lidar/{bundle}/sim"
    return [
        row(f"{prefix}/map_bev50", score["map"], "mAP", ">= 0.75"),
        *(row(f"{prefix}/ap_bev50_{name}", of["ap"], "AP") for name, of in score["per_class"].items()),
        *(
            row(f"{prefix}/map_bev50_{band.replace(' ', '_')}", of["map"], "mAP")
            for band, of in score["bands"].items()
        ),
        row(f"{prefix}/frames", frames, "frames"),
        row(f"{prefix}/bundle_mb", resolve_bundle(bundle).stat().st_size / 1e6, "MB", "< 8"),
    ]
