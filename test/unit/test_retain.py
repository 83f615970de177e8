"""Known classes while others are added: which channels are held, to what, and what it does to a training."""

from functools import partial

import pytest
import torch
from torch import nn

from perception_rt.cli.main import main
from perception_rt.train.camera.data import ImageBatch, drive_samples
from perception_rt.train.retain import Teacher
from perception_rt.train.trainee import find_trainee
from perception_rt.train.weights import Weights, known_channels, read_weights, started


class Dense(nn.Module):
    """A convolution that scores cells: `classes` channels, then two of a box."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, classes + 2, 1)

    def forward(self, x):
        return self.head(x)


def weights_of(network, classes):
    return Weights({key: value.clone() for key, value in network.state_dict().items()}, classes, {})


def no_loss(network, batch):
    return network(batch).sum() * 0.0


def test_channels_of_a_known_class_are_found():
    weights = weights_of(Dense(2), ("car", "person"))
    assert known_channels(Dense, ("cyclist", "pedestrian", "car"), weights)["head"].tolist() == [1, 2]
    assert known_channels(Dense, ("car", "person"), weights) == {}  # none is added
    assert known_channels(Dense, ("tree",), weights) == {}  # none is known


@pytest.mark.parametrize("name", ["camera", "pillars", "retinanet_resnet50_fpn"])
def test_channels_are_the_rows_that_are_taken_over(name):
    trainee = find_trainee(name)
    assert trainee.sigmoid
    old, new = trainee.names(("car", "person")), trainee.names(("person", "cyclist"))
    torch.manual_seed(0)
    weights = weights_of(trainee.make(len(old)), old)
    channels = known_channels(trainee.make, new, weights)
    network, fresh = started(trainee.make, new, weights)
    assert {f"{module}.weight" for module in channels} <= set(fresh)
    for module, chosen in channels.items():
        mine, first = (state[f"{module}.weight"] for state in (network.state_dict(), weights.state))
        rows = first.flatten(1)
        assert all((rows == row).all(1).any() for row in mine[chosen].flatten(1))


def test_two_stages_and_classifiers_are_not_held():
    for name in ("fasterrcnn_resnet50_fpn", "ssd300_vgg16", "resnet18"):
        assert not find_trainee(name).sigmoid


def test_a_lower_score_costs_and_a_higher_one_does_not():
    network = Dense(2)
    nn.init.zeros_(network.head.weight)
    nn.init.constant_(network.head.bias, 2.0)
    teacher = Teacher(network, {"head": torch.tensor([0])}, 1.0)
    batch = torch.ones(2, 1, 3, 4)
    assert teacher.loss(no_loss, network, batch).item() == 0.0
    costs = []
    for bias in (3.0, 1.0, -1.0):
        with torch.no_grad():
            network.head.bias[0] = bias
        costs.append(teacher.loss(no_loss, network, batch))
    assert costs[0].item() == 0.0
    assert 0 < costs[1].item() < costs[2].item()
    costs[2].backward()
    assert network.head.bias.grad[0] < 0  # upwards
    assert network.head.bias.grad[1:].abs().max() == 0  # neither the new class nor the box
    network.head.bias.data[0] = 2.0
    double = Teacher(network, {"head": torch.tensor([0])}, 2.0)
    network.head.bias.data[0] = -1.0
    torch.testing.assert_close(double.loss(no_loss, network, batch), 2 * costs[2])


def test_classes_without_labels_keep_their_scores():
    """Only cars are labelled: what the network knew of others stays where it is held, and else falls."""
    trainee, classes = find_trainee("camera"), ("car", "pedestrian", "cyclist", "tree")
    weights = read_weights("sim_camera")
    sample = max(drive_samples(3, 6), key=lambda sample: (sample.truth.labels > 0).sum())
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None] / 255.0
    cars = torch.from_numpy(sample.truth.xyxy[sample.truth.labels == 0])
    none = torch.zeros(len(cars), dtype=torch.int64)
    batch = ImageBatch(image, cars, none, none)
    before = started(trainee.make, classes, weights)[0](image)[:, 1:3].sigmoid()
    sure = before > 0.5
    assert sure.sum() >= 5
    kept = []
    for weight in (0.0, 10.0):
        network, _ = started(trainee.make, classes, weights)
        teacher = Teacher(network, known_channels(trainee.make, classes, weights), weight)
        loss = partial(teacher.loss, trainee.loss)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
        for _ in range(8):
            optimizer.zero_grad()
            loss(network, batch).backward()
            optimizer.step()
        kept.append((network(image)[:, 1:3].sigmoid()[sure] / before[sure]).mean().item())
    assert kept[0] < 0.7 < 0.8 < kept[1], kept


def test_a_wrong_weight_is_named(capsys):
    assert main(["train", "camera", "--data", "x", "--retain", "-1"]) == 2
    assert "--retain=-1.0: must be from 0 to 100" in capsys.readouterr().err
