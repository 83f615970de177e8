"""Track the boxes of a MOTChallenge detection file: ``python examples/track_mot.py det.txt tracks.txt``.

Each line of the input is ``frame,-1,left,top,width,height,score``; the output has the ids in place of the -1.
"""

import sys

import numpy as np

import perception_rt

FRAME_NS = 33_333_333  # the file has no times: 30 Hz


def main(detections_file: str, tracks_file: str) -> None:
    """Read detections, write tracks."""
    rows = np.loadtxt(detections_file, delimiter=",", ndmin=2)
    tracker = perception_rt.Tracker2D(perception_rt.tracker_config_2d(["pedestrian"]))
    with open(tracks_file, "w") as out:
        for frame in range(1, int(rows[:, 0].max()) + 1):
            boxes = rows[rows[:, 0] == frame]  # none is a result too: the tracks age
            xyxy = np.hstack((boxes[:, 2:4], boxes[:, 2:4] + boxes[:, 4:6])).astype(np.float32)
            scores = boxes[:, 6].clip(0, 1).astype(np.float32)
            found = perception_rt.Detections2D(xyxy, scores, np.zeros(len(boxes), np.int64))
            tracks = tracker.update(frame * FRAME_NS, found)
            for track_id, (left, top, right, bottom) in zip(tracks.ids, tracks.xyxy, strict=True):
                width, height = right - left, bottom - top
                out.write(f"{frame},{track_id},{left:.1f},{top:.1f},{width:.1f},{height:.1f},1,-1,-1,-1\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
