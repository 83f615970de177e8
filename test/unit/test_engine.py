"""Engines give the golden answer or say why not; auto measures; a bad bundle is one line."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
import zipfile

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.staged import StagedNetwork
from perception_rt.cli.main import main
from perception_rt.model import bundle, choice
from perception_rt.model.archive import MANIFEST_FILE, read_archive, read_manifest, write_archive
from perception_rt.model.device_image import DevicePreparer
from perception_rt.model.engine import EngineOptions, engine_names, find_engine
from perception_rt.model.export import onnx_program, torchscript_program
from perception_rt.model.host_image import ImagePreparer, resize
from perception_rt.model.manifest import ImageSpec, bundle_sha256
from perception_rt.model.runtime import SHIPPED, Runtime
from perception_rt.types import BundleError, ConfigError

SIZE = (64, 96)
SPEC = ImageSpec(SIZE, "letterbox", "bilinear", "rgb")
NAMES = (("images",), ("raw",))


class CellDecoder(nn.Module):
    """Raw cells (1, 7, h, w) in [0, 1]: objectness, box, scores of two classes."""

    def forward(self, outputs: list[torch.Tensor], height: int, width: int, score_threshold: float):
        out = outputs[0][0]
        scores, labels = out[5:].max(0)
        rows, columns = out.shape[1], out.shape[2]
        x = (torch.arange(columns) + out[1]) * (width / columns)
        y = (torch.arange(rows).unsqueeze(1) + out[2]) * (height / rows)
        w, h = out[3] * width / 4, out[4] * height / 4
        boxes = torch.stack([x - w, y - h, x + w, y + h], -1).flatten(0, 1)
        return boxes, (scores * out[0]).sqrt().flatten(), labels.flatten()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 7, 8, stride=8), nn.Sigmoid()).eval()


def picture(seed=0, height=90, width=130):
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return blocks.repeat(10, 0).repeat(10, 1)


def save(path, *programs, **changes):
    example = torch.zeros(1, 3, *SIZE)
    made = programs or (
        torchscript_program(network(), example, *NAMES),
        onnx_program(network(), example, *NAMES, {}),
    )
    fields = {
        "decoder": CellDecoder(),
        "name": "cells",
        "classes": ("a", "b"),
        "input_spec": SPEC,
        "licence": "Apache-2.0",
        "score_threshold": 0.3,
        "nms_threshold": 0.5,
        "golden": picture()[None],
    }
    return bundle.save_network(path, list(made), **{**fields, **changes})


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.pt"
    save(path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", engine_names())
def test_each_engine_answers_as_the_reference_or_says_why_not(cells, name):
    options = EngineOptions()
    why = find_engine(name).available(options)
    kinds = find_engine(name).KINDS
    if why is not None or not {"torchscript", "onnx"} & set(kinds):
        with pytest.raises(ConfigError, match=f"engine='{name}'"):
            Runtime.open(cells, "cpu", engine=name)
        return
    images = np.stack([picture(seed) for seed in (3, 4)])
    expected = Runtime.open(cells, "cpu", engine="torchscript")(images)
    assert len(expected[0]) > 3
    for got, want in zip(Runtime.open(cells, "cpu", engine=name)(images), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-3)


SIGNALLED = """
import os, signal, sys
from perception_rt.model.runtime import Runtime
one, other = (Runtime.open(sys.argv[1], engine="openvino") for _ in range(2))
del one
del other
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("handled")
"""


def test_a_signal_is_handled_after_engines_came_and_went(cells):
    """Each OpenVINO Core sets a stack for signal handlers; one that is freed ends the process."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, str(cells)],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout == "handled\n", (done.returncode, done.stderr)


def test_an_unknown_engine_is_named(cells):
    with pytest.raises(ConfigError, match="engine='steam': must be auto or one of torchscript"):
        Runtime.open(cells, "cpu", engine="steam")


def test_auto_takes_the_fastest_and_says_what_the_others_took(cells):
    found = Runtime.open(cells, "cpu", threads=1).choice
    took = [value for value in found.others.values() if not isinstance(value, str)]
    assert took
    assert found.ms <= min(took)
    assert f"{found.ms:.1f} ms" in str(found)


def test_a_damaged_cache_costs_a_trial_and_nothing_else(cells, monkeypatch):
    monkeypatch.setattr(choice, "_quiet", lambda *_: True)
    Runtime.open(cells, "cpu", threads=1)
    file = choice.cache_folder() / choice.CACHE_FILE
    kept = json.loads(file.read_text())
    entry = next(iter(kept.values()))
    damaged = [3, entry | {"disturbed": "no"}, entry | {"others": 1}, {"disturbed": 1}]
    for damage in ("{", "[]", *(json.dumps(dict.fromkeys(kept, value)) for value in damaged)):
        file.write_text(damage)
        assert Runtime.open(cells, "cpu", threads=1).choice.ms > 0


