"""Generated pages are those of the code, links lead somewhere, and the API is described in full."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

import perception_rt
from perception_rt.cli.main import build_parser
from perception_rt.component.graph import class_of
from perception_rt.component.parameters import NODE_PARAMETERS, resolve
from test.segmenters import save_colour_map

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", folder], check=True, timeout=300)
    return folder


@pytest.mark.parametrize("name", ["reference/nodes.md", "figures/graph.svg", "figures/frame.svg"])
def test_the_generated_files_are_up_to_date(generated, name):
    wanted = (generated / name).read_text()
    assert (ROOT / "docs" / name).read_text() == wanted, "run: python docs/generate.py"


def test_the_reference_names_topics_and_parameters(generated):
    text = (generated / "reference" / "nodes.md").read_text()
    for part in (
        "`~/detections`",
        "`~/predicted_path`",
        "`detections_2d_topic`",
        "`max_age_ms`",
        "`/tf_static`",
    ):
        assert part in text


def test_every_node_may_publish_its_outputs_and_read_transforms_in_its_enclave():
    policy = ElementTree.parse(ROOT / "config" / "sros2" / "policies.xml")
    allowed = {
        enclave.get("path", "").rpartition("/")[2]: {
            kind: {topic.text for part in enclave.iter("topics") if part.get(kind) for topic in part}
            for kind in ("publish", "subscribe")
        }
        for enclave in policy.iter("enclave")
    }
    sections = re.split(r"^## ", (ROOT / "docs" / "reference" / "nodes.md").read_text(), flags=re.MULTILINE)
    nodes = {section.split()[0]: section for section in sections if "| direction |" in section}
    assert len(nodes) >= 8
    for name, section in nodes.items():
        for topic in re.findall(r"^\| out \| `/?([^`]+)`", section, flags=re.MULTILINE):
            assert topic in allowed[name]["publish"], (name, topic)
        for topic in re.findall(r"^\| in \| `/(tf\w*)`", section, flags=re.MULTILINE):
            assert topic in allowed[name]["subscribe"], (name, topic)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_are_understood(page):
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("perception-rt ") and "..." not in line:
                words = shlex.split(line, comments=True)[1:]
                build_parser(words[0]).parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_on_the_pages_exist_and_are_in_range(page):
    for block in blocks(page, "yaml"):
        graph = yaml.safe_load(block)
        if isinstance(graph, dict):
            for node, entry in graph.items():
                parameters = (*NODE_PARAMETERS, *class_of("perception_rt.component", node).PARAMETERS)
                resolve(parameters, entry["ros__parameters"])
                assert set(entry["ros__parameters"]) <= {one.name for one in parameters}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_pages_runs(page, tmp_path):
    for block in blocks(page, "python"):
        code = block.replace('"mine.pt"', '"sim_camera"')
        if '"seg.pt"' in code:
            save_colour_map(tmp_path / "seg.pt")
            code = code.replace('"seg.pt"', repr(str(tmp_path / "seg.pt")))
        exec(compile(code, str(page), "exec"), {"image": np.zeros((540, 960, 3), np.uint8)})


def test_the_api_page_names_each_public_name_once():
    page = (ROOT / "docs" / "reference" / "api.rst").read_text()
    kinds = {name: kind for kind, name in re.findall(r"^\.\. auto(\w+):: (\w+)$", page, re.M)}
    assert len(kinds) == page.count(".. auto")
    assert sorted(kinds) == sorted(perception_rt.__all__)
    for name, kind in kinds.items():
        value = getattr(perception_rt, name)
        is_error = isinstance(value, type) and issubclass(value, Exception)
        assert kind == ("exception" if is_error else "class" if isinstance(value, type) else "function"), name


def entries(docstring: str | None, section: str) -> set[str]:
    """The names that a section of a Google style docstring describes."""
    text = inspect.cleandoc(docstring or "").partition(f"{section}:\n")[2].partition("\n\n")[0]
    return {name for names in re.findall(r"^    (\w[\w, ]*):", text, re.M) for name in names.split(", ")}


def public_functions() -> dict[str, Callable]:
    """Public functions, and the public methods and constructors of public classes."""
    found = {}
    for name in perception_rt.__all__:
        value = getattr(perception_rt, name)
        if not isinstance(value, type):
            found[name] = value
        elif not issubclass(value, Exception):
            own = {key: getattr(value, key) for key in vars(value) if not key.startswith("_")}
            found |= {f"{name}.{key}": method for key, method in own.items() if callable(method)}
            if not dataclasses.is_dataclass(value):
                found[name] = value
    return found


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_each_parameter_is_described(name):
    function = public_functions()[name]
    wanted = set(inspect.signature(function).parameters) - {"self"}
    assert wanted <= entries(function.__doc__, "Args")


DATACLASSES = [
    name for name in perception_rt.__all__ if dataclasses.is_dataclass(getattr(perception_rt, name))
]


@pytest.mark.parametrize("name", DATACLASSES)
def test_each_field_is_described_on_its_own_line(name):
    value = getattr(perception_rt, name)
    wanted = {field.name for field in dataclasses.fields(value)}
    assert wanted <= set(re.findall(r"^    (\w+):", inspect.getdoc(value), re.M))


def test_sphinx_reads_each_description_as_text():
    """It takes ``word: text`` in a property for a type, and ``m.`` alone for the start of an enumeration."""
    for name in perception_rt.__all__:
        value = getattr(perception_rt, name)
        properties = [own for own in vars(value).values() if isinstance(own, property)]
        assert not [own.__doc__ for own in properties if ":" in own.__doc__.split("\n\n")[0]], name
        assert not re.findall(r"^ +\w+: \w\.(?= |$)", value.__doc__, re.M), name
