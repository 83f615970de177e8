"""List topics, and show their messages, rates and endpoints, with the syntax of `ros2 topic`."""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import time
from contextlib import suppress

from perception_rt.types import ConfigError

EXAMPLES = """\
  perception-rt topic list -t
  perception-rt topic info /camera/image_raw --verbose
  perception-rt topic hz /lidar/points --seconds 5
  perception-rt topic echo /diagnostics --once
  perception-rt topic echo /odom --field pose.pose.position --json"""
LONGEST_S = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `topic`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list all topics")
    listed.add_argument("-t", "--show-types", action="store_true", help="show types too")
    listed.add_argument("-c", "--count-topics", action="store_true", help="show only the number of topics")
    listed.add_argument("--spin-time", type=float, metavar="S", help="wait for the first other node, s (1)")
    info = actions.add_parser("info", help="show type and numbers of publishers and subscriptions")
    info.add_argument("topic")
    info.add_argument("-v", "--verbose", action="store_true", help="show nodes and QoS too")
    hz = actions.add_parser("hz", help="measure the message rate")
    hz.add_argument("topic")
    hz.add_argument(
        "-w", "--window", type=int, default=10_000, help="number of messages to average over (10000)"
    )
    hz.add_argument("--seconds", type=float, default=LONGEST_S, help="end after this time")
    echo = actions.add_parser("echo", help="the messages")
    echo.add_argument("topic")
    echo.add_argument("--once", action="store_true", help="stop after the first message")
    echo.add_argument("-n", "--count", type=int, default=0, help="stop after this number of messages")
    echo.add_argument("--field", default="", help="show only this field, like header.stamp")
    echo.add_argument(
        "-l", "--truncate-length", type=int, default=128, help="maximum number of list elements to show (128)"
    )
    echo.add_argument("-f", "--full-length", action="store_true", help="show whole lists")
    echo.add_argument(
        "--seconds",
        type=float,
        default=LONGEST_S,
        help="stop after this time; exit code 1 if no message arrived",
    )
    for one in (listed, info, hz, echo):
        one.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run one action.

    Raises:
        ConfigError: no such topic or field, or a number out of range.
    """
    for name in ("seconds", "window", "truncate_length", "spin_time"):
        value = getattr(args, name, None)
        if value is not None and not 0 < value <= LONGEST_S:
            raise ConfigError(
                f"--{name.replace('_', '-')}={value}: must be above 0 and at most {LONGEST_S:g}"
            )
    if getattr(args, "count", 0) < 0:
        raise ConfigError(f"--count={args.count}: must not be negative")
    from perception_rt.node.graph_client import graph_client

    with graph_client(getattr(args, "spin_time", None)) as client:
        return {"list": _list, "info": _info, "hz": _hz, "echo": _echo}[args.action](client, args)


def _list(client, args: argparse.Namespace) -> int:
    topics = client.topics()
    if not client.nodes():
        from perception_rt.node.survey import ALONE_S

        waited_s, domain = args.spin_time or ALONE_S, os.environ.get("ROS_DOMAIN_ID", "0")
        print(
            f"no other node found in {waited_s:g} s (ROS_DOMAIN_ID={domain}); --spin-time waits longer",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps([{"name": name, "type": kind} for name, kind in topics.items()]))
    elif args.count_topics:
        print(len(topics))
    else:
        for name, kind in topics.items():
            print(f"{name} [{kind}]" if args.show_types else name)
    return 0


def _info(client, args: argparse.Namespace) -> int:
    topic, kind = client.topic(args.topic)
    ends = client.endpoints(topic)
    if args.json:
        print(json.dumps({"name": topic, "type": kind, **ends}))
        return 0
    print(f"Type: {kind}")
    for word, side in (("Publisher", "publishers"), ("Subscription", "subscriptions")):
        print(f"{word} count: {len(ends[side])}")
        for end in ends[side] if args.verbose else ():
            space, _, name = end["node"].rpartition("/")
            print(f"\nNode name: {name}\nNode namespace: {space or '/'}\nTopic type: {end['type']}")
            print(f"Endpoint type: {word.upper()}\nQoS profile:")
            print(f"  Reliability: {end['reliability']}\n  Durability: {end['durability']}\n")
    return 0


def _hz(client, args: argparse.Namespace) -> int:
    from perception_rt.node.graph_client import RateWindow

    topic, kind = client.topic(args.topic)
    window, end, due, came = RateWindow(args.window), time.monotonic() + args.seconds, 0.0, False
    with client.listen({topic: kind}, 10_000) as arrived:
        due = time.monotonic() + 1.0
        while (now := time.monotonic()) < end:
            with suppress(queue.Empty):
                window.add(arrived.get(timeout=min(0.1, end - now))[1])
            if time.monotonic() >= min(due, end):
                due += 1.0
                came |= _print_rate(window.summary(), args.json)
    return 0 if came else 1


def _print_rate(found: dict[str, float] | None, as_json: bool) -> bool:
    if found is None:
        return False
    if as_json:
        print(json.dumps(found), flush=True)
        return True
    print(f"average rate: {found['rate_hz']:.3f}")
    spacing = f"min: {found['min_s']:.3f}s max: {found['max_s']:.3f}s std dev: {found['std_s']:.5f}s"
    print(f"\t{spacing} window: {found['window']}", flush=True)
    return True


def _echo(client, args: argparse.Namespace) -> int:
    import yaml

    from perception_rt.node.graph_client import as_values, decoded

    topic, kind = client.topic(args.topic)
    wanted = 1 if args.once else args.count
    shown, end = 0, time.monotonic() + args.seconds
    with client.listen({topic: kind}) as arrived:
        while (now := time.monotonic()) < end and not (wanted and shown >= wanted):
            try:
                data = arrived.get(timeout=min(0.1, end - now))[2]
            except queue.Empty:
                continue
            value = _field(decoded(data, kind), args.field)
            values = as_values(value, 0 if args.full_length else args.truncate_length)
            if args.json:
                print(json.dumps(values), flush=True)
            else:
                text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6)
                print(text.removesuffix("...\n") + "---", flush=True)
            shown += 1
    return 0 if shown else 1


def _field(message: object, path: str) -> object:
    """Return a field by its path.

    Raises:
        ConfigError: the message has no such field.
    """
    for name in path.split(".") if path else ():
        known: dict[str, str] = getattr(message, "get_fields_and_field_types", dict)()
        if name not in known:
            raise ConfigError(f"--field={path}: no field {name!r}; there are {', '.join(known) or 'none'}")
        message = getattr(message, name)
    return message
