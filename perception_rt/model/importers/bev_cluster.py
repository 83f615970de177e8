"""The lidar detector that needs no training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from perception_rt.model.bev_cluster import CLASSES, BevCluster
from perception_rt.model.importers.common import Imported
from perception_rt.model.specs import CloudSpec
from perception_rt.model.task import DETECT3D


def import_bev_cluster(parameters: Mapping[str, float], scores: Mapping[str, float]) -> Imported:
    """Make the lidar detector that needs no training.

    Args:
        parameters: of `BevCluster`, by name; those not given keep their defaults.
        scores: scores with these parameters, for the manifest.

    Raises:
        ConfigError: a parameter is out of its bounds.
    """
    module = BevCluster(**parameters)
    reach = module.max_range
    names = [name for name in inspect.signature(BevCluster).parameters if not name.endswith("threshold")]
    provenance = {
        "what": "geometry alone: ground model, clusters, L-shape fit, sizes; nothing is trained",
        "parameters": {name: getattr(module, name) for name in names},
        "scores": dict(scores),
    }
    spec = CloudSpec(range=(-reach, -reach, -reach, reach, reach, reach), intensity="unused")
    score, nms = module.score_threshold, module.nms_threshold
    return Imported(CLASSES, spec, provenance, score, nms, module=module.eval(), task=DETECT3D.name)
