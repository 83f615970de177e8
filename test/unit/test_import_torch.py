"""TorchScript files and `.pth` weights, of one's own and of other tools."""

import json
import zipfile

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception_rt.cli.main import main
from perception_rt.model.importers.export import save_checked
from perception_rt.model.importers.torchscript import import_torchscript
from perception_rt.model.importers.torchvision import import_torchvision, read_state
from perception_rt.model.runtime import Runtime
from perception_rt.types import BundleError

SSD = "ssdlite320_mobilenet_v3_large"
NAMES = ("background", "car", "person")
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8).repeat(6, 0).repeat(6, 1)


class Grid(nn.Module):
    """YOLOv8's layout with two classes: one cell is a box wherever the picture is bright."""

    def forward(self, x: Tensor) -> Tensor:
        """(1, 3, 64, 64) -> (1, 6, 84)."""
        out = torch.zeros(1, 6, 84)
        out[0, :4, 7] = torch.tensor([32.0, 32.0, 20.0, 10.0])
        out[0, :4, 40] = torch.tensor([50.0, 10.0, 8.0, 8.0])
        out[0, 5, 7] = 0.5 + x.mean() / 2
        out[0, 4, 40] = 0.4
        return out


class Tuples(nn.Module):
    """Answers boxes, scores and labels for (1, 3, H, W)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One box of the picture's left half, a weak one of its right."""
        h, w = float(x.shape[2]), float(x.shape[3])
        boxes = torch.tensor([[w / 2, 0.0, w, h], [0.0, 0.0, w / 2, h]])
        return boxes, torch.stack([x.mean() * 0.5, x.mean() * 0.0 + 0.9]), torch.tensor([1, 0])


