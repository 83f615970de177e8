"""Speed of the predictor on one core, in processor time of its thread: other processes do not count."""

from __future__ import annotations

import time

import numpy as np

from bench.prediction_inputs import bare_tracks
from bench.rows import Row, row
from perception_rt.stage.prediction.motion import VEHICLE
from perception_rt.stage.prediction.predictor import ObjectPredictor, PredictorConfig

OBJECTS, STEPS, STEP_NS = 100, 200, 10**8


def predictor_rows() -> list[Row]:
    """Milliseconds a frame of 100 objects, to 3 s, in steps of 0.5 s and of 0.1 s."""
    return [
        row("predictor/100_objects_ms", _ms_per_frame(0.5), "ms", "<= 5"),
        row("predictor/100_objects_30_moments_ms", _ms_per_frame(0.1), "ms"),
    ]


def _ms_per_frame(step_s: float) -> float:
    rng = np.random.default_rng(0)
    place, velocity = rng.uniform(-80, 80, (OBJECTS, 2)), rng.uniform(-5, 5, (OBJECTS, 2))
    labels = np.zeros(OBJECTS, np.int64)
    seen = [place + velocity * (step * STEP_NS / 1e9) for step in range(STEPS)]
    frames = [xy + rng.normal(0, 0.1, xy.shape) for xy in seen]
    tracks = [bare_tracks(xy, labels, speed_sd=10.0) for xy in frames]
    predictor = ObjectPredictor(PredictorConfig((VEHICLE,), step_s=step_s))
    began = time.thread_time()
    for step, (xy, at) in enumerate(zip(frames, tracks, strict=True)):
        predictor.update(step * STEP_NS, at, xy)
    return (time.thread_time() - began) / STEPS * 1e3
