"""Read the folder of a replay and write the report files to it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from perception_rt.replay.report.colours import DARK, LIGHT
from perception_rt.types import ConfigError

_MOST_LINES, _MOST_OF_ONE = 5000, 4
_HERE = Path(__file__).parent
_SECTIONS = ("streams", "bag", "bundles", "outputs", "scores")


def read_metrics(folder: Path) -> dict:
    """Read the metrics.json of a folder.

    Raises:
        ConfigError: the file is missing or does not belong to a replay.
    """
    path = folder / "metrics.json"
    metrics = _read(path)
    if metrics is None:
        raise ConfigError(f"{path}: no such file; is {folder} what `perception-rt replay --out` wrote?")
    missing = [name for name in _SECTIONS if not isinstance(metrics.get(name), dict)]
    if metrics.get("format") != 1 or missing:
        told = f"format={metrics.get('format')!r}" if not missing else f"no {', '.join(missing)}"
        raise ConfigError(f"{path}: not the metrics of this version's replay: {told}; replay again")
    return metrics


def read_run(folder: Path) -> dict | None:
    """Read the run.json of a folder; None if the run is not complete."""
    return _read(folder / "run.json")


def first_differences(folder: Path) -> list[dict]:
    """Return the first differences from a golden run by topic and file; empty without a comparison.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = folder / "differences.json"
    if not path.exists():
        return []
    seen: Counter[str] = Counter()
    shown = []
    try:
        with path.open(encoding="utf-8") as lines:  # one per line: only the first lines need to be read
            for line in islice((line for line in lines if line.startswith('{"kind"')), _MOST_LINES):
                row = json.loads(line.rstrip(",\n"))
                where = str(row["where"])
                seen[where] += 1
                if seen[where] <= _MOST_OF_ONE:
                    shown.append(row)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except KeyError as error:
        raise ConfigError(f"{path}: line {line[:80]!r}: no {error}") from error
    return shown


def _read(path: Path) -> dict | None:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not an object but {type(value).__name__}")
    return value


def write_page(path: Path, template: str, values: Mapping[str, object]) -> None:
    """Render a template of this folder and write it atomically; text that is not `Markup` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template(template).render(
        values,
        style=_style(),
        script=Markup((_HERE / "timeline.js").read_text(encoding="utf-8")),
    )
    part = path.with_name(path.name + ".part")
    part.write_text(text.lstrip(), encoding="utf-8")
    os.replace(part, path)


def _style() -> Markup:
    def rules(colours: Mapping[str, str]) -> str:
        return "".join(f".{name}{{--c:{colour}}}" for name, colour in colours.items())

    base = (_HERE / "style.css").read_text(encoding="utf-8")
    return Markup(f"{base}{rules(LIGHT)}@media(prefers-color-scheme:dark){{{rules(DARK)}}}")
