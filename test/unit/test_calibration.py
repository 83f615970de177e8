"""Calibrated scores: how often they are right, in the order of the network's, of the same boxes."""

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perception_rt.cli.bundle_calibrate import JudgedFrames, calibrate
from perception_rt.cli.main import main
from perception_rt.model import bundle
from perception_rt.model.archive import read_archive, read_manifest
from perception_rt.model.calibration import fit_calibration, parse_calibration
from perception_rt.model.golden import read_golden
from perception_rt.model.manifest import ImageSpec
from perception_rt.model.runtime import Runtime, resolve_bundle
from perception_rt.replay.score.confidence import calibration as error_of
from perception_rt.types.errors import BundleError
from test.classifiers import save_colours

RNG = np.random.default_rng(3)


def judged(count: int, power: float = 2.5, frames: int = 100) -> JudgedFrames:
    """Detections that are right with the probability score ** power."""
    scores = RNG.uniform(0.05, 1.0, count)
    return JudgedFrames(frames, scores, RNG.uniform(size=count) < scores**power)


def test_a_rising_line_brings_the_error_down_on_detections_left_out():
    fit, left_out = judged(4000), judged(4000)
    fitted = fit_calibration(fit.scores, fit.hits)
    assert fitted.record["method"] == "isotonic"
    assert error_of(left_out.scores, left_out.hits)["ece"] > 0.2
    assert error_of(fitted(left_out.scores), left_out.hits)["ece"] < 0.04


def test_an_overconfident_logit_gets_its_temperature():
    logits = RNG.normal(0.0, 4.0, 20_000)
    hits = RNG.uniform(size=logits.size) < 1 / (1 + np.exp(-logits / 2))
    scores = 1 / (1 + np.exp(-logits))
    fitted = fit_calibration(scores, hits, "temperature")
    assert fitted.record["temperature"] == pytest.approx(2.0, rel=0.06)
    assert error_of(scores, hits)["ece"] > 0.08
    assert error_of(fitted(scores), hits)["ece"] < 0.01


@settings(max_examples=60, deadline=None)
@given(
    st.integers(50, 400),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["isotonic", "temperature"]),
    st.sampled_from([1, 3, 1000]),
)
def test_the_order_of_scores_stays_whatever_was_fitted(count, seed, method, steps):
    """Also with a few distinct scores only, and where higher ones are wrong more often."""
    rng = np.random.default_rng(seed)
    scores, hits = np.round(rng.uniform(size=count) * steps) / steps, rng.uniform(size=count) < 0.5
    hits[:2] = True, False
    fitted = fit_calibration(scores, hits, method)
    assert parse_calibration({**asdict(fitted)}) == fitted
    grid = np.linspace(0, 1, 501)
    assert (np.diff(fitted(grid)) > 0).all()
    assert np.allclose(fitted.inverse(fitted(grid)), grid, atol=1e-9)
    assert np.array_equal(fitted.inverse([np.nan, np.inf]), [np.nan, np.inf], equal_nan=True)


@pytest.mark.parametrize(
    "hits", [np.zeros(20, bool), np.ones(500, bool), np.zeros(500, bool), np.zeros(0, bool)]
)
def test_too_few_detections_are_refused_in_one_line(hits):
    with pytest.raises(BundleError, match=f"^{len(hits)} detections, {hits.sum()} of them right"):
        fit_calibration(np.full(len(hits), 0.5), hits)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scores": [0.0, 0.5, 0.5, 1.0]}, "calibration.scores"),
        ({"calibrated": [0.0, 0.9, 0.8, 1.0]}, "calibration.calibrated"),
        ({"calibrated": [0.0, 1.0]}, "as many values"),
        ({"scores": [0.1, 0.2, 0.3, 1.0]}, "calibration.scores"),
        ({"scores": []}, "calibration.scores"),
        ({"scores": [0.0, float("nan"), 0.5, 1.0]}, "calibration.scores"),
        ({"record": 3}, "calibration.record"),
        ({"slope": 3}, "calibration.slope"),
    ],
)
def test_a_bad_field_is_named(change, named):
    good = {"scores": [0.0, 0.2, 0.6, 1.0], "calibrated": [0.0, 0.1, 0.2, 1.0], "record": {}}
    parse_calibration(good)
    with pytest.raises(BundleError, match=named):
        parse_calibration({**good, **change})


