"""Train a bundle on a user's data set: read, check, train, score, save."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.class_thresholds import one_threshold
from perception_rt.model.manifest import Manifest
from perception_rt.model.runtime import Runtime
from perception_rt.model.task import CLASSIFY, DETECT2D, DETECT3D
from perception_rt.stage.road_users import canonical, matching_labels
from perception_rt.train.dataset.read import Samples, read_samples
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.train.retain import Teacher
from perception_rt.train.task import Report, progress_note, training_record
from perception_rt.train.trainee import Finished, Trainee, TrainingItem, find_trainee
from perception_rt.train.weights import Weights, known_channels, read_weights, started
from perception_rt.types import ConfigError

EPOCHS, LEAST_STEPS, ROUND_STEPS = 30, 1000, 50
SCRATCH_RATE, HIGHEST_RATE = 5.0, 3e-3  # factor of the learning rate from random weights, and its limit
BALANCED = "balanced"
MOST_REPEATED = 10.0  # maximum factor by which a frame with a rare class is drawn more often
LEAST_OBJECTS = 100  # set apart, that a score threshold is chosen on: fewer give one that fits them alone
LICENCE = "unspecified"


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """The settings of a training; a run can be repeated and resumed with them.

    Attributes:
        network: see `find_trainee`.
        data: see `read_dataset`. validation: see `read_samples`. classes: see `choose_classes`.
        mend: see `Problems`.
        weights: a bundle or `.pth` to start from; None for random weights.
        seed, batch, learning_rate, epochs, steps, patience: of the recipe; None for the network's own.
        augmentations: names; None for the network's own.
        retain: how strongly the scores of known classes are held while others are added, as of `Teacher`.
        class_weights: ``NAME=X``, or ``balanced``: factor by which frames with a class are drawn more often.
        licence: of the bundle; None for that of the weights.
    """

    network: str
    data: str
    validation: str = "0.2"
    classes: tuple[str, ...] = ()
    mend: bool = False
    weights: str | None = None
    seed: int = 0
    batch: int | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    steps: int | None = None
    patience: int = 10
    augmentations: tuple[str, ...] | None = None
    class_weights: tuple[str, ...] = ()
    retain: float = 1.0
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training after all checks.

    Attributes:
        trainee, recipe: the network and the hyperparameters.
        samples: the data. items, examples: for training and for validation.
        weights: initial weights. frame_weights: relative frequency of each item; None for once an epoch.
    """

    trainee: Trainee
    recipe: Recipe
    samples: Samples
    items: list[TrainingItem]
    examples: list[TrainingItem]
    weights: Weights | None
    frame_weights: np.ndarray | None


def prepare(settings: FolderSettings, report: Report = lambda phase, done, total, note: None) -> Prepared:
    """Read and check everything that a training needs.

    Raises:
        ConfigError: an option or labels are invalid; the message lists the labels.
        BundleError: the weights cannot be read.
    """
    trainee = find_trainee(settings.network)
    if settings.augmentations is not None:
        trainee.use(settings.augmentations)
    weights = None if settings.weights is None else read_weights(settings.weights)
    samples = read_samples(
        Path(settings.data),
        settings.validation,
        settings.classes,
        () if weights is None else [name for name in weights.classes if name not in trainee.names(())],
        trainee.clouds,
        settings.mend,
        trainee.boxes,
        _counted(report),
    )
    items = trainee.items(samples.frames, samples.labels)
    examples = trainee.items(samples.validation, samples.validation_labels)
    if not items or not examples or not any(len(item.labels) for item in examples):
        which = "to learn from" if not items else "to score on"
        raise ConfigError(f"--data={settings.data}: no object of {', '.join(samples.classes)} {which}")
    if all(item.frame.ignored.all() for item in examples):
        count = sum(len(item.labels) for item in examples)
        raise ConfigError(
            f"--data={settings.data}: each of {count} objects to score on is ignored, as mostly hidden, "
            "cut off or too low: give others with --val"
        )
    recipe = recipe_of(trainee.recipe, settings, len(items))
    frame_weights = weights_of_items(items, samples.classes, settings.class_weights)
    return Prepared(trainee, recipe, samples, items, examples, weights, frame_weights)


def _counted(report: Report) -> Callable[[int], None]:
    done = 0

    def count(total: int) -> None:
        nonlocal done
        done += 1
        report("check", done, total, "")

    return count


