"""`ul-train evaluate`, as its options read; the work is in the modules beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from unified_latents.training.data.card import read_card
from unified_latents.training.evaluation import clip_page, plots
from unified_latents.training.evaluation import clips as clip_units
from unified_latents.training.evaluation import evaluate as evaluation
from unified_latents.training.evaluation import report as reports
from unified_latents.training.evaluation import study as studies
from unified_latents.training.evaluation.clips import Films
from unified_latents.training.evaluation.evaluate import Evaluation, Metrics
from unified_latents.training.evaluation.study import Study

Data = Annotated[Path, typer.Option(help="A set prepared by `ul-train data`.")]
Steps = Annotated[int | None, typer.Option(help="Instead of the recipe's.")]
Named = Annotated[str, typer.Argument(help="A folder, or the name of a shipped model.")]
Out = Annotated[Path, typer.Option(help="Report and parts; one that is there goes on.")]
Images = Annotated[int, typer.Option(help="Test pictures to reconstruct, or clips.")]
Generated = Annotated[int, typer.Option(help="Pictures to generate, labels in turn.")]
Own = Annotated[int | None, typer.Option(help="Instead of the checkpoint's.")]
Guidance = Annotated[float | None, typer.Option(help="Instead of the checkpoint's.")]
Seed = Annotated[int, typer.Option(help="Of all noise.")]
Processes = Annotated[int, typer.Option(min=1, help="They share the threads.")]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile first, for minutes; the networks run faster.")
]
Brief = Annotated[
    bool, typer.Option("--brief", help="Leave out the distances and the two-way test.")
]
Judge = Annotated[Path | None, typer.Option(help="A classifier for other labels.")]
Compare = Annotated[
    list[Path] | None, typer.Option(help="Other reports, for a rate–distortion plot; repeat it.")
]
Logs = Annotated[
    list[Path] | None, typer.Option(help="Runs' log.jsonl, for learning curves; repeat it.")
]
Reports = Annotated[
    list[Path], typer.Argument(help="A `metrics.json` each, or its folder; the first is filled.")
]
Plot = Annotated[Path, typer.Option(help="The PNG to write.")]
Attach = Annotated[bool, typer.Option("--attach", help="Write the figures into the manifest.")]


def evaluate(
    checkpoint: Named,
    data: Data,
    out: Out,
    images: Images = 10_000,
    generated: Generated = 20_000,
    steps_base: Own = None,
    steps_decode: Own = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    processes: Processes = 1,
    compiled: Compiled = False,
    brief: Brief = False,
    judge: Judge = None,
    compare: Compare = None,
    log: Logs = None,
    attach: Attach = False,
) -> None:
    """Measure a checkpoint: bits, PSNR, agreement, distances, the two-way test, films; a page."""
    if read_card(data).frames is not None:
        _clips(clip_units.plan(checkpoint, data, out, images, seed), attach)
        return
    plan = evaluation.plan(
        checkpoint,
        data,
        out,
        images=images,
        generated=generated,
        steps_base=steps_base,
        steps_decode=steps_decode,
        guidance=guidance,
        seed=seed,
        compiled=compiled,
    )
    others = _others(compare or (), log or ())
    study = None if brief else studies.plan(plan, judge)
    _measure(plan, study, processes)
    metrics = reports.report(plan, judge, study, compare=others, logs=log or ())
    _finish(plan.checkpoint, metrics, attach)


def curve(report: Reports, out: Plot) -> None:
    """Draw rate against distortion, a point a report, and print the points."""
    points = reports.points([reports.read(each) for each in report])
    plots.rate_distortion(out, points)
    for name, bits, psnr, bits_error, psnr_error in points:
        told = f"{bits:.4f} ± {bits_error:.4f} bits a pixel, {psnr:.2f} ± {psnr_error:.2f} dB"
        typer.echo(f"{name}: {told}")


def _clips(films: Films, attach: bool) -> None:
    _watch("clips", clip_units.run(films), len(films.spans()))
    _finish(films.checkpoint, clip_page.report(films), attach)


def _finish(checkpoint: Path, metrics: Metrics, attach: bool) -> None:
    _tell(metrics)
    if attach:
        reports.attach(checkpoint, metrics)


def _others(compare: Sequence[Path], logs: Sequence[Path]) -> list[Metrics]:
    """Read what the plots need before hours of work: a mistake there shows at once."""
    for each in logs:
        plots.read_log(each)
    others = [reports.read(each) for each in compare]
    reports.points(others)
    return others


def _measure(plan: Evaluation, study: Study | None, processes: int) -> None:
    _watch("pictures", evaluation.run(plan, processes), len(evaluation.todo(plan)))
    if study is not None:
        _watch("sets", studies.run(study, processes), len(studies.todo(study)))


def _watch(what: str, tasks: Iterable[object], total: int) -> None:
    for _ in track(tasks, what, total=total, console=Console(stderr=True)):
        pass


def _tell(metrics: Metrics) -> None:
    for name, figure in metrics.figures.items():
        error = "" if figure.std_error is None else f" ± {figure.std_error:.2g}"
        typer.echo(f"{name} {figure.value:.4g}{error} (n = {figure.n}): {figure.definition}")
