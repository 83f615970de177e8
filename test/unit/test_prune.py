"""Pruning removes channels from all layers that share them; what is left computes the same."""

import re
import signal
from dataclasses import replace

import cv2
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from bench.compress import write_pictures
from perception_rt.cli.main import main
from perception_rt.model.archive import read_archive, read_manifest, write_archive
from perception_rt.model.bundle import verify
from perception_rt.model.manifest import bundle_sha256
from perception_rt.model.runtime import resolve_bundle
from perception_rt.sim.drive import Drive
from perception_rt.train.blocks import ConvBnRelu, fused
from perception_rt.train.camera.network import CameraNetwork
from perception_rt.train.pillars.network import PillarsNetwork
from perception_rt.train.pillars.task import PILLARS
from perception_rt.train.prune import channel_groups, channels_of, importance, narrow, pruned
from perception_rt.train.recipe import Hardware
from perception_rt.train.shrink import ShrinkSettings, shrink
from perception_rt.train.weights import Weights, read_weights, started
from perception_rt.types import BundleError, ConfigError


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Mixed(nn.Module):
    """Sums, concatenations with normalisation after them, a layer for each channel, channels of an input."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.first = ConvBnRelu(3, 6)
        self.same = nn.Conv2d(6, 6, 3, 1, 1)
        self.other = nn.Conv2d(3, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(10)
        self.each = nn.Conv2d(10, 10, 3, 1, 1, groups=10)
        self.fixed = nn.Conv2d(6, 3, 1)  # added to the input, which has three channels
        self.head = nn.Conv2d(10, classes, 1)

    def forward(self, x):
        y = self.first(x)
        y = y + self.same(y)
        z = F.relu(self.each(self.norm(torch.cat((y, self.other(x + self.fixed(y))), 1))))
        up = F.interpolate(self.head(z), size=x.shape[2:], mode="nearest")
        return up.flatten(2)


def networks():
    torch.manual_seed(0)
    picture, grid = torch.rand(1, 3, 64, 96), torch.rand(1, 24, 16, 16)
    yield "mixed", Mixed(), picture, 0.4, nn.Module.__call__
    yield "camera", CameraNetwork(3), picture, 0.5, nn.Module.__call__
    yield "folded camera", fused(CameraNetwork(3)), picture, 0.3, nn.Module.__call__
    yield "pillars", PillarsNetwork(3), grid, 0.5, PillarsNetwork.predict
    yield "resnet", torchvision.models.resnet18(num_classes=4), picture, 0.5, nn.Module.__call__
    yield "mobilenet", torchvision.models.mobilenet_v2(num_classes=4), picture, 0.25, nn.Module.__call__


@pytest.mark.parametrize(
    ("network", "x", "fraction", "call"),
    [pytest.param(*parts, id=name) for name, *parts in networks()],
)
def test_without_channels_that_are_zero_the_output_is_the_same(network, x, fraction, call):
    network, x = network.eval().double(), x.double()
    for layer in network.modules():  # three of four channels will be zero: the others must be seen
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight.detach()).mul_(2)
    groups = channel_groups(network)
    rng = torch.Generator().manual_seed(1)
    scores = {}
    for group in groups:
        kept = torch.rand(group.channels, generator=rng)
        zero = kept.argsort()[: group.channels - (group.channels // 4)]  # at most what any fraction leaves
        kept[zero] = -1.0
        scores[group.members] = kept
        for name, axis, first in group.members:
            layer = network.get_submodule(name)
            for value in (layer.weight, layer.bias) if axis == 0 else ():
                if value is not None:
                    value.detach()[first + zero] = 0.0
    small = pruned(network, fraction, lambda chosen: [scores[group.members] for group in chosen])
    assert channels_of(small) < (1 - fraction / 2) * channels_of(network)
    with torch.no_grad():
        wanted, found, nothing = call(network, x), call(small, x), call(network, 0 * x)
    assert (wanted - nothing).abs().max() > 1e-3 * wanted.abs().max()  # what is left is seen
    torch.testing.assert_close(found, wanted)


def test_inputs_outputs_and_what_is_added_to_them_stay():
    network = Mixed()
    small = pruned(network, 0.5)
    assert (small.first[0].in_channels, small.head.out_channels, small.fixed.out_channels) == (3, 2, 3)
    assert (small.first[0].out_channels, small.same.in_channels, small.other.out_channels) == (3, 3, 2)
    assert (small.norm.num_features, small.each.groups, small.head.in_channels) == (5, 5, 5)
    assert network.first[0].out_channels == 6  # a copy is pruned
    with pytest.raises(ConfigError, match="no layer"):
        pruned(network, 0.01)
    with pytest.raises(ConfigError, match="cannot be followed"):
        channel_groups(torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights_backbone=None))


def test_channels_that_do_not_matter_have_the_least_importance():
    torch.manual_seed(0)
    network = Mixed().eval()
    network.other.weight.data[[1, 3]] = 0.0
    network.other.bias.data[[1, 3]] = 0.0
    network.each.bias.data[:] = 0.0
    groups = channel_groups(network)
    (place,) = [i for i, group in enumerate(groups) if group.members[0].layer == "other"]
    batches = [torch.rand(2, 3, 16, 16) for _ in range(3)]
    found = importance(network, groups, lambda network, batch: network(batch).square().sum(), batches)
    assert sorted(found[place].argsort()[:2].tolist()) == [1, 3]
    assert all(value.grad is None for value in network.parameters())


@pytest.mark.parametrize("make", [Mixed, CameraNetwork, PillarsNetwork])
def test_pruned_weights_are_loaded_by_their_widths(make):
    torch.manual_seed(0)
    fold = fused if make is not Mixed else nn.Module.eval  # one of its normalisations cannot be folded
    small = fold(pruned(make(2), 0.5))
    weights = Weights(small.state_dict(), ("car", "person"), {})
    network, new = started(make, ("car", "person"), weights)
    assert new == []
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in small.state_dict().items()
    }
    _, new = started(make, ("car", "person", "bus"), weights)  # a class more
    assert new
    again = fold(make(2))
    narrow(again, weights.state)
    again.load_state_dict(weights.state)
    name = next(key for key, value in weights.state.items() if value.dim() == 4)
    broken = {**weights.state, name: weights.state[name][:-1]}  # no longer what other layers read
    with pytest.raises(BundleError, match="of another network"):
        started(make, ("car", "person"), replace(weights, state=broken))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    drive = Drive(3, (320, 180))
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), drive.sample(5.0 * index).image[:, :, ::-1])
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("perception_rt.cli.bundle_compress.TIMED_CALLS", 1)
    monkeypatch.setattr("perception_rt.train.shrink.IMPORTANCE_BATCHES", 1)
    monkeypatch.setattr("perception_rt.train.shrink.IMPORTANCE_DRIVES", 1)
    monkeypatch.setattr("perception_rt.train.camera.task.CALIBRATION_FRAMES", 2)
    monkeypatch.setattr("perception_rt.train.pillars.task.CALIBRATION_DRIVES", 1)


def test_a_pruned_bundle_states_what_it_lost_and_starts_a_training(pictures, tmp_path, quick, capsys):
    out = tmp_path / "small.pt"
    options = ["--prune", "0.1", "--steps", "2", "--data", str(pictures), "--out", str(out)]
    assert (
        main(["bundle", "compress", "sim_camera", *options, "--max-loss", "100", "--precision", "int8"]) == 0
    )
    manifest, before = verify(out), read_manifest(resolve_bundle("sim_camera"))
    assert manifest.name == "sim_camera"
    assert [program.precision for program in manifest.programs] == ["fp32", "int8"]
    record = manifest.provenance["compression"]
    assert record["of"] == before.sha256
    assert record["pruned"] == 0.1
    assert record["channels"][1] < record["channels"][0]
    assert record["parameters"][1] < record["parameters"][0]
    assert record["size_mb"][1] < record["size_mb"][0]
    assert min(record["latency_ms"]) > 0
    assert record["loss"] == pytest.approx(100 * (record["before"] - record["after"]), abs=0.01)
    assert "--precision int8 --prune 0.1 --steps 2" in record["command"]
    assert manifest.provenance["recipe"]["steps"] == 2
    weights = read_weights(str(out))
    network, new = started(CameraNetwork, manifest.classes, weights)
    assert new == []
    assert channels_of(network) == record["channels"][1]


def test_a_distilled_network_learns_from_the_bundle(tmp_path, quick):
    path, out = resolve_bundle("pillars"), tmp_path / "small.pt"
    settings = ShrinkSettings("pillars", 0.5, distil=True, steps=1)
    task = replace(PILLARS, per_drive=2)
    record = shrink(task, path, read_manifest(path), settings, out, Hardware())
    manifest = read_manifest(out)
    assert manifest.provenance["teacher"]["sha256"] == read_manifest(path).sha256
    assert record["channels"][1] < 0.6 * record["channels"][0]
    assert manifest.provenance["recipe"]["learning_rate"] == PILLARS.recipe.learning_rate


def test_what_cannot_be_made_narrower_is_said_in_one_line(pictures, tmp_path, capsys):
    out = tmp_path / "small.pt"
    (tmp_path / "empty").mkdir()
    archive = read_archive(resolve_bundle("sim_camera"))
    bare = replace(archive.manifest, programs=archive.manifest.programs[1:2])
    members = {name: archive.members[name] for name in bare.files}
    bare = replace(bare, sha256=bundle_sha256(bare, members))
    write_archive(tmp_path / "onnx.pt", bare, members)
    for options, text in (
        (["--prune", "0"], "--prune=0: must be above 0 and below 1"),
        (["--prune", "1"], "--prune=1: must be"),
        (["--prune", "nan"], "--prune=nan: must be"),
        (["--distill", "-0.5"], "--distill=-0.5: must be"),
        (["--prune", "0.5", "--distill", "0.5"], "cannot be combined"),
        (["--prune", "0.001"], "no layer of the network has one to remove"),
        (["--prune", "0.5", "--steps", "0"], "--steps=0"),
        (["--steps", "5"], "--steps=5: is for --prune"),
        (["--precision", "fp32"], "--precision=fp32: is for"),
        (["--prune", "0.5", "--train", str(pictures)], "accuracy is measured on these"),
        (["--prune", "0.5", "--train", str(tmp_path / "nowhere")], "nowhere"),
        (["--prune", "0.5", "--train", str(tmp_path / "empty")], "empty"),
        (["--prune", "0.5", "--data", str(tmp_path / "empty")], "empty"),
        ([str(tmp_path / "onnx.pt"), "--prune", "0.5"], "has no network of `train camera`"),
        (["bev_cluster", "--prune", "0.5"], "holds no ONNX program"),
    ):
        bundle = [] if options[0][0] != "-" else ["sim_camera"]
        command = ["bundle", "compress", *bundle, *options, "--out", str(out)]
        assert main([*command, *(() if "--data" in options else ("--data", str(pictures)))]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1, error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "onnx.pt"]


def test_an_interrupt_leaves_nothing(pictures, tmp_path, quick, monkeypatch, capsys):
    steps = []

    def interrupt(report):
        def on_step(progress):
            steps.append(progress.step)
            if len(steps) == 1:
                signal.raise_signal(signal.SIGINT)

        return on_step

    monkeypatch.setattr("perception_rt.train.task.progress_note", interrupt)
    options = ["--prune", "0.5", "--steps", "5", "--data", str(pictures), "--out", str(tmp_path / "small.pt")]
    assert main(["bundle", "compress", "sim_camera", *options]) == 130
    assert steps == [1]
    assert not list(tmp_path.iterdir())


def test_a_loss_above_the_limit_after_fine_tuning_on_labelled_pictures_is_refused(tmp_path, quick, capsys):
    for seed, name in ((5, "measured"), (6, "learned")):
        write_pictures(tmp_path / name, [seed], [4])
    options = ["--prune", "0.5", "--train", str(tmp_path / "learned"), "--steps", "1"]
    command = ["bundle", "compress", "sim_camera", "--data", str(tmp_path / "measured"), *options]
    assert main([*command, "--out", str(tmp_path / "small.pt")]) == 2
    assert re.search(r"pruned by 0.5, fp32 loses \S+ points of map50, more than", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learned", "measured"]
