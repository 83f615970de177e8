"""Replay a recording and score it: ``python examples/replay_and_score.py BAG CONFIG OUT [TRUTH ...]``.

TRUTH is a topic of the recording, a folder of KITTI labels, or a MOT file.
"""

import sys

import perception_rt


def main(bag: str, config: str, out: str, *truth: str) -> None:
    """Print the outcomes of each stream, and the scores."""
    result = perception_rt.replay_bag(bag, config, out, inference="fixed:20", truth=truth)
    for name, stream in result.metrics["streams"].items():
        print(f"{name}: {stream}")
    for name, score in result.metrics.get("scores", {}).items():
        print(f"{name}: {score}")


if __name__ == "__main__":
    main(*sys.argv[1:])