def recipe_of(recipe: Recipe, settings: FolderSettings, frames: int) -> Recipe:
    """Return the recipe of a network, adapted to the settings and the number of frames.

    Without `steps` and `epochs` there are EPOCHS epochs, and at least LEAST_STEPS steps. A round is an epoch,
    and at least ROUND_STEPS steps. The learning rate from random weights is SCRATCH_RATE times higher,
    up to HIGHEST_RATE.
    """
    rate = recipe.learning_rate
    if settings.weights is None:
        rate = max(rate, min(rate * SCRATCH_RATE, HIGHEST_RATE))
    batch = min(settings.batch or recipe.batch, frames)
    of_epoch = -(-frames // batch)
    steps = settings.steps or (
        settings.epochs * of_epoch if settings.epochs else max(EPOCHS * of_epoch, LEAST_STEPS)
    )
    return replace(
        recipe,
        seed=settings.seed,
        frames=frames,
        batch=batch,
        steps=steps,
        rounds=max(1, steps // max(of_epoch, ROUND_STEPS)),
        learning_rate=settings.learning_rate or rate,
        patience=settings.patience,
    )


def weights_of_items(
    items: Sequence[TrainingItem], classes: Sequence[str], wanted: Sequence[str]
) -> np.ndarray | None:
    """Return (N,) how often each item is drawn: the largest weight of the classes in it.

    `balanced` draws a class by the inverse square root of the share of items that have it (LVIS,
    arXiv:1908.03195), relative to the most frequent one.

    Raises:
        ConfigError: a weight is not a number, or a class is unknown.
    """
    if not wanted:
        return None
    weights = np.ones(len(classes))
    for text in wanted:
        if text == BALANCED:
            have = np.array([sum(label in item.labels for item in items) for label in range(len(classes))])
            weights = np.minimum(np.sqrt(have.max() / np.maximum(have, 1)), MOST_REPEATED)
            continue
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in classes or not 0 < number <= 1000:
            raise ConfigError(
                f"--class-weights={text}: must be {BALANCED}, or NAME=X from 0 to 1000; the classes are "
                f"{', '.join(classes)}"
            )
        weights[classes.index(name)] = number
    return np.array([weights[item.labels].max(initial=0.0) or 1.0 for item in items])


def train_folder(
    prepared: Prepared,
    settings: FolderSettings,
    out: Path,
    hardware: Hardware,
    report: Report = lambda phase, done, total, note: None,
    run: Path | None = None,
    resume: bool = False,
    save: bool = True,
) -> Manifest | None:
    """Train a network, and save the weights with the best score on the validation frames.

    Args:
        prepared, settings: the training.
        out: the bundle to write.
        hardware: where to train; the score is computed on a CPU.
        report: called with the phase, done, total, and a note.
        run: folder of checkpoints and logs; None for none.
        resume: continue from the checkpoint in `run`.
        save: whether this process writes the bundle, if there are several.

    Returns:
        The manifest; ``provenance["score"]`` is the score of the saved bundle. None without `save`.

    Raises:
        BundleError: the weights do not fit, or the bundle cannot be written.
        ConfigError, ModelError, KeyboardInterrupt: see `perception_rt.train.fit.fit`.
    """
    from perception_rt.train.fit import fit
    from perception_rt.train.learner import TrainingData, Validation

    begun = time.monotonic()
    trainee, classes, recipe = prepared.trainee, prepared.samples.classes, prepared.recipe
    names = trainee.names(classes)
    torch.manual_seed(recipe.seed)
    network, new = started(trainee.make, names, prepared.weights)
    held = held_channels(prepared, settings)
    loss = partial(Teacher(network, held, settings.retain).loss, trainee.loss) if held else trainee.loss

    def predict(network: nn.Module, number: int) -> Any:
        return trainee.predict(network, prepared.examples[number])

    def score(answers: Sequence[Any]) -> dict[str, Any]:
        return trainee.score(prepared.examples, answers, classes)

    draw = partial(draw_items, trainee, prepared.items)
    network = fit(
        network,
        TrainingData(len(prepared.items), draw, loss, prepared.frame_weights, frozenset(new)),
        recipe,
        hardware,
        validation=Validation(len(prepared.examples), predict, score, trainee.metric),
        run=run,
        resume=resume,
        on_step=progress_note(report),
    )
    if not save:
        return None
    weights = prepared.weights
    with torch.inference_mode():
        answers = [predict(network, number) for number in range(len(prepared.examples))]
    threshold = score(answers).get("threshold")
    if sum(len(item.labels) for item in prepared.examples) < LEAST_OBJECTS:
        threshold = None if weights is None else weights.score_threshold
    provenance = {
        "recipe": asdict(recipe),
        "data": {"name": Path(settings.data).name, **prepared.samples.record()},
        "start": "random weights"
        if weights is None
        else {"weights": weights.record, "new": new, "retain": settings.retain if held else 0.0},
        "training": training_record(hardware, begun),
        "torch": torch.__version__,
    }
    done = Finished(
        network,
        names,
        prepared.items,
        [*prepared.examples, *prepared.items],
        out.stem,
        settings.licence or (weights.licence if weights is not None else "") or LICENCE,
        provenance,
        threshold,
    )
    with tempfile.TemporaryDirectory() as folder:  # score it as users run it: from a file
        unscored = Path(folder) / out.name
        trainee.save(unscored, done)
        runtime = Runtime.open(unscored, device="cpu")
        figures = score_bundle(runtime, trainee, prepared.examples, classes, report)
    return trainee.save(out, replace(done, provenance={**provenance, "score": figures}))


def held_channels(prepared: Prepared, settings: FolderSettings) -> dict[str, Tensor]:
    """What a `Teacher` holds: the known classes where others are added; empty for nothing."""
    trainee, weights = prepared.trainee, prepared.weights
    if weights is None or not settings.retain or not trainee.sigmoid:
        return {}
    return known_channels(trainee.make, trainee.names(prepared.samples.classes), weights)


def draw_items(
    trainee: Trainee, items: Sequence[TrainingItem], index: np.ndarray, rng: np.random.Generator
) -> Any:
    """Return a batch; at module level, so that it can be pickled."""
    return trainee.draw([items[number] for number in index], rng)


def score_bundle(
    runtime: Any,
    trainee: Trainee,
    items: Sequence[TrainingItem],
    classes: Sequence[str],
    report: Report = lambda phase, done, total, note: None,
) -> dict[str, Any]:
    """Score an open bundle on items; classes that it lacks or does not keep count as misses.

    Its thresholds of single classes do not apply.

    Args:
        runtime: a bundle of the trainee's task.
        trainee: runs and scores it.
        items: the items to score on. classes: names, by label.
        report: called for each item.
    """
    mine = np.array(matching_labels(runtime.manifest.classes, classes), np.int64)
    answers: list[Any] = []
    for number, item in enumerate(items, 1):
        with one_threshold(runtime):
            answer = trainee.answer(runtime, item)
        if isinstance(answer, tuple):
            labels = mine[answer[2]]
            answers.append((answer[0][labels >= 0], answer[1][labels >= 0], labels[labels >= 0]))
        else:
            answers.append(int(mine[answer]))
        report("evaluate", number, len(items), "")
    choice = runtime.choice
    program = f"{choice.engine} {choice.program.precision}"
    return {**trainee.score(items, answers, classes), "program": program}


TRAINEES: Mapping[str, str] = {DETECT2D.name: "camera", DETECT3D.name: "pillars", CLASSIFY.name: "resnet18"}
"""By task, a network that is asked and scored as all bundles of it are."""


def evaluate_folder(
    runtime: Any,
    data: Path,
    classes: Sequence[str] = (),
    mend: bool = False,
    report: Report = lambda phase, done, total, note: None,
) -> dict[str, Any]:
    """Score an open bundle on all frames of a data set.

    Args:
        runtime: the bundle.
        data, classes, mend: see `read_samples`.
        report: called with the phase, done, total, and a note.

    Raises:
        ConfigError: labels are invalid or have no class of the bundle, or its task is not supported.
    """
    manifest = runtime.manifest
    if manifest.task not in TRAINEES:
        raise ConfigError(f"--evaluate={manifest.name}: task {manifest.task} is not scored on folders")
    trainee = find_trainee(TRAINEES[manifest.task])
    kinds = trainee.clouds, mend, trainee.boxes
    samples = read_samples(data, None, classes, manifest.classes, *kinds, _counted(report))
    items = trainee.items(samples.frames, samples.labels)
    known = {canonical(name) for name in manifest.classes}
    if not known & {canonical(samples.classes[label]) for item in items for label in item.labels}:
        raise ConfigError(
            f"--data={data}: no object of a class of {manifest.name} ({', '.join(manifest.classes[:20])})"
        )
    return score_bundle(runtime, trainee, items, samples.classes, report)
