"""Write a recording of many GB by repeating one: python -m bench.big_bag BAG OUT --gb 10.

For measuring memory and speed. Log times and the stamps of headers go on from repetition to repetition.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.types import PerceptionError

STATIC = "/tf_static"  # written once
STAMPED = {
    f"sensor_msgs/msg/{name}"
    for name in ("Image", "CompressedImage", "PointCloud2", "CameraInfo", "Imu", "NavSatFix")
} | {"nav_msgs/msg/Odometry", "geometry_msgs/msg/TwistWithCovarianceStamped"}
"""Types that begin with a std_msgs/Header, and hence in CDR with its stamp."""
_STAMP = 4  # behind the encapsulation: sec int32, nanosec uint32


def repeated(bag: Bag) -> Iterator[BagMessage]:
    """Yield the messages of `bag` repeatedly, each repetition after the previous one; endless."""
    messages = list(bag.messages())
    length_ns = messages[-1].log_ns - messages[0].log_ns
    step_ns = length_ns + max(length_ns // max(len(messages) - 1, 1), 1)  # so that no two times coincide
    for number in range(sys.maxsize):
        for message in messages:
            if not (number and message.topic == STATIC):
                yield shifted(message, number * step_ns)


def shifted(message: BagMessage, by_ns: int) -> BagMessage:
    """Return the message with its stamp moved, if its type is one of `STAMPED`."""
    data = message.data
    if message.message_type in STAMPED:
        layout = "<iI" if data[1] & 1 else ">iI"
        sec, nanosec = struct.unpack_from(layout, data, _STAMP)
        stamp = struct.pack(layout, *divmod(sec * 10**9 + nanosec + by_ns, 10**9))
        data = b"".join((data[:_STAMP], stamp, data[_STAMP + 8 :]))
    return BagMessage(message.topic, message.message_type, message.log_ns + by_ns, data)


def main() -> int:
    """Write the bag and print the progress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path, help="bag to repeat; its messages are held in memory")
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--gb", type=float, default=10.0, help="size, GB (10^9 bytes)")
    args = parser.parse_args()
    size, told = 0, 0
    try:
        with Bag(args.bag) as bag, BagWriter(args.out) as writer:
            for message in repeated(bag):
                writer.write(message.topic, message.message_type, message.log_ns, message.data)
                size += len(message.data)
                if size >= told + 100_000_000:
                    told = size
                    print(f"\r{size / 1e9:.1f} of {args.gb:g} GB", end="", file=sys.stderr, flush=True)
                if size >= args.gb * 1e9:
                    break
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    print(file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
