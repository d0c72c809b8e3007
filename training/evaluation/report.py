"""From measured units to `metrics.json`: every figure with its n, its error and its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from unified_latents.models import checkpoint as checkpoints
from unified_latents.models import manifest
from unified_latents.models.checkpoint import Networks
from unified_latents.models.manifest import Manifest
from unified_latents.models.pixels import to_unit
from unified_latents.training.data.sets import DataError, DataSet, load
from unified_latents.training.evaluation import classifier as classifiers
from unified_latents.training.evaluation import page
from unified_latents.training.evaluation.classifier import Classifier
from unified_latents.training.evaluation.evaluate import Evaluation, Metrics
from unified_latents.training.measure import Settings
from unified_latents.training.metrics import (
    Figure,
    agreement_figures,
    psnr_figures,
    rate_figures,
    share,
)

METRICS = "metrics.json"
FASHION = "classifier of this package, trained on Fashion-MNIST's training pictures"


def report(evaluation: Evaluation, judge: Path | None = None) -> Metrics:
    """Merge all units, write `metrics.json` and the page, and return the figures.

    Generated pictures are named by the classifier at `judge`; without it, by the shipped one
    where the set's labels are its own, else by none. `DataError` if a given classifier has other
    labels.
    """
    data, about = load(evaluation.data), manifest.read_manifest(evaluation.checkpoint)
    networks = manifest.read(evaluation.checkpoint / manifest.CONFIG, Networks)
    measured = evaluation.merged("images", evaluation.images)
    figures = _figures(measured, networks, data, evaluation.settings)
    named, generated = "none", None
    if evaluation.generated:
        generated = evaluation.merged("generated", evaluation.generated)
        classifier = _judge(judge, about)
        if classifier is not None:
            named = FASHION if judge is None else judge.name
            figures |= _judged(classifier, generated, data, about.card.labels)
    metrics = Metrics(
        about.card.name,
        evaluation.digest,
        data.card.name,
        evaluation.test_sha256,
        evaluation.settings,
        named,
        figures,
    )
    manifest.write(evaluation.out / METRICS, metrics)
    page.write(evaluation.out, metrics, _pictures(data, measured, generated), about.card.labels)
    return metrics


def attach(folder: Path, metrics: Metrics) -> Manifest:
    """Put the figures into the checkpoint's manifest; its digest, of the files, stays.

    `DataError` if they were measured on other weights.
    """
    found = manifest.read_manifest(folder).digest
    if found != metrics.digest:
        raise DataError(f"{folder} is {found}, the figures are of {metrics.digest}")
    plain: dict[str, Any] = msgspec.to_builtins(metrics)
    return checkpoints.annotate(folder, metrics=plain)


def read(path: Path) -> Metrics:
    """The figures of a `metrics.json`; `CheckpointError` names what is wrong with the file."""
    return manifest.read(path, Metrics)


def _figures(
    measured: dict[str, Tensor], networks: Networks, data: DataSet, settings: Settings
) -> dict[str, Figure]:
    how = settings.sampling
    what = f"one {how.decode_steps}-step {how.decode_sampler} draw of the decoder a picture"
    config, card = networks.unified, data.card
    figures = rate_figures(measured["nats"], config.size, config.latent_shape)
    figures |= psnr_figures(measured["mse_content"], card.content_size, what)
    return figures | psnr_figures(measured["mse_grid"], card.image_size, what)


def _judge(path: Path | None, about: Manifest) -> Classifier | None:
    classifier = classifiers.shipped() if path is None else classifiers.load(path)
    if classifier.config.labels == about.card.labels:
        return classifier
    if path is None:
        return None
    raise DataError(f"{path} knows {classifier.config.labels}, not {about.card.labels}")


@torch.no_grad()
def _judged(
    classifier: Classifier,
    generated: dict[str, Tensor],
    data: DataSet,
    labels: tuple[str, ...],
) -> dict[str, Figure]:
    """Agreement, and beside it how often the judge is right about real pictures."""
    named = torch.cat([
        classifier(to_unit(pictures)).argmax(1) for pictures in generated["picture"].split(500)
    ])  # fmt: skip
    right = classifiers.hits(classifier, data.test)
    real = {"accuracy_on_real": share(right, "share of real test pictures it names rightly")}
    return agreement_figures(named, generated["label"], labels) | real


def _pictures(
    data: DataSet, measured: dict[str, Tensor], generated: dict[str, Tensor] | None
) -> page.Pictures:
    shown = min(page.RECONSTRUCTIONS, len(measured["picture"]))
    return page.Pictures(
        originals=data.test.batch(range(shown)).image,
        reconstructions=measured["picture"][:shown],
        samples=None if generated is None else generated["picture"],
        sample_labels=None if generated is None else generated["label"],
    )
