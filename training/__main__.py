"""`ul-train`: prepare data, train the two stages, measure."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from unified_latents.models import checkpoint as checkpoints
from unified_latents.models.manifest import CheckpointError
from unified_latents.models.objective.variants import VARIANTS
from unified_latents.training import bench as benchmark
from unified_latents.training import recipes, runner
from unified_latents.training.data.animated_emoji import prepare_animated_emoji
from unified_latents.training.data.card import DataCard, DataError, Fit, read_card
from unified_latents.training.data.moving_sprites import Scene, prepare_moving_sprites
from unified_latents.training.data.sets import load, prepare_fashion_mnist, prepare_folder
from unified_latents.training.errors import TrainingError
from unified_latents.training.evaluation import classifier as classifiers
from unified_latents.training.evaluation import sizes
from unified_latents.training.evaluation.command import Data, Steps, curve, evaluate
from unified_latents.training.recipes import EncoderWarmup, Overrides, Training
from unified_latents.training.stage1 import Stage1
from unified_latents.training.stage2 import Stage2

T = TypeVar("T")

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
data_app = typer.Typer(help="Prepare a set of pictures.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.command()(evaluate)
app.command()(curve)

Out = Annotated[Path, typer.Option(help="The run's folder; a run that is there goes on.")]
IdxFolder = Annotated[
    Path | None, typer.Option(help="A folder with the four idx files, gzipped or not.")
]
DataOut = Annotated[Path, typer.Option(help="Where the prepared set goes.")]
BatchSize = Annotated[int | None, typer.Option(help="Images a step, instead of the recipe's.")]
Seed = Annotated[int | None, typer.Option(help="Instead of the recipe's.")]
Accumulation = Annotated[int | None, typer.Option(help="Parts of a batch, one after another.")]
Precision = Annotated[
    Literal["fp32", "bf16"] | None, typer.Option(help="Of the networks' products.")
]
Compile = Annotated[
    bool | None,
    typer.Option(help="torch.compile: minutes at the start, a faster step; for long runs."),
]
Minutes = Annotated[float, typer.Option(help="Between two snapshots.")]
Init = Annotated[
    Path | None, typer.Option(help="Start from this checkpoint's weights, optimiser fresh.")
]


def main() -> None:
    """The console script: what the user got wrong is one line and exit status 2."""
    try:
        app()
    except (TrainingError, DataError, CheckpointError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


@app.command()
def stage1(
    recipe: Annotated[str, typer.Argument(help=" | ".join(recipes.STAGE1))],
    data: Data,
    out: Out,
    steps: Steps = None,
    batch: BatchSize = None,
    seed: Seed = None,
    accumulation: Accumulation = None,
    precision: Precision = None,
    compile: Compile = None,
    loss_factor: Annotated[float | None, typer.Option(help="c_lf: more is more bits.")] = None,
    decoder_bias: Annotated[float | None, typer.Option(help="b: more is more bits.")] = None,
    target_bits: Annotated[
        float | None, typer.Option(help="Bits a pixel: c_lf moves until they are met.")
    ] = None,
    variant: Annotated[str, typer.Option(help=" | ".join(VARIANTS))] = "unified",
    encoder_warmup: Annotated[
        tuple[int, int] | None, typer.Option(help="Steps of hold and ramp, for a short run.")
    ] = None,
    init: Init = None,
    snapshot_minutes: Minutes = 10.0,
) -> None:
    """Train encoder, prior and decoder."""
    options = runner.Options(out, snapshot_minutes)
    chosen = _choose(recipe, recipes.STAGE1)(_card(data))
    changes = Overrides(steps, batch, seed, accumulation, precision, compile)
    chosen = replace(chosen, training=changes.of(chosen.training), target_bits=target_bits)
    chosen = recipes.with_bitrate(chosen, loss_factor, decoder_bias)
    chosen = recipes.with_variant(chosen, variant)
    if encoder_warmup is not None:
        chosen = replace(chosen, encoder_warmup=EncoderWarmup(*encoder_warmup))
    run = Stage1.build(chosen, load(data), init)
    _train(run, run.recipe.training, options)


@app.command()
def stage2(
    recipe: Annotated[str, typer.Argument(help=" | ".join(recipes.STAGE2))],
    data: Data,
    stage1: Annotated[str, typer.Option(help="The stage-1 checkpoint.")],
    out: Out,
    steps: Steps = None,
    batch: BatchSize = None,
    seed: Seed = None,
    accumulation: Accumulation = None,
    precision: Precision = None,
    compile: Compile = None,
    init: Init = None,
    snapshot_minutes: Minutes = 10.0,
) -> None:
    """Train the base model on a stage-1 checkpoint's latents."""
    options = runner.Options(out, snapshot_minutes)
    make, card = _choose(recipe, recipes.STAGE2), _card(data)
    start = checkpoints.load(stage1)
    chosen = make(card, start.unified.config)
    changes = Overrides(steps, batch, seed, accumulation, precision, compile)
    chosen = replace(chosen, training=changes.of(chosen.training))
    run = Stage2.build(chosen, load(data), start, out, init)
    _train(run, run.recipe.training, options)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or the name of a shipped model.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint folder.")],
    half: Annotated[bool, typer.Option(help="Store weights as fp16.")] = False,
    licence: Annotated[str | None, typer.Option(help="Of the weights.")] = None,
) -> None:
    """Copy a checkpoint, smaller; figures measured on other bytes are left behind."""
    source = checkpoints.load(checkpoint)
    card = replace(source.card, metrics={}, licence=licence or source.card.licence)
    dtype = torch.float16 if half else torch.float32
    written = checkpoints.save(out, source.unified, source.base, card, dtype)
    typer.echo(f"{card.name} {written.digest}: {out}")


