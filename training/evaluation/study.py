"""What is found out about sets of pictures once they are drawn: features, and the two-way test.

The two-way test trains the judge's architecture on one set of pictures alone and scores it on
real test pictures. The sets: the generated pictures; all real ones; as many real ones as were
generated; and samples of a Gaussian a class, the least that a model of these pictures should beat.
Like pictures, each task leaves a part, named by everything that decides it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from unified_latents.models.manifest import read_manifest
from unified_latents.models.pixels import to_unit
from unified_latents.training.data.card import SPLITS, DataError, read_card
from unified_latents.training.data.sets import DataSet, load
from unified_latents.training.evaluation import classifier as classifiers
from unified_latents.training.evaluation import efficientnet
from unified_latents.training.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    ClassifierRecipe,
    Labelled,
)
from unified_latents.training.evaluation.evaluate import Evaluation, fingerprint, put, spread
from unified_latents.training.evaluation.gaussian import Pictures, gaussian

Source = Literal["train", "test", "reconstructions", "generated"]
Lesson = Literal["generated", "real", "fewer_real", "gaussian"]
LESSONS: tuple[Lesson, ...] = ("real", "generated", "fewer_real", "gaussian")
NETWORKS = ("classifier", "efficientnet_lite0")
_SLICE, _ROWS = 1000, 100


class Task(NamedTuple):
    """Features of pictures `start` to `stop` of a source, or a classifier trained on a lesson."""

    kind: Literal["features", "trained"]
    source: Source | Lesson
    network: str = ""
    start: int = 0
    stop: int = 0

    @property
    def file(self) -> str:
        span = f"-{self.start:07d}-{self.stop:07d}" if self.kind == "features" else ""
        return f"{self.kind}-{self.source}{span}.safetensors"


@dataclass(frozen=True)
class Study:
    """The tasks over one evaluation's pictures, which must be drawn before `run`."""

    evaluation: Evaluation
    judge: Path | None
    """The classifier whose features count; none: the shipped one."""
    networks: tuple[str, ...]
    lessons: tuple[Lesson, ...]
    recipe: ClassifierRecipe
    sizes: tuple[int, int]
    """Of the training and the test split."""
    train_sha256: str
    judge_sha256: str

    def count(self, source: Source | Lesson) -> int:
        """How many pictures a source or a lesson has."""
        train, test = self.sizes
        drawn = self.evaluation.generated
        return {
            "train": train,
            "real": train,
            "test": test,
            "reconstructions": self.evaluation.images,
            "generated": drawn,
            "gaussian": drawn,
            "fewer_real": min(drawn, train),
        }[source]

    def tasks(self) -> list[Task]:
        """All of them; a classifier is longest, so it comes first."""
        trained = [Task("trained", each) for each in self.lessons]
        sources: tuple[Source, ...] = ("train", "test", "reconstructions", "generated")
        return trained + [
            task for net in self.networks for each in sources for task in self._slices(net, each)
        ]

    def _slices(self, network: str, source: Source) -> Iterator[Task]:
        count = self.count(source)
        for start in range(0, count, _SLICE):
            yield Task("features", source, network, start, min(start + _SLICE, count))

    def part(self, task: Task) -> Path:
        """A task's file."""
        decides: tuple[object, ...] = (task.kind, self._decides(task.source))
        if task.kind == "features":
            weights = {"classifier": self.judge_sha256, "efficientnet_lite0": efficientnet.SHA256}
            decides += (task.network, weights[task.network])
        else:
            count = self.count(task.source)
            decides += (task.source, count, self.recipe, self.evaluation.test_sha256)
        return self.evaluation.out / "parts" / fingerprint(decides) / task.file

    def _decides(self, source: Source | Lesson) -> object:
        if source == "test":
            return self.evaluation.test_sha256
        if source == "reconstructions":
            return self.evaluation.decides("images")
        return self.evaluation.decides("generated") if source == "generated" else self.train_sha256

    def features(self, network: str, source: Source) -> Tensor:
        """All features of a source, [n, d]."""
        parts = [load_file(self.part(task)) for task in self._slices(network, source)]
        return torch.cat([part["features"] for part in parts])

    def hits(self, lesson: Lesson) -> Tensor:
        """Which test pictures the classifier of a lesson names rightly, [n] bool."""
        return load_file(self.part(Task("trained", lesson)))["hits"]


