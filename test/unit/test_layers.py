"""Who may import whom: the rooms' order, as README's table of folders gives it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import perception_rt

ROOT = Path(perception_rt.__file__).parent
CORE = {"types", "codec", "model", "realtime", "stage"}
ALLOWED = {
    "types": set(),
    "codec": {"types"},
    "model": {"types"},
    "realtime": {"types"},
    "stage": {"types", "codec", "model", "realtime"},
    "component": CORE,
    "replay": CORE | {"component"},
    "sim": CORE,
    "train": CORE | {"replay", "sim"},
    "node": CORE | {"component", "replay", "sim"},
    "cli": CORE | {"component", "replay", "sim", "train", "node"},
}


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    names = set()
    for part in ast.walk(ast.parse(path.read_text())):
        if isinstance(part, ast.ImportFrom):
            names.add(part.module or "")
        elif isinstance(part, ast.Import):
            names |= {alias.name for alias in part.names}
    return names


def test_every_room_has_a_rule():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(room):
    for path in (ROOT / room).rglob("*.py"):
        used = {name.split(".")[1] for name in imports_of(path) if name.startswith("perception_rt.")}
        assert used - {room} <= ALLOWED[room], path.relative_to(ROOT)


def test_realtime_needs_the_standard_library_only():
    for path in (ROOT / "realtime").glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & {"numpy", "torch", "cv2", "rclpy"}


def test_no_class_name_has_two_meanings():
    places: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for part in ast.parse(path.read_text()).body:
            if isinstance(part, ast.ClassDef) and not part.name.startswith("_"):
                places.setdefault(part.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
