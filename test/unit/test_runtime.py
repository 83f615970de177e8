"""The runtime: same input, same answer; wrong input, a typed error."""

import time

import numpy as np
import pytest
import torch

from perception_rt.model import bundle
from perception_rt.model.runtime import Runtime, resolve_device
from perception_rt.types import ConfigError, ModelError
from test.detectors import BrightBox

from .test_bundle import SPEC, save_toy, toy_detector
from .test_decoders import photo


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    path = tmp_path_factory.mktemp("runtime") / "toy.pt"
    save_toy(path)
    return Runtime.open(path, "cpu")


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_says_what_it_is(runtime):
    assert runtime.device == torch.device("cpu")
    assert runtime.sha256 == runtime.manifest.sha256
    assert not runtime.half


def test_the_answer_is_the_modules_own(runtime):
    images = np.stack([photo(90, 130, seed) for seed in range(3)])
    with torch.no_grad():
        expected = toy_detector().eval()(torch.from_numpy(images))
    answer = runtime(images)
    assert len(answer[0]) > 3
    for mine, theirs in zip(answer, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-3)
    assert [part.dtype for part in answer] == [np.float32, np.float32, np.int64, np.int64]
    assert answer[0].flags.c_contiguous


def test_the_output_depends_on_the_input_only(runtime):
    images = photo(90, 130)[None]
    first = runtime(images)
    for other in (photo(40, 40), photo(200, 100, 1), photo(90, 130, 2)):
        runtime(other[None], bgr=True, score_threshold=0.9)
        assert equal(runtime(images), first)


def test_a_batch_is_its_images_one_by_one(runtime):
    images = np.stack([photo(75, 61, seed) for seed in range(4)])
    together = runtime(images)
    for i, image in enumerate(images):
        for part, whole in zip(runtime(image[None])[:3], together[:3], strict=True):
            np.testing.assert_allclose(part, whole[together[3] == i], atol=1e-3)
    assert [len(part) for part in runtime(images[:0])] == [0, 0, 0, 0]


def test_takes_views_into_messages(runtime):
    """Read-only, with padded rows, as numpy or torch."""
    image = photo(90, 130)
    padded = np.zeros((90, 160, 3), np.uint8)
    padded[:, :130] = image
    padded.flags.writeable = False
    expected = runtime(image[None])
    assert equal(runtime(padded[None, :, :130]), expected)
    assert equal(runtime(torch.from_numpy(image)[None]), expected)
    assert equal(runtime(np.ascontiguousarray(image[None, ..., ::-1]), bgr=True), expected)


def test_thresholds_of_a_call(runtime):
    images = photo(90, 130)[None]
    default, every = runtime(images), runtime(images, score_threshold=0.0)
    assert default[1].min() >= 0.25
    middle = float(np.median(default[1]))
    assert 0 < len(runtime(images, score_threshold=middle)[0]) < len(default[0])
    assert len(every[0]) >= len(default[0])
    assert equal(runtime(images, score_threshold=0.25, nms_threshold=0.45), default)
    assert len(runtime(images, score_threshold=0.0, nms_threshold=1.0)[0]) > len(every[0])
    assert [len(part) for part in runtime(images, score_threshold=1.0)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((10, 10, 3), np.uint8),
        np.zeros((1, 10, 10, 4), np.uint8),
        np.zeros((1, 3, 10, 10), np.uint8),
        np.zeros((1, 0, 10, 3), np.uint8),
        np.zeros((1, 10, 10, 3), np.float32),
        torch.zeros(1, 10, 10, 3),
    ],
)
def test_wrong_images_are_named(runtime, images):
    with pytest.raises(ModelError, match=r"images must be \(N, H, W, 3\) uint8, got"):
        runtime(images)


def test_an_exception_inside_is_a_model_error_and_the_next_call_works(make_bundle):
    runtime = Runtime.open(make_bundle(fail_above=300), "cpu")
    with pytest.raises(ModelError, match="bright on cpu: ") as caught:
        runtime(np.zeros((1, 301, 10, 3), np.uint8))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert len(runtime(np.full((1, 50, 50, 3), 255, np.uint8))[0]) == 1


def test_warmup_takes_every_size(runtime):
    runtime.warmup([(33, 44), (20, 90)], batch=2)


def test_options_that_cannot_be(tmp_path):
    save_toy(tmp_path / "toy.pt")
    with pytest.raises(ConfigError, match="half=True: fp16 needs a CUDA device, this is cpu"):
        Runtime.open(tmp_path / "toy.pt", "cpu", half=True)
    with pytest.raises(ConfigError, match="threads=0: must be >= 1"):
        Runtime.open(tmp_path / "toy.pt", "cpu", threads=0)


def test_threads_are_set(tmp_path):
    save_toy(tmp_path / "toy.pt")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            runtime = Runtime.open(tmp_path / "toy.pt", "cpu", threads=threads)
            assert torch.get_num_threads() == runtime.choice.options.threads <= threads
    finally:
        torch.set_num_threads(before)


def test_auto_takes_what_is_there():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_modules_of_others_run_too(tmp_path):
    """Any module with the call and the two thresholds makes a bundle."""
    bundle.save(tmp_path / "b.pt", BrightBox(), name="b", classes=["bright"], input_spec=SPEC, licence="MIT")
    image = np.zeros((1, 40, 50, 3), np.uint8)
    image[0, 10:20, 5:25] = 255
    boxes, _, labels, index = Runtime.open(tmp_path / "b.pt", "cpu")(image)
    assert np.abs(boxes - [[5, 10, 25, 20]]).max() <= 1
    assert (labels.tolist(), index.tolist()) == ([0], [0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("half", [False, True])
def test_cuda_answers_as_the_cpu(tmp_path, half):
    save_toy(tmp_path / "toy.pt")
    images = np.stack([photo(90, 130, seed) for seed in range(2)])
    expected = Runtime.open(tmp_path / "toy.pt", "cpu")(images)
    answer = Runtime.open(tmp_path / "toy.pt", "cuda", half=half)(images)
    np.testing.assert_allclose(answer[1][:5], expected[1][:5], atol=0.02 if half else 1e-3)


@pytest.mark.parametrize(("each_s", "least", "most"), [(0.0, 0.1, 0.8), (0.004, 0.8, 1.5)])
def test_a_batch_is_measured_against_its_images_one_by_one(runtime, monkeypatch, each_s, least, most):
    """A network that takes 4 ms for each call, or for each image."""

    class Network:
        together = True

        def __call__(self, images, *_, **__):
            time.sleep(each_s * len(images) or 0.004)
            return (*(torch.zeros(0, *more) for more in ((4,), (), (), ())),)

    monkeypatch.setattr(runtime, "_detect", Network())
    assert least < runtime.measure_batch((20, 30), 4) < most
    assert runtime.measure_batch((20, 30), 1) == 1.0
    monkeypatch.setattr(Network, "together", False)
    assert runtime.measure_batch((20, 30), 4) == 1.0
