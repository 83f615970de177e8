"""Choose the truth for each topic and score it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_rt.replay.bag import Bag
from perception_rt.replay.score.ahead import score_predictions
from perception_rt.replay.score.detection import as_seen, scenes_of, score_detections
from perception_rt.replay.score.ego import score_odometry, score_paths
from perception_rt.replay.score.outputs import Outputs, read_odometry, read_outputs
from perception_rt.replay.score.places import Places
from perception_rt.replay.score.scene import SceneBuilder
from perception_rt.replay.score.sources import BOXES_2D, BOXES_3D, ODOMETRY
from perception_rt.replay.score.tracking import score_tracks, track_ellipses
from perception_rt.replay.score.truth import BoxTruth, EgoTruth, Truth

TRACKS, PREDICTIONS = "/tracks", "/predictions"
EGO = ("ego",)
DECIMALS = 6


def score(
    out_bag: str | Path, truths: Sequence[Truth], metrics: Mapping[str, Any], places: Places
) -> dict[str, dict]:
    """Score the outputs of a replay.

    Args:
        out_bag: the bag of the replay; log times are publish times.
        truths: see `load_truth`.
        metrics: of the replay: "outputs" has type and node of a topic, "bundles" the classes that a node's
            model can detect; topics of nodes without a bundle are scored for the classes of all bundles.
        places: transforms of the recording.

    Returns:
        The rows that the package's docstring describes, by topic and ready for JSON; floats are rounded to
        six decimals, and unknown values are None. A topic without a matching truth has no row.

    Raises:
        BagError, CodecError: the outputs cannot be read.
    """
    with Bag(out_bag) as bag:
        scorer = _Scorer(bag, truths, metrics, places)
        rows = {topic: scorer.row(topic) for topic in sorted(scorer.kinds)}
    return {topic: _plain(row) for topic, row in rows.items() if row is not None}


class _Scorer:
    """Score single topics of one bag.

    Attributes:
        kinds: types of the topics that can be scored, also of those without a message if the metrics list
            them.
    """

    def __init__(self, bag: Bag, truths: Sequence[Truth], metrics: Mapping[str, Any], places: Places) -> None:
        self._bag, self._metrics, self._places = bag, metrics, places
        told = {topic: output["type"] for topic, output in metrics.get("outputs", {}).items()}
        kinds = told | {topic: kind for topic, (kind, _) in bag.topics.items()}
        self.kinds = {t: kind for t, kind in kinds.items() if kind in (BOXES_2D, BOXES_3D, ODOMETRY)}
        self._boxes = [truth for truth in truths if isinstance(truth, BoxTruth)]
        self._ego = next((truth for truth in truths if isinstance(truth, EgoTruth)), None)

    def row(self, topic: str) -> dict | None:
        """Return the scores of a topic; None without a matching truth."""
        kind = self.kinds[topic]
        if kind == ODOMETRY:
            if self._ego is None:
                return None
            told = {"name": self._ego.name, "frames": len(self._ego.stamps_ns)}
            scores = score_odometry(self._ego, read_odometry(self._bag, topic))
            return {"kind": "odometry", "truth": told, **scores}
        outputs = read_outputs(self._bag, topic)
        if topic.endswith(PREDICTIONS) and kind == BOXES_3D:
            return self._predictions(topic, outputs)
        truth = self._truth_of(outputs, kind == BOXES_2D)
        if truth is None:
            return None
        known = self._known(topic)
        row: dict[str, Any] = {"kind": "detections", "truth": _describe(truth)}
        row |= score_detections(truth, outputs, known, self._places)
        if topic.endswith(TRACKS) and truth.has_ids:
            builder = SceneBuilder(truth, outputs, known, self._places)
            scenes, _ = scenes_of(as_seen(truth, outputs), builder)
            row |= {"kind": "tracks", "tracking": score_tracks(scenes, builder.classes, truth.flat)}
            row["ellipses"] = None if truth.flat else track_ellipses(scenes, builder.classes)
        return row

    def _predictions(self, topic: str, outputs: Outputs) -> dict | None:
        if outputs.classes == EGO:
            if self._ego is None:
                return None
            told = {"name": self._ego.name, "frames": len(self._ego.stamps_ns)}
            return {"kind": "predictions", "truth": told, **score_paths(self._ego, outputs)}
        tracks_topic = topic.removesuffix(PREDICTIONS) + TRACKS
        truth = self._truth_of(outputs, flat=False)
        if truth is None or not truth.has_ids or tracks_topic not in self.kinds:
            return None
        tracks = read_outputs(self._bag, tracks_topic)
        builder = SceneBuilder(truth, tracks, self._known(topic), self._places)
        scenes, _ = scenes_of(as_seen(truth, tracks), builder)
        scores = score_predictions(truth, scenes, builder.classes, outputs, self._places)
        return {"kind": "predictions", "truth": _describe(truth), **scores}

    def _truth_of(self, outputs: Outputs, flat: bool) -> BoxTruth | None:
        """Return the truth for a topic; for one that published nothing, the first of its kind."""
        fitting = [truth for truth in self._boxes if truth.flat == flat]
        frame = outputs.arrays[0].frame_id if outputs.arrays else None
        of_frame = [truth for truth in fitting if frame in (None, truth.frame_id)]
        return next(iter(of_frame if flat else of_frame + fitting), None)

    def _known(self, topic: str) -> set[str] | None:
        """Return the classes that a topic can detect; None for all."""
        bundles = self._metrics.get("bundles", {})
        node = self._metrics.get("outputs", {}).get(topic, {}).get("node")
        asked = [bundles[node]] if node in bundles else list(bundles.values())
        return {name for bundle in asked for name in bundle["classes"]} if asked else None


def _describe(truth: BoxTruth) -> dict:
    return {
        "name": truth.name,
        "frames": len(truth.moments),
        "boxes": sum(int((~moment.ignored).sum()) for moment in truth.moments),
    }


def _plain(value: Any) -> Any:
    """Return a value for JSON: rounded, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(float(value), DECIMALS) + 0.0 if math.isfinite(value) else None
    return value
