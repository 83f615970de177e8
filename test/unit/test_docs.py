"""Generated pages are those of the code, and what the pages link to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link
