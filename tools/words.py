"""Check code and documentation for words that the field has better ones for; `make lint` runs it.

python tools/words.py          # exit 1 and one line for each find
python tools/words.py --list   # the table
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "perception_rt",
    "launch",
    "config",
    "docs",
    "examples",
    "bench",
    "test",
    "README.md",
    "CONTRIBUTING.md",
)
SUFFIXES = {".py", ".md", ".yaml", ".j2"}
KEEPS_OLD = {"CHANGELOG.md", "tools/words.py", "test/unit/test_words.py"}

# What must not come back, as a regular expression, and what is said instead.
WORDS = {
    r"\bhost\.hear\(|def hear\(": "create_subscription(",
    r"\bhost\.every\(": "create_timer(",
    r"\.listeners\(|def listeners\(": "get_subscription_count(",
    r"\bcomplain\w*\(|def complain|\b_complain\b": "warn(",
    r"\binform\(": "info(",
    r"\badvertise\(": "create_publisher(",
    r"\bFates?\b|\bfates?\b": "Outcome, outcome",
    r"\bAccount\b|\baccount_for\b": "StreamStats, add_stream",
    r"\bsettle\(": "finish(",
    r"\bgive_up\b": "cancel_running",
    r"\babandon\(": "cancel_pending(",
    r"tracking[./]usual\b": "tracking.presets",
    r"\bFOR_PEOPLE\b": "VISUALIZATION_TYPES",
    r"\bDoubts\b": "DefaultVariances",
    r"\bplayers\(": "replayable_nodes(",
    r"\bwind_down\b": "shut_down",
    r"no patience": "faster than real time",
    r"\bsomebody\b|\banybody\b": "a user, another process; while there are subscribers",
    r"(hold|held|holds) (a |the )?bundles? to": "verify a bundle's hash and golden output",
    r"does not believe": "fail the gate",
    r"has its turn|next frame has": "the next frame is processed",
    r"whatever (a )?\w+ does": "say what may fail",
    r"\b(is|are) told of\b|\btell of\b|\btold in lumps\b": "reported",
    r"\bfor people\b": "for visualization, as text",
    r"\bnobody\b": "there is no ...; there are no subscribers",
    r"\bbecame of\b": "the outcome of",
    r"\bto my taste\b|\bmoody\b": "not supported; failing",
    r"\boftener\b": "more often",
    r"\bits kin\b": "and so on; similar ones",
    r"\bheld to\b": "checked against, compared with",
    r"\bhas (no|its|a) say\b": "is (not) used",
    r"\bis (said|told) to\b": "name who does it: the node reports to",
    r"\b(surest|least sure)\b": "the most, the least confident",
    r"\bno node takes\b|\bof no meaning\b|\bfarewell\b": "no node accepts; unused; disconnect",
    r"\bnode that most people write\b|\bknow how wrong\b": "a straightforward node; consistency",
}


def tracked() -> list[Path]:
    """Return the files to check."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS]
    names = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    return [ROOT / name for name in names if Path(name).suffix in SUFFIXES and name not in KEEPS_OLD]


def find(text: str) -> list[tuple[int, str, str]]:
    """Return (line number, what was found, what to say instead) of a text."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if "words: ok" in line:  # the old name itself is meant
            continue
        for pattern, better in WORDS.items():
            match = re.search(pattern, line, re.I if pattern.islower() else 0)
            if match:
                found.append((number, match.group(0), better))
    return found


def main(argv: list[str]) -> int:
    """Print what was found; return the exit status."""
    if argv == ["--list"]:
        for pattern, better in WORDS.items():
            print(f"{pattern:60} {better}")
        return 0
    finds = 0
    for path in tracked():
        if not path.is_file():
            continue  # deleted, not yet committed
        for number, word, better in find(path.read_text()):
            print(f"{path.relative_to(ROOT)}:{number}: {word!r}: say {better!r}")
            finds += 1
    return int(finds > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
