"""Another package adds a decoder and an importer, as `examples/decoder_package` does."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from perception_rt.cli.main import main
from perception_rt.model.importers.auto import decoder_names
from perception_rt.model.runtime import Runtime

from .test_import_cases import constant_network

EXAMPLE = Path(__file__).parents[2] / "examples" / "decoder_package"
_ROWS = [[0.1, 0.2, 0.5, 0.6, 0.9, 1], [0.12, 0.2, 0.5, 0.6, 0.8, 1], [0, 0, 1, 1, 0.1, 0]]
ROWS = np.array(_ROWS, np.float32)
PICTURE = np.zeros((1, 100, 200, 3), np.uint8)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example, found as pip leaves it: its module, and a folder of metadata."""
    if not EXAMPLE.is_dir():
        pytest.skip("the examples are not here")
    text = (EXAMPLE / "pyproject.toml").read_text()
    lines, group = [], False
    for line in text.splitlines():
        if line.startswith("["):
            group = "entry-points" in line
            if group:
                lines.append(f"[{line.split(chr(34))[1]}]")
        elif group and line:
            lines.append(line.replace('"', ""))
    site = tmp_path / "site"
    metadata = site / "corners_decoder-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: corners-decoder\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / "corners_decoder.py").write_text((EXAMPLE / "corners_decoder.py").read_text())
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("corners_decoder", None)


def check(path):
    boxes, scores, labels, _ = Runtime.open(path, "cpu")(PICTURE)
    np.testing.assert_allclose(boxes, [[20, 20, 100, 60]], atol=1e-3)
    assert (scores.round(3), labels) == (0.9, 1)


@pytest.mark.parametrize("decoder", ["auto", "corners"])
def test_a_decoder_of_another_package(installed, tmp_path, capsys, decoder):
    image = ("images", TensorProto.FLOAT, [1, 3, 64, 64])
    path = constant_network(tmp_path / "c.onnx", [image], {"corners": ROWS[None]})
    (tmp_path / "n.txt").write_text("thing\nother\n")
    command = ["bundle", "export", "onnx", str(path), "--decoder", decoder, "--out", str(tmp_path / "x.pt")]
    assert main([*command, "--classes", str(tmp_path / "n.txt")]) == 0
    assert "decoder: corners" in capsys.readouterr().out
    assert "corners" in decoder_names()
    check(tmp_path / "x.pt")


def test_an_importer_of_another_package(installed, tmp_path):
    np.savez(tmp_path / "c.npz", rows=ROWS)
    command = ["bundle", "export", "corners_npz", str(tmp_path / "c.npz"), "--out", str(tmp_path / "x.pt")]
    assert main([*command, "--option", "size=32"]) == 0
    check(tmp_path / "x.pt")


def test_without_the_package_its_names_are_unknown(tmp_path, capsys):
    assert "corners" not in decoder_names()
    with pytest.raises(SystemExit):
        main(["bundle", "export", "corners_npz", "x.npz", "--out", "x.pt"])
    assert "invalid choice: 'corners_npz'" in capsys.readouterr().err
