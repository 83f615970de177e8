"""Show and change the states of running lifecycle nodes, with the syntax of `ros2 lifecycle`."""

from __future__ import annotations

import argparse
import json

EXAMPLES = """\
  perception-rt lifecycle nodes
  perception-rt lifecycle get /camera_detector
  perception-rt lifecycle list /camera_detector
  perception-rt lifecycle set /camera_detector deactivate"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `lifecycle`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    nodes = actions.add_parser("nodes", help="list the lifecycle nodes")
    get = actions.add_parser("get", help="show the state of one or all nodes")
    get.add_argument("node", nargs="?")
    listed = actions.add_parser("list", help="list the available transitions of a node")
    listed.add_argument("node")
    change = actions.add_parser("set", help="trigger a transition")
    change.add_argument("node")
    change.add_argument("transition", help="name or number, like activate")
    for one in (nodes, get, listed, change):
        one.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run one action; return 1 if a transition fails.

    Raises:
        ConfigError: no such node or transition.
    """
    from perception_rt.node.graph_client import graph_client

    with graph_client() as client:
        if args.action == "nodes":
            nodes = client.lifecycle_nodes()
            print(json.dumps(nodes) if args.json else "\n".join(nodes))
        elif args.action == "get":
            nodes = [client.lifecycle_node(args.node)] if args.node else client.lifecycle_nodes()
            states = {node: client.state(node) for node in nodes}
            if args.json:
                print(json.dumps({node: {"state": name, "id": n} for node, (name, n) in states.items()}))
            else:
                for node, (name, number) in states.items():
                    print(f"{'' if args.node else f'{node}: '}{name} [{number}]")
        elif args.action == "list":
            found = client.transitions(client.lifecycle_node(args.node))
            if args.json:
                print(json.dumps(found))
            else:
                for one in found:
                    print(
                        f"- {one['transition']} [{one['id']}]\n\tStart: {one['start']}\n\tGoal: {one['goal']}"
                    )
        else:
            done = client.change_state(client.lifecycle_node(args.node), args.transition)
            said = "Transitioning successful" if done else "Transitioning failed"
            print(json.dumps({"successful": done}) if args.json else said)
            return 0 if done else 1
    return 0
