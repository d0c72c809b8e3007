from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from unified_latents.service.__main__ import cli, key_ring, settings_from
from unified_latents.service.keys import load


def test_a_key_goes_to_its_owner_and_its_line_to_the_service(tmp_path: Path) -> None:
    arguments = ["key", "alice", "--scopes", "generate, metrics", "--budget", "600"]
    made = CliRunner().invoke(cli, arguments)
    assert made.exit_code == 0
    (tmp_path / "keys").write_text(made.stdout)
    found = load("", tmp_path / "keys").find(made.stderr.strip())
    assert found is not None
    assert (found.name, sorted(found.scopes), found.budget) == (
        "alice",
        ["generate", "metrics"],
        600,
    )
    assert made.stderr.strip() not in made.stdout


@pytest.mark.parametrize("arguments", [["alice", "--scopes", "fly"], ["a b"], ["a", "--budget=0"]])
def test_keys_that_cannot_be(arguments: list[str]) -> None:
    refused = CliRunner().invoke(cli, ["key", *arguments])
    assert refused.exit_code == 2
    assert not refused.stdout


def test_an_open_address_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="ul-serve key"):
        settings_from(host="0.0.0.0")
    settings = settings_from(host="0.0.0.0", api_keys_file=tmp_path / "keys")
    with pytest.raises(typer.BadParameter, match="API keys"):
        key_ring(settings)
    (tmp_path / "keys").write_text("\n# none yet\n")
    with pytest.raises(typer.BadParameter, match="no key"):
        key_ring(settings)
    assert len(key_ring(settings_from())) == 0
