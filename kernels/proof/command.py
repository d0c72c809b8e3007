"""`ul-kernels`: what can be known of the fused kernels without a GPU, and their times on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

cli = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@cli.command()
def check(
    out: Annotated[Path | None, typer.Option(help="Also write the page to this file.")] = None,
    only: Annotated[
        str,
        typer.Option(help="Compile the cases with this in their names; the page names the rest."),
    ] = "",
    processes: Annotated[int, typer.Option(min=1, help="Compile in so many processes.")] = 1,
) -> None:
    """Compile every default configuration for sm_80, sm_90 and sm_100, and count bytes.

    Triton keeps what it compiled, so a second run is quick. Exit code 1 where a kernel breaks a
    limit.
    """
    from unified_latents.kernels.proof.ahead import CAPABILITIES
    from unified_latents.kernels.proof.cases import every
    from unified_latents.kernels.proof.page import page
    from unified_latents.kernels.proof.report import survey

    cases = every()
    tasks = [(each, where) for each in cases if only in each.title for where in CAPABILITIES]
    if not tasks:
        raise typer.BadParameter(f"{only!r} is in no case's name", param_hint="--only")
    rows = []
    for (case, capability), found in zip(tasks, survey(tasks, processes), strict=True):
        typer.echo(f"compiled {case.title}, sm_{capability}", err=True)
        rows += found
    text = page(rows, [each.title for each in cases if only not in each.title], traffic())
    typer.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if any(row.problems for row in rows):
        raise typer.Exit(1)


def traffic() -> dict[str, dict[str, list[int]]]:
    """`bytes.table` from a process under the interpreter."""
    command = [sys.executable, "-P", "-m", "unified_latents.kernels.proof.bytes"]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, list[int]]] = json.loads(done.stdout)
    return found


@cli.command()
def bench(
    out: Annotated[Path | None, typer.Option(help="Also write the figures, as JSON.")] = None,
) -> None:
    """Time the fused kernels against eager and compiled torch on this machine's GPU."""
    _needs_cuda("bench")
    from unified_latents.kernels.proof.contenders import card, contests, every, shown, timed

    figures = contests(every("cuda"), card(), timed)
    typer.echo(shown(figures))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


@cli.command()
def tune(
    only: Annotated[str, typer.Option(help="Time the kernels with this in their names.")] = "",
) -> None:
    """Find the fastest tiles on this machine's GPU, and keep them for launches to come."""
    _needs_cuda("tune")
    from unified_latents.kernels.fused import tuned
    from unified_latents.kernels.proof.contenders import timed
    from unified_latents.kernels.proof.tune import fastest, times, trials

    card = torch.cuda.get_device_name()
    fresh = {}
    for trial in trials("cuda"):
        if only in trial.name and (found := times(trial, timed)):
            fresh[trial.name] = fastest(found)
            shown = ", ".join(f"{each} {ms:.3f} ms" for each, ms in found.items())
            typer.echo(f"{trial.name}: {shown}")
    if not fresh:
        raise typer.BadParameter(f"no kernel with {only!r} in its name ran", param_hint="--only")
    typer.echo(f"written: {tuned.write(card, tuned.read(card) | fresh)}")


def _needs_cuda(name: str) -> None:
    if not torch.cuda.is_available():
        typer.echo(f"ul-kernels {name}: this machine has no CUDA device; there is nothing to time")
        raise typer.Exit(2)


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