def plan(
    evaluation: Evaluation, judge: Path | None = None, recipe: ClassifierRecipe | None = None
) -> Study:
    """What can be found out, without the features of a classifier of other labels.

    The two-way test needs generated pictures with the set's own labels, two or more. `DataError`
    if a judge is given that has other labels than the checkpoint, or weights are not there.
    """
    efficientnet.weights()
    card, labels = read_card(evaluation.data), read_manifest(evaluation.checkpoint).card.labels
    known = (classifiers.shipped() if judge is None else classifiers.load(judge)).config.labels
    if judge is not None and known != labels:
        raise DataError(f"{judge} knows {known}, not {labels}")
    taught = evaluation.generated > 1 and len(labels) > 1 and labels == card.labels
    return Study(
        evaluation,
        judge,
        networks=NETWORKS if known == labels else NETWORKS[1:],
        lessons=LESSONS if taught else (),
        recipe=recipe or ClassifierRecipe(),
        sizes=(card.counts[SPLITS[0]], card.counts[SPLITS[1]]),
        train_sha256=card.sha256[f"{SPLITS[0]}.parquet"],
        judge_sha256=(
            classifiers.SHIPPED_SHA256
            if judge is None
            else hashlib.sha256(judge.read_bytes()).hexdigest()
        ),
    )


def todo(study: Study) -> list[Task]:
    """What is not done yet."""
    return [task for task in study.tasks() if not study.part(task).is_file()]


def run(study: Study, processes: int = 1) -> Generator[Task]:
    """Do what is not done yet, on so many processes; yields each task when it is done."""
    yield from spread(partial(_work, study), todo(study), processes)


def _work(study: Study, task: Task) -> Task:
    found = _features(study, task) if task.kind == "features" else _trained(study, task)
    put(study.part(task), found)
    return task


@torch.no_grad()
def _features(study: Study, task: Task) -> dict[str, Tensor]:
    network, pictures = _network(study, task.network), _pictures(study, task.source)
    spans = torch.arange(task.start, task.stop).split(_ROWS)
    return {"features": torch.cat([network(pictures.batch(span.tolist()).image) for span in spans])}


def _trained(study: Study, task: Task) -> dict[str, Tensor]:
    data, lesson = _data(study.evaluation.data), _pictures(study, task.source)
    with torch.random.fork_rng():
        torch.manual_seed(study.recipe.seed)
        classifier = Classifier(ClassifierConfig.of(data.card))
    for _ in classifiers.train(lesson, classifier, study.recipe):
        pass
    return {"hits": classifiers.hits(classifier, data.test)}


@lru_cache(maxsize=1)
def _data(folder: Path) -> DataSet:
    return load(folder)


@lru_cache(maxsize=1)
def _network(study: Study, name: str) -> Callable[[Tensor], Tensor]:
    if name == "efficientnet_lite0":
        return efficientnet.load()
    judge = classifiers.shipped() if study.judge is None else classifiers.load(study.judge)
    return lambda pixels: judge.features(to_unit(pixels))


@lru_cache(maxsize=1)
def _pictures(study: Study, source: Source | Lesson) -> Labelled:
    """The pictures of a source or a lesson, labels in turn where they are made."""
    data, evaluation, count = _data(study.evaluation.data), study.evaluation, study.count(source)
    if source in {"train", "real"}:
        return data.train
    if source == "test":
        return data.test
    if source == "fewer_real":
        order = torch.randperm(len(data.train), generator=_generator(study))
        return Pictures(*data.train.batch(order[:count].tolist()))
    if source == "gaussian":
        return gaussian(data.train, count, len(data.card.labels), _generator(study))
    if source == "generated":
        merged = evaluation.merged("generated", count)
        return Pictures(merged["picture"], merged["label"])
    return Pictures(evaluation.merged("images", count)["picture"], data.test.labels[:count])


def _generator(study: Study) -> torch.Generator:
    return torch.Generator().manual_seed(study.recipe.seed)