def test_a_program_that_answers_otherwise_is_not_written_and_an_optional_one_is_left_out(tmp_path):
    example = torch.zeros(1, 3, *SIZE)
    good, other = (onnx_program(network(seed), example, *NAMES, {}) for seed in (0, 1))
    with pytest.raises(BundleError, match=r"network1\.onnx \(fp32\) differs"):
        save(tmp_path / "x.pt", good, other)
    assert not list(tmp_path.glob("*.pt"))
    manifest = save(tmp_path / "x.pt", good, dataclasses.replace(other, optional=True))
    assert len(manifest.programs) == 1
    assert "expected detections" in manifest.provenance["left_out"]["network1.onnx"]


def test_what_the_source_expects_is_held_to(tmp_path):
    boxes = np.array([[1.0, 2, 3, 4]], np.float32), np.array([0.9], np.float32), np.array([1])
    with pytest.raises(BundleError, match=r"module\.pt \(fp32\) differs: 0 of 1 expected"):
        save(tmp_path / "x.pt", expected=boxes)


def test_a_program_that_takes_any_batch_answers_several_images_in_one_run(tmp_path):
    example, path = torch.zeros(1, 3, *SIZE), tmp_path / "batch.pt"
    dynamic = {"images": {0: "N"}, "raw": {0: "N"}}
    program = onnx_program(network(), example, *NAMES, dynamic)
    save(path, dataclasses.replace(program, any_batch=True))
    runtime = Runtime.open(path, "cpu", engine="onnxruntime")
    images = np.stack([picture(seed) for seed in (3, 4, 5)])
    expected = runtime(images)
    sizes, run = [], runtime._detect._engine.run

    def counted(inputs):
        sizes.append(len(inputs["images"]))
        return run(inputs)

    runtime._detect._engine.run = counted
    runtime._detect.together = True  # as on a GPU, where one run of three is faster
    for got, want in zip(runtime(images), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert sizes == [3]


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "letterbox_top_left", "fit"])
@pytest.mark.parametrize("method", ["bilinear", "area", "antialias"])
@pytest.mark.parametrize("native", [(90, 130), (300, 200), (61, 97), SIZE])
@pytest.mark.parametrize("bgr", [False, True])
def test_a_device_prepares_images_as_the_host_does(mode, method, native, bgr):
    spec = ImageSpec(SIZE, mode, method, "bgr", 1 / 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *native, 3), dtype=np.uint8))
    cpu = torch.device("cpu")
    inputs, where = ImagePreparer(spec, ("images",), cpu)(images, bgr)
    found = DevicePreparer(spec, cpu)(images, bgr, where)
    assert found.shape == inputs["images"].shape
    assert float((found - inputs["images"]).abs().max()) <= 2.01 / 255 / 0.2


SIDES = st.integers(1, 90)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES)
def test_area_is_opencvs_but_for_a_rounded_tie(rows, columns, height, width):
    height, width = min(rows, height), min(columns, width)
    pixels = np.random.default_rng(rows).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    found = resize(pixels, width, height, "area")
    expected = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(int) - expected.reshape(found.shape))
    assert difference.max() <= 1
    assert found.size < 100 or (difference > 0).mean() < 0.05


def test_a_row_that_ends_early_in_memory_is_resized_too():
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    part = pixels[:, :90]
    np.testing.assert_array_equal(resize(part, 30, 20, "area"), resize(part.copy(), 30, 20, "area"))


def test_staged_images_give_the_networks_own_outputs():
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    staged = StagedNetwork(SPEC, network().to(where), (90, 130), where)
    for seed in range(5):  # more than there are staging buffers
        image = picture(seed)[None]
        inputs, _ = ImagePreparer(SPEC, ("images",), torch.device("cpu"))(torch.from_numpy(image), False)
        with torch.inference_mode():
            expected = network()(inputs["images"])
        torch.testing.assert_close(staged(image)[0].cpu(), expected, atol=0.02, rtol=0)


# --- bad bundles ---------------------------------------------------------------------------------------


