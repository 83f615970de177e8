"""perception-rt: run, replay, train and check perception_rt from the command line."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import NamedTuple, NoReturn

from perception_rt import __version__


class Subcommand(NamedTuple):
    """A subcommand: its module, and its help line, which needs no import."""

    module: str
    summary: str


SUBCOMMANDS = {
    "up": Subcommand("perception_rt.cli.up", "run the nodes of a parameter file; restart them when they die"),
    "demo": Subcommand("perception_rt.cli.demo", "run a simulated drive or a recording through real topics"),
    "replay": Subcommand("perception_rt.cli.replay", "replay recordings without ROS; score, compare, report"),
    "init": Subcommand("perception_rt.cli.init", "write the parameter file for a recording or a graph"),
    "bundle": Subcommand("perception_rt.cli.bundle", "make, verify and show model bundles"),
    "bench": Subcommand("perception_rt.cli.bench", "measure bundles on each engine of this machine"),
    "train": Subcommand("perception_rt.cli.train", "train a network on labelled data, or score a bundle"),
    "topic": Subcommand("perception_rt.cli.topic", "list, echo and measure topics of a running graph"),
    "param": Subcommand("perception_rt.cli.param", "list, get, describe and set parameters of running nodes"),
    "lifecycle": Subcommand("perception_rt.cli.lifecycle", "show and change the states of running nodes"),
    "record": Subcommand("perception_rt.cli.record", "record topics of a running graph"),
    "export": Subcommand("perception_rt.cli.export", "write results as COCO, KITTI, MOT, YOLO or CSV"),
    "doctor": Subcommand("perception_rt.cli.doctor", "check this machine, its transport and topics"),
    "completion": Subcommand("perception_rt.cli.completion", "print shell completion for bash, zsh or fish"),
}
EXIT_CODES = """\
exit codes: 0 success; 1 a check, comparison or budget failed; 2 the input cannot be used; 3 replayed, but
incomplete; 130 interrupted"""


class _Parser(argparse.ArgumentParser):
    """Names a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Build the parser; import only the module of `command`."""
    parser = _Parser(
        prog="perception-rt",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, subcommand in SUBCOMMANDS.items():
        if name == command:
            _add_subcommand(subparsers, name, subcommand)
        else:
            subparsers.add_parser(name, help=subcommand.summary)
    return parser


def _add_subcommand(
    subparsers: argparse._SubParsersAction[_Parser], name: str, subcommand: Subcommand
) -> None:
    module = importlib.import_module(subcommand.module)
    parser = subparsers.add_parser(
        name,
        help=subcommand.summary,
        description=module.__doc__,
        epilog="examples:\n" + module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        Its exit status; 2 for unusable input (with a one-line reason), 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in SUBCOMMANDS else None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode
    code = 0
    try:
        try:
            code = _run(argv, command)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, since at the end of the interpreter an error cannot be told
    except KeyboardInterrupt:  # also while the command is imported, or cleans up
        print(f"perception-rt {command}: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader, like `head`, closed the pipe
        _drop_output()
    except OSError as error:  # a given file or folder cannot be read or written
        where = f"{error.filename}: " if error.filename is not None else ""
        code = _fail(command, f"{where}{error.strerror or error}")
        _drop_output()
    return code


def _run(argv: list[str], command: str | None) -> int:
    args = build_parser(command).parse_args(argv)
    from perception_rt.types.errors import PerceptionError  # imports numpy: not for --help

    try:
        return int(args.run(args))
    except PerceptionError as error:
        return _fail(command, str(error))


def _drop_output() -> None:
    """Drop what standard output does not take, so that the end of the interpreter does not fail on it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(command: str | None, text: str) -> int:
    print(f"perception-rt {command}: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
