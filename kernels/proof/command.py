"""`ul-kernels`: what can be known of the fused kernels without a GPU, and their times on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

cli = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

_FUSED = Path(__file__).parents[1] / "fused"


def _ledger() -> Path:
    """Where results are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "unified-latents" / "kernels.jsonl"


@cli.command()
def check(
    out: Annotated[Path | None, typer.Option(help="Also write the page to this file.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="Compile for so long; the page names what is left.")
    ] = 600,
    first: Annotated[
        str, typer.Option(help="Compile the cases with this in their names first.")
    ] = "",
) -> None:
    """Compile every default configuration for sm_80, sm_90 and sm_100, and count bytes.

    Results are kept, so a second run goes on where the first one stopped. Exit code 1 where a
    kernel breaks a limit or something is left to compile.
    """
    from unified_latents.kernels.proof.cases import every
    from unified_latents.kernels.proof.page import page
    from unified_latents.kernels.proof.report import Ledger, survey

    def note(text: str) -> None:
        typer.echo(f"compiling {text}", err=True)

    rows, missing = [], []
    deadline = time.monotonic() + 60 * minutes
    ledger = Ledger(_ledger(), _FUSED)
    if first:
        for _ in survey([each for each in every() if first in each.title], ledger, deadline, note):
            pass
    for case, capability, found in survey(every(), ledger, deadline, note):
        rows += found or []
        if found is None:
            missing.append(f"{case.title}, sm_{capability}")
    text = page(rows, missing, traffic())
    typer.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if missing or any(row.problems for row in rows):
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
    if not torch.cuda.is_available():
        typer.echo("ul-kernels bench: this machine has no CUDA device; there is nothing to time")
        raise typer.Exit(2)
    from unified_latents.kernels.proof.contenders import contests, shown

    figures = contests()
    typer.echo(shown(figures))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
