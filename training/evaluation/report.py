"""From measured units to `metrics.json`: every figure with its n, its error and its definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from unified_latents.models import checkpoint as checkpoints
from unified_latents.models import manifest
from unified_latents.models.checkpoint import Networks
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.manifest import Manifest
from unified_latents.models.pixels import to_unit
from unified_latents.training.data.sets import DataError, DataSet, load
from unified_latents.training.evaluation import classifier as classifiers
from unified_latents.training.evaluation import page, plots
from unified_latents.training.evaluation.classifier import Classifier
from unified_latents.training.evaluation.evaluate import Evaluation, Metrics
from unified_latents.training.evaluation.figures import (
    bound_figures,
    curves,
    distance_figures,
    two_way_figures,
)
from unified_latents.training.evaluation.study import Study
from unified_latents.training.measure import Settings
from unified_latents.training.metrics import (
    Figure,
    agreement_figures,
    psnr_figures,
    rate_figures,
    share,
)

METRICS = "metrics.json"
AGREEMENT = 10_000
"""So many generated pictures, at most, are named by the judge."""
FASHION = "classifier of this package, trained on Fashion-MNIST's training pictures"


def report(
    evaluation: Evaluation,
    judge: Path | None = None,
    study: Study | None = None,
    *,
    compare: Sequence[Metrics] = (),
    logs: Sequence[Path] = (),
) -> Metrics:
    """Merge all units, write `metrics.json` and the page, and return the figures.

    Generated pictures are named by the classifier at `judge`; without it, by the shipped one
    where the set's labels are its own, else by none. A finished `study` adds its figures, `logs`
    of runs their learning curves, `compare` (other checkpoints') points to the plane of rate and
    distortion. `DataError` if a given classifier has other labels.
    """
    found = _found(evaluation)
    metrics = _metrics(evaluation, found, judge, study)
    manifest.write(evaluation.out / METRICS, metrics)
    drawn = _plots(evaluation.out, metrics, compare, logs)
    page.write(evaluation.out, metrics, _pictures(found), found.about.card.labels, drawn)
    return metrics


class _Found(NamedTuple):
    """All that was measured, and what it was measured on."""

    data: DataSet
    about: Manifest
    config: UnifiedConfig
    images: dict[str, Tensor]
    levels: dict[str, Tensor]
    generated: dict[str, Tensor] | None


def _found(evaluation: Evaluation) -> _Found:
    drawn = evaluation.generated
    return _Found(
        load(evaluation.data),
        manifest.read_manifest(evaluation.checkpoint),
        manifest.read(evaluation.checkpoint / manifest.CONFIG, Networks).unified,
        evaluation.merged("images", evaluation.images),
        evaluation.merged("bounds", evaluation.images),
        evaluation.merged("generated", drawn) if drawn else None,
    )


def _metrics(
    evaluation: Evaluation, found: _Found, judge: Path | None, study: Study | None
) -> Metrics:
    card, config = found.about.card, found.config
    figures = _figures(found.images, config, found.data, evaluation.settings)
    figures |= bound_figures(found.levels, config)
    named = None if found.generated is None else _judge(judge, found.about)
    if named is not None and found.generated is not None:
        figures |= _judged(named, found.generated, found.data, card.labels)
    return Metrics(
        card.name,
        evaluation.digest,
        found.data.card.name,
        evaluation.test_sha256,
        evaluation.settings,
        "none" if named is None else FASHION if judge is None else judge.name,
        figures | ({} if study is None else _studied(study)),
        curves(found.levels, config),
        config.loss_factor,
    )


def _studied(study: Study) -> dict[str, Figure]:
    figures = two_way_figures(study)
    for network in study.networks:
        figures |= distance_figures(study, network)
    return figures


def _plots(
    out: Path, metrics: Metrics, compare: Sequence[Metrics], logs: Sequence[Path]
) -> list[page.Plot]:
    """Draw what there is to draw, into `out`."""
    plots.levels(out / "levels.png", metrics.curves)
    drawn = [page.Plot("levels.png", "Where on the schedule it is paid", "Totals in the legends.")]
    if compare:
        plots.rate_distortion(out / "rate-distortion.png", points((metrics, *compare)))
        caption = (
            "Each point a checkpoint, measured in the same way, with two standard errors each way; "
            "this page's is filled."
        )
        drawn.append(page.Plot("rate-distortion.png", "Rate and distortion", caption))
    if logs:
        plots.learning(out / "learning.png", logs)
        caption = "Means over each window of a run's log, and its looks at held-out pictures."
        drawn.append(page.Plot("learning.png", "Learning curves", caption))
    return drawn


def points(reports: Sequence[Metrics]) -> list[plots.Point]:
    """Bits over the grid against the PSNR over the pictures' own region, a point a report.

    `DataError` names a report that lacks one of the two, or has it of other pictures or by another
    measure than the first.
    """
    made, same = [], None
    for each in reports:
        bits, psnr = _figure(each, "bits_per_pixel_"), _figure(each, "psnr_")
        measure = (each.test_sha256, bits.definition, psnr.definition)
        same = same or measure
        for mine, first in zip(measure, same, strict=True):
            if mine != first:
                raise DataError(f"{each.digest} was measured otherwise: {mine!r}, not {first!r}")
        factor = "" if each.loss_factor is None else f", c_lf {each.loss_factor:.3g}"
        errors = (figure.std_error or 0.0 for figure in (bits, psnr))
        name = f"{each.checkpoint}{factor}"
        made.append(plots.Point(name, bits.value, psnr.value, *errors))
    return made


def _figure(metrics: Metrics, prefix: str) -> Figure:
    """The first figure whose name starts so; `DataError` if there is none."""
    for name, figure in metrics.figures.items():
        if name.startswith(prefix):
            return figure
    raise DataError(f"the report of {metrics.digest} has no figure {prefix}…")


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
    """The figures of a `metrics.json`, or of the folder that holds it.

    `CheckpointError` names what is wrong with the file.
    """
    return manifest.read(path / METRICS if path.is_dir() else path, Metrics)


def _figures(
    measured: dict[str, Tensor], config: UnifiedConfig, data: DataSet, settings: Settings
) -> dict[str, Figure]:
    how = settings.sampling
    what = f"one {how.decode_steps}-step {how.decode_sampler} draw of the decoder a picture"
    card = data.card
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
    pictures, asked = generated["picture"][:AGREEMENT], generated["label"][:AGREEMENT]
    named = torch.cat([classifier(to_unit(each)).argmax(1) for each in pictures.split(500)])
    right = classifiers.hits(classifier, data.test)
    real = {"accuracy_on_real": share(right, "share of real test pictures it names rightly")}
    return agreement_figures(named, asked, labels) | real


def _pictures(found: _Found) -> page.Pictures:
    shown = min(page.RECONSTRUCTIONS, len(found.images["picture"]))
    generated = found.generated
    return page.Pictures(
        originals=found.data.test.batch(range(shown)).image,
        reconstructions=found.images["picture"][:shown],
        samples=None if generated is None else generated["picture"],
        sample_labels=None if generated is None else generated["label"],
    )
