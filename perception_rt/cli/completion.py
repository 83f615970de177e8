"""Print the completion script of a shell.

The script completes subcommands, their options and file names; it does not start Python.
"""

from __future__ import annotations

import argparse

EXAMPLES = """\
  source <(perception-rt completion bash)
  perception-rt completion zsh > ~/.zfunc/_perception-rt
  perception-rt completion fish > ~/.config/fish/completions/perception-rt.fish"""

_BASH = """\
_perception_rt() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word"; compgen -f -- "$word")
}}
complete -o filenames -F _perception_rt perception-rt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    words = command_words()
    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell](words), end="")
    return 0


def command_words() -> dict[str, list[str]]:
    """Return the options and nested actions of each subcommand."""
    from perception_rt.cli.main import SUBCOMMANDS, build_parser

    return {name: _words(_subparsers(build_parser(name))[name]) for name in SUBCOMMANDS}


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def _words(parser: argparse.ArgumentParser) -> list[str]:
    words = [option for action in parser._actions for option in action.option_strings if option[:2] == "--"]
    for action in parser._actions:
        if not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    for nested in _subparsers(parser).values():
        words += _words(nested)
    return sorted(set(words))


def bash(words: dict[str, list[str]]) -> str:
    """Return the script for bash."""
    cases = "\n".join(f'            {name}) words="{" ".join(some)}" ;;' for name, some in words.items())
    return _BASH.format(commands=" ".join(words), cases=cases)


def zsh(words: dict[str, list[str]]) -> str:
    """Return the script for zsh, which runs that for bash."""
    return "#compdef perception-rt\nautoload -U +X bashcompinit && bashcompinit\n" + bash(words)


def fish(words: dict[str, list[str]]) -> str:
    """Return the script for fish."""
    lines = [f"complete -c perception-rt -n __fish_use_subcommand -f -a '{' '.join(words)}'"]
    for name, some in words.items():
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        lines += [f"complete -c perception-rt {condition} -l {w[2:]}" for w in some if w.startswith("--")]
        nested = [word for word in some if not word.startswith("--")]
        if nested:
            lines.append(f"complete -c perception-rt {condition} -a '{' '.join(nested)}'")
    return "\n".join(lines) + "\n"
