"""perception-rt: everything of perception_rt that is not a node."""

from __future__ import annotations

import argparse
import importlib
import sys

from perception_rt import __version__
from perception_rt.types import PerceptionError

SUBCOMMANDS = {
    "up": "perception_rt.cli.up",
    "demo": "perception_rt.cli.demo",
    "replay": "perception_rt.cli.replay",
    "bundle": "perception_rt.cli.bundle",
    "train": "perception_rt.cli.train",
    "doctor": "perception_rt.cli.doctor",
}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the module of `command` is imported, as importing all is slow."""
    parser = argparse.ArgumentParser(prog="perception-rt", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in SUBCOMMANDS.items():
        if command not in (name, None):
            continue
        module = importlib.import_module(module_name)
        summary = (module.__doc__ or "").strip().splitlines()[0]
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        Its exit status; 2 where the input cannot be used (one line says why), 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in SUBCOMMANDS else None
    args = build_parser(command).parse_args(argv)
    try:
        return args.run(args)
    except PerceptionError as error:
        print(f"perception-rt {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"perception-rt {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
