"""Configurations of mmdetection3d are data: what is understood, and what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.model.importers.mmdet3d_config import parse_config, read_config
from perception_rt.types import BundleError


def parse(text):
    return parse_config(text, "here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(a=1, b=[2.5, -3, None], c=('x', True))", {"a": 1, "b": [2.5, -3, None], "c": ("x", True)}),
        ("{'a': 1, **dict(b=2)}", {"a": 1, "b": 2}),
        ("dict(dict(a=1), **{'b': 2})", {"a": 1, "b": 2}),
        ("[0.2, 0.2, 8][:2] + [1 / 4]", [0.2, 0.2, 0.25]),
        ("sum([128] * 3) - 2 ** 3 // 3 % 5", 382),
        ("dict(lr=0.001)['lr'] * 10", 0.01),
        ("'data/' + 'kitti'", "data/kitti"),
        ("max(1, 2) if_not", None),
    ],
)
def test_expressions(text, value):
    if value is None:
        with pytest.raises(BundleError, match="is no Python"):
            parse(f"x = {text}")
    else:
        assert parse(f"x = {text}") == {"x": value}


def test_names_and_quoted_comments():
    found = parse('"""A network."""\nsize = [1, 2]\na = b = dict(size=size)\nsize = 3\n')
    assert found == {"size": 3, "a": {"size": [1, 2]}, "b": {"size": [1, 2]}}


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "from mmengine.config import read_base",
        "with read_base():\n    from .base import *",
        "x = open('ran', 'w')",
        "x = __import__('os').system('touch ran')",
        "x = [i for i in (1, 2)]",
        "x = lambda: 1",
        "x = dict.__class__",
        "x = ''.join(['a'])",
        "x = f'{1}'",
        "x = '%s' % 1",
        "x = y",
        "x = eval('1')",
        "x = dict(*[1])",
        "x = (y := 1)",
        "x = 1 if True else 2",
        "x = {1, 2}",
        "x, y = 1, 2",
        "x[0] = 1",
        "x += 1",
        "del x",
        "if True:\n    x = 1",
        "for i in (1,):\n    x = i",
        "def f():\n    pass",
        "x = 1; print(x)",
        "x = b'bytes'",
    ],
)
def test_code_is_one_line_and_not_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError) as caught:
        parse(text)
    assert "line 1: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "x = 9 ** 9 ** 9",
        "x = 10 ** 60",
        "x = [0] * 10 ** 9",
        "x = 10 ** 9 * 'a'",
        "x = 1 / 0",
        "x = [1][5]",
        "x = dict(a=1)['b']",
        "x = int('a')",
        "x = sum(1)",
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "-" * 20000 + "1",
        "x = (",
        "\0",
    ],
)
def test_what_cannot_be_worked_out_is_one_line(text):
    with pytest.raises(BundleError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.fixture
def base(tmp_path):
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "base.py"
    file.write_text("size = [1, 2]\nmodel = dict(type='A', head=dict(x=1, y=2), neck=dict(z=3))\n")
    return file


def test_bases_are_laid_under(tmp_path, base):
    (tmp_path / "tests.json").write_text(json.dumps({"test_cfg": {"score": 0.1}}))
    file = tmp_path / "mine.py"
    file.write_text(
        "_base_ = ['./models/base.py', 'tests.json']\n"
        "model = dict(head=dict(x=5), neck=dict(_delete_=True, w=4))\n"
        "size = {{_base_.size}}\n"
        "other = dict(type=_base_.model.type, of='{{_base_.model.type}}/{{ _base_.size }}')\n"
    )
    assert read_config(file) == {
        "size": [1, 2],
        "test_cfg": {"score": 0.1},
        "model": {"type": "A", "head": {"x": 5, "y": 2}, "neck": {"w": 4}},
        "other": {"type": "A", "of": "A/[1, 2]"},
    }


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_dumps(tmp_path, base, suffix):
    file = tmp_path / f"mine.{suffix}"
    data = {"_base_": "models/base.py", "model": {"head": {"x": 5}}, "again": "{{_base_.size}}"}
    file.write_text(json.dumps(data))
    assert read_config(file)["again"] == [1, 2]
    assert read_config(file)["model"]["head"] == {"x": 5, "y": 2}


def test_tuples_of_a_yaml_dump(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("reg: !!python/tuple\n- 2\n- 2\n")
    assert read_config(file) == {"reg": [2, 2]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "_base_ = 'a.py'", "is based on itself"),
        ("a.py", "_base_ = 'absent.py'", "cannot be read"),
        ("a.py", "_base_ = 3", "must be file names"),
        ("a.py", "_base_ = ['models/base.py', './models/base.py']", "two of _base_ set it"),
        ("a.py", "_base_ = 'models/base.py'\nx = _base_.absent", "_base_.absent"),
        ("a.py", "_base_ = 'models/base.py'\nsize = dict(a=1)", "size: an object over a list"),
        ("a.json", "[1]", "holds no configuration"),
        ("a.json", "{", "cannot be parsed"),
        ("a.json", "[" * 100_000, "cannot be parsed"),
        ("a.yaml", "x: !!python/object/apply:os.system [ls]", "cannot be parsed"),
        ("a.py", "x = 1\n" * 300_000, "over 1048576 bytes"),
    ],
)
def test_files_that_are_none(tmp_path, base, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BundleError) as caught:
        read_config(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


PIECES = ["x", "y", "_base_", "dict(", ")", "[", "]", "{", "}", ",", "=", ":", "**", "*", "+", "-", "/", "1"]
PIECES += ["10", "'a'", ".", "(1,2)", "None", "{{", "}}", "\n", "import", "if", "for", "lambda", "sum("]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_text_is_data_or_one_line(pieces):
    try:
        found = str(parse(" ".join(pieces)))
    except BundleError as error:
        found = str(error)
    assert "\n" not in found