@app.command()
def classifier(
    data: Data,
    out: Annotated[Path, typer.Option(help="The file for the weights.")],
    epochs: Annotated[int, typer.Option(help="Times through the set.")] = 8,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
) -> None:
    """Train the judge that names generated pictures."""
    recipe = classifiers.ClassifierRecipe(epochs=epochs, seed=seed)
    pictures = load(data)
    torch.manual_seed(seed)
    judge = classifiers.Classifier(classifiers.ClassifierConfig.of(pictures.card))
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("classifier")
        for step in classifiers.train(pictures.train, judge, recipe):
            bar.update(task, completed=step.step, total=step.steps)
    digest = classifiers.save(out, judge)
    right = classifiers.hits(judge, pictures.test).double().mean().item()
    typer.echo(f"names {100 * right:.2f} % of the test pictures; sha256 {digest}: {out}")


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Training steps a round.")] = 5,
    compiled: Annotated[bool, typer.Option(help="Measure compiled steps too; minutes.")] = True,
) -> None:
    """Images/s and model FLOP utilisation of both stages, beside `torch.mm`."""
    benchmark.bench(rounds, steps, Console(), compiled)


@app.command()
def presets() -> None:
    """The size of every named network: parameters, FLOPs of a pass, latent shape."""
    sizes.show(Console())


@data_app.command("fashion-mnist")
def data_fashion_mnist(
    out: DataOut,
    source: IdxFolder = None,
) -> None:
    """Fashion-MNIST, padded to 32×32."""
    _tell(prepare_fashion_mnist(out, source), out)


@data_app.command("moving-sprites")
def data_moving_sprites(
    out: DataOut,
    size: Annotated[int, typer.Option(help="Side of the square frames, in pixels.")] = 32,
    frames: Annotated[int, typer.Option(help="Of a clip.")] = 16,
    sprites: Annotated[int, typer.Option(help="At most, in a clip; 1 … 3.")] = 2,
    train: Annotated[int, typer.Option(help="Clips to train on.")] = 20_000,
    test: Annotated[int, typer.Option(help="Clips to test on.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Clips are a function of it.")] = 0,
    source: IdxFolder = None,
) -> None:
    """Clips of Fashion-MNIST sprites that bounce about."""
    scene = Scene(size, frames, sprites)
    _tell(prepare_moving_sprites(out, scene, (train, test), seed, source), out)


@data_app.command("animated-emoji")
def data_animated_emoji(
    out: DataOut,
    size: Annotated[int, typer.Option(help="Side of the square frames, in pixels.")] = 64,
    source: Annotated[
        Path | None, typer.Option(help="A node_modules folder, or an .npz of clips; else npm.")
    ] = None,
) -> None:
    """Clips of animated Fluent emoji, about 730 MB of packages."""
    _tell(prepare_animated_emoji(out, source, size), out)


@data_app.command("folder")
def data_folder(
    path: Annotated[Path, typer.Argument(help="Pictures; sub-folders are classes.")],
    out: DataOut,
    size: Annotated[int, typer.Option(help="Side of the square pictures, in pixels.")],
    fit: Annotated[Fit, typer.Option(help="Cut to the square, or scale into it.")] = "crop",
    mode: Annotated[
        Literal["auto", "L", "RGB"], typer.Option(help="auto: RGB if any picture has colour.")
    ] = "auto",
    background: Annotated[int, typer.Option(help="0…255, under alpha and padding.")] = 0,
    test_fraction: Annotated[float, typer.Option(help="Kept out of training.")] = 0.1,
) -> None:
    """Anyone's pictures."""
    card = prepare_folder(
        path, out, size, fit=fit, mode=mode, background=background, test_fraction=test_fraction
    )
    _tell(card, out)
    for name, error in card.skipped.items():
        typer.echo(f"skipped {name}: {error}", err=True)


def _tell(card: DataCard, out: Path) -> None:
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    typer.echo(f"{card.name}: {counts}, {len(card.labels)} labels: {out}")


def _train(stage: runner.Stage, training: Training, options: runner.Options) -> None:
    done = runner.run(stage, training, options)
    what = "finished" if done == training.steps else "stopped; the same command goes on"
    typer.echo(f"{stage.name}: {what} after step {done}: {options.out}")


def _card(data: Path) -> DataCard:
    """The set's card alone, so that a mistake shows before anything is loaded."""
    if not data.is_dir():
        raise TrainingError(f"{data} is no folder: prepare one with `ul-train data …`")
    return read_card(data)


def _choose(name: str, table: dict[str, T]) -> T:
    if name not in table:
        raise TrainingError(f"no recipe {name!r}; there are: {', '.join(table)}")
    return table[name]


if __name__ == "__main__":
    main()
