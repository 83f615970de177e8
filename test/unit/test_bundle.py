"""Bundles: what is saved comes back, and what is not a sound bundle is refused with one line."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from perception_rt.model import bundle
from perception_rt.model.archive import read_manifest
from perception_rt.model.golden import golden_difference, golden_input
from perception_rt.model.manifest import SCHEMA_VERSION, ImageSpec, parse_manifest
from perception_rt.model.runtime import SHIPPED, Runtime
from perception_rt.model.torchscript import load_operators
from perception_rt.types import BundleError
from test.detectors import rewrite

load_operators()
SPEC = ImageSpec(size=None, resize="model", filter="model", order="rgb")


class Toy(nn.Module):
    """A tiny detector of two classes that takes images; each cell of 8 px of 64 x 96 predicts a box."""

    def __init__(self) -> None:
        super().__init__()
        self.score_threshold: float = 0.25
        self.nms_threshold: float = 0.45
        self.most = 10_000
        self.network = nn.Sequential(nn.Conv2d(3, 7, 8, stride=8), nn.Sigmoid())

    def forward(
        self,
        images: torch.Tensor,
        bgr: bool = False,
        score_threshold: float = -1.0,
        nms_threshold: float = -1.0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x = images.permute(0, 3, 1, 2).float() / 255
        x = x.flip(1) if bgr else x
        out = self.network(nn.functional.interpolate(x, [64, 96], mode="bilinear", align_corners=False))
        scores, labels = out[:, 5:].max(1)
        scores = (scores * out[:, 0]).sqrt()
        centre = torch.stack([torch.arange(12) + out[:, 1], torch.arange(8)[:, None] + out[:, 2]], -1) * 8
        half = out[:, 3:5].permute(0, 2, 3, 1) * 32
        boxes = torch.cat([centre - half, centre + half], -1)
        scale = torch.tensor([images.shape[2] / 96, images.shape[1] / 64]).repeat(2)
        index = torch.nonzero(scores >= (self.score_threshold if score_threshold < 0 else score_threshold))
        image, row, column = index[: self.most].unbind(1)
        found, chosen, kind = (
            boxes[image, row, column],
            scores[image, row, column],
            labels[image, row, column],
        )
        apart = found + ((image * 2 + kind) * 1000).unsqueeze(1)
        nms = self.nms_threshold if nms_threshold < 0 else nms_threshold
        kept = torch.ops.torchvision.nms(apart, chosen, nms)  # best first
        kept = kept[image[kept].argsort(stable=True)]
        return found[kept] * scale, chosen[kept], kind[kept], image[kept]


def toy_detector(seed: int = 0) -> Toy:
    """A `Toy` with weights from a seed."""
    torch.manual_seed(seed)
    return Toy()


def save_toy(path, **changes):
    fields = {"name": "toy", "classes": ("a", "b"), "licence": "Apache-2.0", "version": "7"}
    fields |= {"input_spec": SPEC, "provenance": {"recipe": "none", "map50": 0.5}}
    return bundle.save(path, toy_detector(), **{**fields, **changes})


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.pt"
    save_toy(path)
    return path


def test_round_trip_keeps_the_manifest_and_the_answers(tmp_path):
    path = tmp_path / "toy.pt"
    saved = save_toy(path)
    module, loaded = bundle.load(path)
    assert loaded == saved
    assert bundle.verify(path) == saved
    assert (loaded.name, loaded.version, loaded.classes) == ("toy", "7", ("a", "b"))
    assert loaded.provenance == {"recipe": "none", "map50": 0.5}
    assert (loaded.score_threshold, loaded.nms_threshold) == (0.25, 0.45)
    images = torch.from_numpy(golden_input(3, (2, 50, 70, 3)))
    with torch.no_grad():
        for mine, theirs in zip(toy_detector().eval()(images), module(images), strict=True):
            assert torch.equal(mine, theirs)


def test_saving_leaves_the_module_as_it_was(tmp_path):
    module = toy_detector().train()
    bundle.save(tmp_path / "x.pt", module, name="x", classes=("a", "b"), input_spec=SPEC, licence="MIT")
    assert module.training


def test_the_hash_tells_weights_apart_and_survives_saving(tmp_path):
    first, again = save_toy(tmp_path / "1.pt"), save_toy(tmp_path / "2.pt")
    assert first.sha256 == again.sha256
    other = bundle.save(
        tmp_path / "3.pt", toy_detector(1), name="toy", classes="ab", input_spec=SPEC, licence="MIT"
    )
    assert other.sha256 != first.sha256


def test_saving_is_whole_or_not_at_all(toy):
    before = toy.read_bytes()
    with pytest.raises(BundleError, match="licence=''"):
        save_toy(toy, licence="")
    assert toy.read_bytes() == before
    assert [p.name for p in toy.parent.iterdir()] == ["toy.pt"]
    with pytest.raises(BundleError, match="no folder"):
        save_toy(toy.parent / "nowhere" / "toy.pt")


def test_a_module_that_finds_nothing_or_lacks_thresholds_is_not_saved(tmp_path):
    nothing = toy_detector()
    nothing.most = 0
    fields = {"name": "x", "classes": "ab", "input_spec": SPEC, "licence": "MIT"}
    with pytest.raises(BundleError, match="finds nothing in the golden input"):
        bundle.save(tmp_path / "x.pt", nothing, **fields)
    with pytest.raises(BundleError, match="score_threshold=None"):
        bundle.save(tmp_path / "x.pt", nn.ReLU(), **fields)


class _Unscriptable(nn.Module):
    score_threshold = nms_threshold = 0.5

    def forward(self, *images):
        return images


def test_a_module_that_torchscript_cannot_say_is_refused(tmp_path):
    with pytest.raises(BundleError, match="_Unscriptable cannot be scripted"):
        bundle.save(tmp_path / "x.pt", _Unscriptable(), name="x", classes="a", input_spec=None, licence="MIT")


# --- refusals ----------------------------------------------------------------------------------------


def refuses(path, pattern, **options):
    with pytest.raises(BundleError, match=pattern) as caught:
        Runtime.open(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or "device" in str(caught.value)


def test_refuses_no_file(tmp_path):
    refuses(tmp_path / "none.pt", "no such file")
    with pytest.raises(BundleError, match="no_such_name: no such file, nor a shipped bundle"):
        Runtime.open("no_such_name")


def test_refuses_what_is_no_bundle(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"not a model" * 100)
    refuses(path, "not a bundle")
    torch.save(toy_detector().state_dict(), path)
    refuses(path, "not a bundle.*weights alone")


def test_refuses_a_truncated_file(toy):
    toy.write_bytes(toy.read_bytes()[:-5000])
    refuses(toy, "not a bundle")


def test_refuses_torchscript_without_a_manifest(tmp_path):
    path = tmp_path / "x.pt"
    torch.jit.save(torch.jit.script(nn.ReLU()), path)
    refuses(path, r"without manifest\.json")


def test_refuses_a_newer_schema(toy):
    rewrite(toy, schema_version=SCHEMA_VERSION + 1)
    refuses(toy, f"schema_version={SCHEMA_VERSION + 1} is newer")


def test_refuses_other_weights_than_the_manifests(toy):
    rewrite(toy, sha256="0" * 64)
    refuses(toy, r"contents have sha256=[0-9a-f]{12}\.\.\., manifest 000000000000")


def test_refuses_another_answer_than_the_golden_one(toy):
    golden = read_manifest(toy).golden
    rewrite(toy, golden=dataclasses.replace(golden, scores=tuple(s / 2 for s in golden.scores)))
    refuses(toy, "golden mismatch on cpu: 0 of 32 expected detections found")


def test_refuses_thresholds_that_disagree_with_the_module(toy):
    rewrite(toy, score_threshold=0.9)
    refuses(toy, "score_threshold=0.9 in the manifest, 0.25 in the module")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_refuses_an_absent_device(toy):
    refuses(toy, "device='cuda': absent", device="cuda")
    refuses(toy, "device='cuda:3': absent", device="cuda:3")


@pytest.mark.parametrize("device", ["gpu", "mps", "", "meta"])
def test_refuses_what_is_no_device(toy, device):
    refuses(toy, f"device={device!r}: must be", device=device)


def test_flipped_bytes_never_load_silently(toy):
    """Damage anywhere ends in a typed error, or (in an unused part) changes no answer."""
    whole = bytearray(toy.read_bytes())
    images = golden_input(5, (1, 40, 40, 3))
    expected = Runtime.open(toy)(images)
    for position in range(0, len(whole), len(whole) // 15):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        toy.write_bytes(damaged)
        try:
            answer = Runtime.open(toy)(images)
        except BundleError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(answer, expected, strict=True))


# --- manifest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("schema_version", "1", "schema_version='1': must be an integer"),
        ("schema_version", 0, "schema_version=0: must be >= 1"),
        ("name", "", "name='': must be a non-empty text"),
        ("version", 3, "version=3: must be a non-empty text"),
        ("task", "poetry", "task='poetry': must be one of detect2d"),
        ("task", ["detect2d"], "must be one of"),
        ("input", [], r"input=\[\]: must be an object"),
        ("input.resize", "crop", "input.resize='crop': must be one of stretch"),
        ("input.size", [0, 3], r"input.size=\[0, 3\]: must be >= 1"),
        ("input.size", [3], "must be a list of 2"),
        ("input.order", None, "input.order=None"),
        ("classes", [], "classes=.*at least one"),
        ("classes", "ab", "classes='ab': must be a list"),
        ("score_threshold", 1.5, r"score_threshold=1.5: must be in \[0, 1\]"),
        ("score_threshold", True, "score_threshold=True: must be a finite number"),
        ("nms_threshold", float("nan"), "nms_threshold=nan: must be a finite number"),
        ("sha256", "ABC", "sha256='ABC': must be 64"),
        ("golden.seed", -1, "golden.seed=-1: must be >= 0"),
        ("golden.shape", [1, 2, 3], "golden.shape=.*list of 4"),
        ("golden.shape", [1, 64, 64, 4], "golden.shape=.*N, H, W, 3"),
        ("golden.shape", [1, 99999, 64, 3], "golden.shape=.*<= 4096"),
        ("golden.labels", [9], r"golden.labels=\[9\]: must be >= 0 and <= 1"),
        ("golden.scores", [], "golden: boxes, scores, labels have"),
        ("golden.boxes", [[1, 2, 3]], "golden.boxes=.*list of 4"),
        ("provenance", None, "provenance=None: must be an object"),
        ("licence", None, "licence=None"),
        ("surprise", 1, "surprise=1: not a field"),
        ("golden.surprise", 1, "golden.surprise=1: not a field"),
    ],
)
def test_a_bad_field_is_named_with_its_value(toy, field, value, text):
    data = json.loads(read_manifest(toy).to_json())
    *parents, last = field.split(".")
    target = data[parents[0]] if parents else data
    target[last] = value
    with pytest.raises(BundleError, match=text):
        parse_manifest(json.dumps(data))


def test_a_missing_field_is_named(toy):
    data = json.loads(read_manifest(toy).to_json())
    for name in set(data) - {"classes_keep", "calibration"}:  # which came later and may be left out
        with pytest.raises(BundleError, match=f"manifest {name} is missing"):
            parse_manifest(json.dumps({k: v for k, v in data.items() if k != name}))
    for text in ("", "[]", "{", "3"):
        with pytest.raises(BundleError, match="manifest"):
            parse_manifest(text)


def test_input_size_may_be_open():
    assert ImageSpec(None, "model", "model", "rgb").size is None


# --- golden ------------------------------------------------------------------------------------------


def test_the_golden_input_never_changes():
    image = golden_input(0, (1, 240, 320, 3))
    assert image.shape == (1, 240, 320, 3)
    assert image[0, 0, 0].tolist() == [140, 201, 18]
    assert np.array_equal(image[0, :8, :8], np.broadcast_to(image[0, 0, 0], (8, 8, 3)))
    assert not np.array_equal(image, golden_input(1, (1, 240, 320, 3)))


def test_golden_allows_rounding_and_nothing_more(toy):
    runtime = Runtime.open(toy)
    golden = runtime.manifest.golden
    boxes, scores, labels, index = runtime(golden_input(golden.seed, golden.shape), score_threshold=0.0)
    assert golden_difference(golden, (boxes, scores, labels, index)) is None
    assert golden_difference(golden, (boxes + 0.3, scores + 0.005, labels, index)) is None
    assert golden_difference(golden, (boxes + 1.5, scores, labels, index), "fp16") is None
    for wrong in (
        (boxes + 1.5, scores, labels, index),
        (boxes, scores + 0.02, labels, index),
        (boxes, scores, 1 - labels, index),
        (boxes[:5], scores[:5], labels[:5], index[:5]),
        (boxes[:0], scores[:0], labels[:0], index[:0]),
        (np.full_like(boxes, np.nan), scores, labels, index),
    ):
        assert golden_difference(golden, wrong)


# --- loading -----------------------------------------------------------------------------------------


def test_runs_without_importing_torchvision_and_leaves_it_importable(toy):
    """Importing torchvision takes seconds; only its operators are needed."""
    code = (
        "import sys; from perception_rt.model.runtime import Runtime; import numpy as np\n"
        f"runtime = Runtime.open({str(toy)!r}, 'cpu')\n"
        "assert len(runtime(np.zeros((1, 30, 30, 3), np.uint8))) == 4\n"
        "assert 'torchvision' not in sys.modules\n"
        "import torchvision, torch; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.pt")), ids=lambda path: path.stem)
def test_shipped_bundles_verify(path):
    assert bundle.verify(path.stem) == read_manifest(path)
