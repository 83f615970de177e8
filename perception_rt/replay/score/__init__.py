"""Score the outputs of a replay against ground truth: the "scores" of metrics.json.

`score` returns a row for every output topic that has a matching truth, by the kind of topic:

- arrays of boxes in an image, or in space (`.../detections`): {"kind": "detections", "truth": {"name",
  "frames", "boxes"}, "classes": [..], "as_seen", "at_publish", "streaming": {"frames", "unanswered",
  "unplaced", "ap50", "ap50_95" (image) or "ap70", "ap_2m" (space), "per_class"}, "calibration"}; `as_seen`
  has "curves" too: {class: precision at 101 recalls}. What they mean: `detection.score_detections`,
  `counting.precision_of`.
- `.../tracks`: the same and "tracking": {"mota", "idf1", "hota", ..} (`tracking.score_tracks`), "ellipses".
- `.../predictions`: {"kind": "predictions", "ade_m", "fde_m", "horizons", ..} (`ahead.summary`), of objects
  by the tracks of the same node, of the vehicle (class `ego`) by the truth of its own path.
- Odometry: {"kind": "odometry", "rmse", "drift_percent", ..} (`ego.score_odometry`).

Truth in an image applies to outputs in the same frame. Truth in space is transformed to the outputs'
frame by the recorded transforms. If several truths apply to a topic, the first in its own frame is used.
"""

from perception_rt.replay.score.places import Places
from perception_rt.replay.score.scores import score
from perception_rt.replay.score.sources import load_truth
from perception_rt.replay.score.truth import BoxTruth, EgoTruth, Truth

__all__ = ["BoxTruth", "EgoTruth", "Places", "Truth", "load_truth", "score"]
