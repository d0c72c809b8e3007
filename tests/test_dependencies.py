"""Declared, locked, imported, explained: the same libraries in all four places."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = {"kernels": [], "models": [], "training": ["train"], "service": ["serve"]}
"""What each folder may import beyond the core."""

NEVER_IMPORTED = {
    *("build", "grpcio-tools", "import-linter", "mypy", "ruff", "setuptools"),  # tools
    *("types-grpcio", "types-grpcio-health-checking", "types-grpcio-reflection", "types-protobuf"),
    *("pytest-timeout", "pytest-xdist"),  # pytest loads its plugins itself
    *("flask-cors", "moto"),  # tests start moto's server as a process of its own
    "beartype",  # pytest's jaxtyping option names it
    "python-multipart",  # FastAPI looks for it when it reads a form
    "tensorboard",  # torch.utils.tensorboard looks for it
}

RIVALS = {"litserve", "ray"}
"""What `make bench-serve` installs in an environment of its own; only its room imports them."""


@cache
def declared() -> dict[str, list[Requirement]]:
    """Extra → requirements; the core is the extra ''."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in groups.items()}


def direct() -> list[Requirement]:
    """Every requirement that pyproject.toml names."""
    return [requirement for group in declared().values() for requirement in group]


def names(*extras: str) -> set[str]:
    """The canonical names in some extras."""
    return {canonicalize_name(each.name) for extra in extras for each in declared()[extra]}


@cache
def locked() -> dict[str, str]:
    """Canonical name → version of every pin of the lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def installed(name: str) -> str | None:
    """The public version found here, if any."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


@cache
def distributions() -> dict[str, set[str]]:
    """Top-level module → the distributions that bring it."""
    found = metadata.packages_distributions().items()
    return {module: {canonicalize_name(name) for name in owners} for module, owners in found}


def imported(folder: str) -> dict[str, set[str]]:
    """Foreign top-level module → its distributions, over every import of a folder."""
    foreign: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - sys.stdlib_module_names:
                foreign[top] = distributions().get(top, {top})
    return {
        top: owners for top, owners in foreign.items() if top not in {"unified_latents", "tests"}
    }


def test_the_lock_holds_names_and_versions_only() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pin = re.compile(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*")
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []
    assert len(locked()) == sum(not line.startswith("#") for line in lines)


def test_the_lock_satisfies_every_requirement() -> None:
    pins = {
        requirement: locked().get(canonicalize_name(requirement.name)) for requirement in direct()
    }
    unmet = [str(each) for each, pin in pins.items() if pin is None or pin not in each.specifier]
    assert unmet == []


def test_the_lock_pulls_no_accelerator_stack() -> None:
    """A CPU machine and a GPU machine resolve the same tree; torch's own build tag differs."""
    assert [name for name in locked() if name.startswith(("nvidia-", "cuda-"))] == []


def test_this_environment_is_the_lock() -> None:
    found = {name: installed(name) for name in locked()}
    assert {name: v for name, v in found.items() if v not in {None, locked()[name]}} == {}
    assert {each.name for each in direct() if installed(each.name) is None} == set()


@pytest.mark.parametrize("folder", EXTRAS)
def test_a_folder_imports_what_its_extra_declares(folder: str) -> None:
    allowed = names("", *EXTRAS[folder])
    strays = {module for module, owners in imported(folder).items() if not owners & allowed}
    assert strays - (RIVALS if folder == "service" else set()) == set()


def test_what_tests_import_is_declared() -> None:
    known = names(*declared())
    strays = {module for module, owners in imported("tests").items() if not owners & known}
    assert strays == set()


def test_what_is_declared_is_used() -> None:
    used = {
        name for folder in (*EXTRAS, "tests") for each in imported(folder).values() for name in each
    }
    assert names(*declared()) - used - NEVER_IMPORTED == set()


def test_contributing_explains_every_library() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([0-9][^ |]*) \|", text, flags=re.MULTILINE))
    assert rows == {each.name: locked()[canonicalize_name(each.name)] for each in direct()}