class Dictionaries(nn.Module):
    """Answers a list of dictionaries for a list of images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Tuples()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """A dictionary for each image."""
        out: list[dict[str, Tensor]] = []
        for image in images:
            boxes, scores, labels = self.inner(image.unsqueeze(0))
            out.append({"boxes": boxes, "scores": scores, "labels": labels})
        return out


def scripted(module, path, **extra):
    torch.jit.save(torch.jit.script(module.eval()), str(path), _extra_files=extra)
    return path


# --- a network -------------------------------------------------------------------------------------------


def test_a_network_with_its_decoder(tmp_path):
    path = scripted(Grid(), tmp_path / "grid.torchscript")
    (tmp_path / "n.txt").write_text("a\nb\n")
    command = ["bundle", "export", "torchscript", str(path), "--out", str(tmp_path / "x.pt")]
    assert main([*command, "--input-size", "64", "64", "--classes", str(tmp_path / "n.txt")]) == 0
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    boxes, scores, labels, _ = Runtime.open(tmp_path / "x.pt", "cpu")(white)
    np.testing.assert_allclose(boxes, [[22, 27, 42, 37], [46, 6, 54, 14]], atol=1e-3)
    np.testing.assert_allclose(scores, [1.0, 0.4], atol=1e-3)
    assert labels.tolist() == [1, 0]


def test_the_metadata_of_ultralytics_counts(tmp_path):
    config = {"task": "detect", "imgsz": [64, 64], "stride": 32, "names": {"0": "car", "1": "bus"}}
    path = scripted(Grid(), tmp_path / "g.torchscript", **{"config.txt": json.dumps(config)})
    imported = import_torchscript(path)
    assert imported.classes == ("car", "bus")
    assert imported.input_spec.size == (64, 64)
    assert imported.notes == ["decoder: yolov8 (metadata: Ultralytics, task detect)"]
    save_checked(tmp_path / "x.pt", imported, PICTURE, name="x")


def test_a_trace_is_as_good_as_a_script(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.Sigmoid()).eval()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 64, 64)), str(tmp_path / "t.pt"))
    imported = import_torchscript(
        tmp_path / "t.pt", "fastestdet", ["a", "b", "c"], (64, 64), score_threshold=0.3
    )
    save_checked(tmp_path / "x.pt", imported, PICTURE, name="x")


# --- a module that answers boxes -------------------------------------------------------------------------


@pytest.mark.parametrize("module", [Tuples(), Dictionaries()], ids=["tuple", "list"])
def test_a_module_of_the_contract(tmp_path, module):
    path = scripted(module, tmp_path / "c.pt")
    imported = import_torchscript(path, classes=["a", "b"], contract=True, score_threshold=0.2)
    save_checked(tmp_path / "x.pt", imported, PICTURE, name="x")
    images = np.stack([np.full((40, 60, 3), value, np.uint8) for value in (255, 0)])
    boxes, scores, labels, index = Runtime.open(tmp_path / "x.pt", "cpu")(images)
    np.testing.assert_allclose(boxes, [[0, 0, 30, 40], [30, 0, 60, 40], [0, 0, 30, 40]])
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.9], atol=1e-5)
    assert labels.tolist() == [0, 1, 0]
    assert index.tolist() == [0, 0, 1]


def test_a_scripted_torchvision_detector(tmp_path):
    model = import_torchvision(SSD, classes=NAMES, seed=3).module.model
    path = scripted(model, tmp_path / "ssd.pt")
    imported = import_torchscript(path, classes=NAMES, contract=True, score_threshold=0.1)
    report = save_checked(tmp_path / "x.pt", imported, PICTURE, name="x")
    assert report.manifest.golden.origin == "picture"
    with torch.no_grad():
        planar = torch.from_numpy(PICTURE.transpose(2, 0, 1).copy()).float() / 255
        truth = model([planar])[0]
    found = Runtime.open(tmp_path / "x.pt", "cpu")(PICTURE[None], score_threshold=0.1)
    usable = truth["scores"] >= 0.1
    np.testing.assert_allclose(found[1], truth["scores"][usable].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("module", "options", "why"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()),
            {"input_size": (64, 64)},
            "the network has 12996, the file names none",
        ),
        (Grid(), {}, "does not tell its size: give --input-size"),
        (Dictionaries(), {"input_size": (64, 64)}, "--contract"),
        (Grid(), {"contract": True, "classes": ["a"]}, "does not answer boxes, scores and labels"),
        (Tuples(), {"contract": True}, "does not tell its classes: give --classes"),
        (
            Tuples(),
            {"contract": True, "classes": ["a"], "order": "bgr"},
            "order='bgr': a module of --contract",
        ),
    ],
)
def test_what_a_module_is_not_is_one_line(tmp_path, module, options, why):
    with pytest.raises(BundleError, match=why) as caught:
        import_torchscript(scripted(module, tmp_path / "m.pt"), **options)
    assert "\n" not in str(caught.value)


def test_what_is_not_torchscript_is_one_line(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/b.txt", "hello")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    for name in ("text.pt", "zip.pt", "state.pt", "none.pt"):
        with pytest.raises(BundleError, match=name) as caught:
            import_torchscript(tmp_path / name, input_size=(64, 64))
        assert "\n" not in str(caught.value)


# --- .pth ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    """The weights of a model of three classes."""
    return import_torchvision(SSD, classes=NAMES, seed=5).module.model.state_dict()


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["module.", "model.", ""])
def test_wrappers_and_prefixes_come_off(state, tmp_path, wrapper, prefix):
    inner = {prefix + key: value for key, value in state.items()}
    torch.save({wrapper: inner, "epoch": 3, "optimizer": {}} if wrapper else inner, tmp_path / "w.pth")
    loaded = read_state(tmp_path / "w.pth")
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "name", [SSD, "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]
)
def test_the_count_of_classes_is_told(tmp_path, name):
    weights = import_torchvision(name, classes=NAMES).module.model.state_dict()
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(BundleError, match="has 3 classes, the first of them the background: give --classes"):
        import_torchvision(name, str(tmp_path / "w.pth"))
    with pytest.raises(BundleError, match=r"2 names, but .* has 3 classes"):
        import_torchvision(name, str(tmp_path / "w.pth"), NAMES[:2])
    assert import_torchvision(name, str(tmp_path / "w.pth"), NAMES).classes == NAMES


def test_all_that_does_not_fit_is_summed_up(state, tmp_path):
    keys = list(state)
    other = {key: value for key, value in state.items() if key != keys[0]}
    other |= {"extra.one": torch.zeros(1), "extra.two": torch.zeros(1)}
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(BundleError) as caught:
        import_torchvision(SSD, str(tmp_path / "w.pth"), NAMES)
    assert f"do not fit: 1 missing ({keys[0]}); 2 unexpected (extra.one, extra.two)" in str(caught.value)


class Explosive(nn.Module):
    """Leaves a mark where its pickle is opened."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_module_is_refused_and_not_executed(tmp_path, wrapped):
    mark = tmp_path / "mark"
    whole = Explosive(mark)
    torch.save({"model": whole} if wrapped else whole, tmp_path / "w.pth")
    with pytest.raises(BundleError, match=r"save model\.state_dict\(\) instead") as caught:
        import_torchvision(SSD, str(tmp_path / "w.pth"), NAMES)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_bad_weights_are_one_line(state, tmp_path):
    first = next(key for key, value in state.items() if value.is_floating_point())
    torch.save({**state, first: torch.full_like(state[first], np.nan)}, tmp_path / "nan.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(64 << 20))
    for name, why in (
        ("nan.pth", "holds NaN or infinity"),
        ("list.pth", "holds no state dict, but a list"),
        ("empty.pth", "not a state dict"),
        ("bomb.pth", "unpacks to 67108864 bytes"),
    ):
        with pytest.raises(BundleError, match=why) as caught:
            import_torchvision(SSD, str(tmp_path / name), NAMES)
        assert "\n" not in str(caught.value)
