"""List, show, describe and set parameters of running nodes, with the syntax of `ros2 param`."""

from __future__ import annotations

import argparse
import json

from perception_rt.types import ConfigError

EXAMPLES = """\
  perception-rt param list /camera_detector
  perception-rt param get /camera_detector score_threshold
  perception-rt param set /camera_detector score_threshold 0.4
  perception-rt param describe /camera_detector rate_hz"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `param`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list parameter names")
    listed.add_argument("node", nargs="?", help="only of this node")
    get = actions.add_parser("get", help="show the value of a parameter")
    describe = actions.add_parser("describe", help="show type, description and limits of a parameter")
    put = actions.add_parser("set", help="set a parameter")
    for one in (get, describe, put):
        one.add_argument("node")
        one.add_argument("name")
    put.add_argument("value", help="YAML, like 0.4, true or [a, b]")
    for one in (listed, get, describe, put):
        one.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run one action; return 1 if a node refuses a value.

    Raises:
        ConfigError: no such node or parameter, or a value that is not YAML.
    """
    value = _yaml(args.value) if args.action == "set" else None
    from perception_rt.node.graph_client import graph_client

    with graph_client() as client:
        if args.action == "list":
            return _list(client, args)
        node = client.node(args.node)
        if args.action == "get":
            kind, found = client.parameter(node, args.name)
            words = f"{kind.removesuffix(' array').capitalize()} value{'s are' if 'array' in kind else ' is'}"
            print(json.dumps({"type": kind, "value": found}) if args.json else f"{words}: {found}")
            return 0
        if args.action == "describe":
            return _describe(client.describe_parameter(node, args.name), args.json)
        done, reason = client.set_parameter(node, args.name, value)
        if args.json:
            print(json.dumps({"successful": done, "reason": reason}))
        else:
            print("Set parameter successful" if done else f"Setting parameter failed: {reason}")
        return 0 if done else 1


def _yaml(text: str) -> object:
    import yaml

    from perception_rt.types.bounded_yaml import load_yaml

    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"value {text!r}: not YAML: {' '.join(str(error).split())}") from error


def _list(client, args: argparse.Namespace) -> int:
    nodes = [client.node(args.node)] if args.node else client.nodes()
    found = {node: client.parameters(node) for node in nodes}
    if args.json:
        print(json.dumps(found))
        return 0
    for node, names in found.items():
        if not args.node:
            print(f"{node}:")
        for name in names:
            print(f"  {name}")
    return 0


def _describe(found: dict, as_json: bool) -> int:
    if as_json:
        print(json.dumps(found))
        return 0
    print(f"Parameter name: {found['name']}\n  Type: {found['type']}")
    if found["description"]:
        print(f"  Description: {found['description']}")
    lines = [f"Read only: {str(found['read_only']).lower()}"] if found["read_only"] else []
    lines += [f"Min value: {found['min']}", f"Max value: {found['max']}"] if found["min"] is not None else []
    lines += [found["constraints"]] if found["constraints"] else []
    print("  Constraints:" + "".join(f"\n    {line}" for line in lines))
    return 0