def test_a_calibrated_bundle_answers_the_same_boxes_in_the_same_order(tmp_path):
    out = tmp_path / "calibrated.pt"
    written = calibrate("sim_camera", [judged(3000), judged(3000)], "auto", "made", out)
    assert bundle.verify(out).calibration == written.calibration == read_manifest(out).calibration
    archive = read_archive(resolve_bundle("sim_camera"))
    picture = read_golden(archive.manifest.golden, archive.members)
    plain, fitted = (Runtime.open(name, "cpu", engine="reference") for name in ("sim_camera", out))
    before, after = plain(picture), fitted(picture)
    assert len(before[1]) > 3
    for column in (0, 2, 3):
        assert np.array_equal(before[column], after[column])
    assert np.allclose(after[1], written.calibration(before[1]), atol=1e-6)
    # Any threshold is of calibrated scores: of all, and of a class.
    middle = float(np.median(after[1]))
    assert np.array_equal(
        fitted(picture, score_threshold=middle)[1], after[1][after[1] >= np.float32(middle)]
    )
    name = fitted.manifest.classes[int(after[2][0])]
    fitted.class_thresholds = fitted.thresholds_of({name: middle}, [name])
    kept = (after[2] == after[2][0]) & (after[1] >= np.float32(middle))
    assert np.array_equal(fitted(picture)[1], after[1][kept])


def test_a_calibration_is_under_the_hash(tmp_path):
    out = tmp_path / "calibrated.pt"
    manifest = calibrate("sim_camera", [judged(3000), judged(3000)], "isotonic", "made", out)
    other = replace(manifest.calibration, record={**manifest.calibration.record, "ece_after": 0.0})
    from perception_rt.model.archive import write_archive

    write_archive(out, replace(manifest, calibration=other), read_archive(out).members)
    with pytest.raises(BundleError, match="changed after it was written"):
        read_archive(out)


class GreyBox(nn.Module):
    """One box around the pixels that are not black; its score is how bright they are."""

    def __init__(self) -> None:
        super().__init__()
        self.score_threshold: float = 0.3
        self.nms_threshold: float = 0.5

    def forward(
        self,
        images: torch.Tensor,
        bgr: bool = False,
        score_threshold: float = -1.0,
        nms_threshold: float = -1.0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        found = torch.nonzero(images[0, :, :, 0] > 10)
        low, high = found.min(0)[0].float(), found.max(0)[0].float() + 1.0
        score = images.max().float() / 255.0
        n = 1 if bool(score >= score_threshold) else 0
        box = torch.stack([low[1], low[0], high[1], high[0]])[None][:n]
        return box, score[None][:n], torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)


def write_pictures(folder, count: int):
    """Grey boxes, and labels that hold each with the probability of its score squared."""
    folder.mkdir()
    for index in range(count):
        image = np.zeros((48, 64, 3), np.uint8)
        image[10:30, 20:50] = level = int(RNG.integers(20, 255))
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)
        here = RNG.uniform() < (level / 255) ** 2
        (folder / f"{index:03d}.txt").write_text(
            f"0 {35 / 64} {20 / 48} {30 / 64} {20 / 48}\n" if here else ""
        )
    return folder


def test_the_command_fits_one_half_and_measures_the_other(tmp_path, capsys):
    source, out = tmp_path / "grey.pt", tmp_path / "new.pt"
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    bundle.save(source, GreyBox(), name="g", classes=["car"], input_spec=spec, licence="Apache-2.0")
    data = write_pictures(tmp_path / "pictures", 300)
    assert main(["bundle", "calibrate", str(source), "--data", str(data), "--out", str(out)]) == 0
    record = bundle.verify(out).calibration.record
    assert record["ece_after"] < record["ece_before"]
    assert (record["frames"], record["fitted_frames"], record["data"]) == (150, 150, "pictures")
    assert record["of"] == read_manifest(source).sha256
    assert "expected calibration error" in capsys.readouterr().out
    assert main(["bundle", "show", str(out)]) == 0
    assert "ece_before" in capsys.readouterr().out

    few = write_pictures(tmp_path / "few", 8)
    refused = tmp_path / "refused.pt"
    for options, text in (
        ([str(source), "--data", str(few)], "a calibration needs 50"),
        ([str(out), "--data", str(data)], "calibrated already"),
        ([str(source), "--data", str(tmp_path / "nowhere")], "no such file or folder"),
        ([str(source), "--data", str(data), "--frames", "0"], "--frames=0"),
    ):
        assert main(["bundle", "calibrate", *options, "--out", str(refused)]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1, error
        assert not refused.exists()
    save_colours(tmp_path / "colours.pt")
    colours = str(tmp_path / "colours.pt")
    assert main(["bundle", "calibrate", colours, "--data", str(data), "--out", str(refused)]) == 2
    assert "answers no boxes (task classify)" in capsys.readouterr().err
    for path in few.glob("*.txt"):
        path.unlink()
    assert main(["bundle", "calibrate", str(source), "--data", str(few), "--out", str(refused)]) == 2
    assert "no labelled frames" in capsys.readouterr().err