def edited(source, path, edit, compression=zipfile.ZIP_STORED):
    """A copy of a bundle with another manifest."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, edit(data) if name.endswith(MANIFEST_FILE) else data)
    return path


def change(**fields):
    def edit(data):
        manifest = json.loads(data)
        for name, value in fields.items():
            target = manifest
            *parents, last = name.split("__")
            for parent in parents:
                target = target[parent]
            target[last] = value
        return json.dumps(manifest).encode()

    return edit


BAD = {
    "overflow": (change(score_threshold=10**400), "score_threshold=.*finite"),
    "deep": (lambda _: b'{"schema_version":' + b"[" * 100_000, "nested too deeply"),
    "huge": (lambda data: data[:-1] + b" " * (1 << 28) + b"}", "manifest has 26.* bytes, at most"),
    "classes": (change(classes=["b", "a"]), "contents have sha256"),
    "decoder": (change(decoder__parameters={"file": "encoder.pt"}), "member encoder.pt is missing"),
    "preprocessing": (change(input__order="bgr"), "contents have sha256"),
    "tolerance": (change(golden__box_tolerance=1e300), r"box_tolerance=1e\+300: must be in"),
    "surrogate": (change(name="\ud800"), "name=.*lone surrogate"),
    "terabytes": (change(golden__shape=[4096, 4096, 4096, 3]), "golden.shape=.*must hold at most"),
    "path": (change(golden__file="../../etc/passwd"), "golden.file=.*plain file name"),
    "input": (change(input__size=[16384, 16384]), "input.size=.*must be at most"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_bundle_is_one_line_at_once(cells, tmp_path, kind):
    edit, text = BAD[kind]
    packed = zipfile.ZIP_DEFLATED if kind == "huge" else zipfile.ZIP_STORED
    path = edited(cells, tmp_path / "bad.pt", edit, packed)
    started = time.monotonic()
    with pytest.raises(BundleError, match=text) as caught:
        Runtime.open(path, "cpu")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 2.0


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    broken = network()
    with torch.no_grad():
        broken[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(BundleError, match="NaN or infinity"):
        save(tmp_path / "x.pt", torchscript_program(broken, torch.zeros(1, 3, *SIZE), *NAMES))


def test_a_missing_or_changed_member_is_named(cells, tmp_path):
    archive = read_archive(cells)
    path = tmp_path / "x.pt"
    without = {name: data for name, data in archive.members.items() if name != "decoder.pt"}
    write_archive(path, archive.manifest, without)
    with pytest.raises(BundleError, match=r"member decoder\.pt is missing"):
        Runtime.open(path, "cpu")
    write_archive(path, archive.manifest, {**archive.members, "golden.png": b"no picture"})
    with pytest.raises(BundleError, match="contents have sha256"):
        Runtime.open(path, "cpu")
    members = {**archive.members, "golden.png": b"no picture at all, but long enough"}
    honest = dataclasses.replace(archive.manifest, sha256=bundle_sha256(archive.manifest, members))
    write_archive(path, honest, members)
    with pytest.raises(BundleError, match="golden picture has"):
        Runtime.open(path, "cpu")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.pt")), ids=lambda path: path.stem)
def test_shipped_bundles_prove_themselves_on_a_scene(path):
    manifest = read_manifest(path)
    assert manifest.schema_version == 2
    assert manifest.golden.origin in ("picture", "cloud")
    assert len(manifest.golden.scores) >= 5


def test_compile_says_what_it_built_and_what_it_left_out(cells, capsys):
    assert main(["bundle", "compile", str(cells)]) == 0
    said = capsys.readouterr().out
    assert "tensorrt: left out: TensorRT needs a CUDA device" in said
    assert "0 compiled" in said


def test_torch_export_does_not_run_before_it_is_compiled(tmp_path):
    exported = io.BytesIO()
    example = torch.zeros(1, 3, *SIZE)
    torch.export.save(torch.export.export(network(), (example,)), exported)
    path = tmp_path / "pt2.pt"
    program = bundle.ProgramSource("pt2", exported.getvalue(), *NAMES)
    with pytest.raises(BundleError, match="not compiled for this machine: run"):
        save(path, program)


def test_verify_says_that_noise_proves_little(tmp_path, capsys):
    save(tmp_path / "noise.pt", golden=None)
    assert main(["bundle", "verify", str(tmp_path / "noise.pt")]) == 0
    assert "its golden input is noise" in capsys.readouterr().out
    assert main(["bundle", "verify", "sim_camera"]) == 0
    assert "noise" not in capsys.readouterr().out


def test_images_take_no_encoder(tmp_path):
    path = tmp_path / "cells.pt"
    with pytest.raises(BundleError, match="images take no encoder"):
        save(path, encoder=torch.nn.Identity())
    assert not path.exists()
