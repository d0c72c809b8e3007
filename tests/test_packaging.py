"""What is built is what the tree holds, and it runs where there is no tree.

A folder missing from `packages` drops out of a wheel silently, so the list is compared with the
tree, and a built wheel is installed into an environment of its own and run from elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "models", "training", "service")
ELSEWHERE = {f"unified_latents.service.bench.serving.{rival}" for rival in ("lit", "ray_serve")}
"""They run where `make bench-serve` installs their libraries."""
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", ".data", ".runs", "__pycache__", "build", "dist",
    "*.egg-info", "tests",
)  # fmt: skip

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
home, folders = sys.argv[1], sys.argv[2].split(",")
def modules(name):
    yield name
    for info in pkgutil.iter_modules(importlib.import_module(name).__path__):
        below = f"{name}.{info.name}"
        yield from modules(below) if info.ispkg else [below]
for folder in folders:
    for name in modules(f"unified_latents.{folder}"):
        if name in sys.argv[3].split(","):
            continue
        file = importlib.import_module(name).__file__
        assert file.startswith(home), (name, file)
        print(name)
"""


def pyproject() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def modules() -> set[str]:
    """The dotted name of every module of the tree."""
    paths = (path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    names = (".".join(("unified_latents", *path.with_suffix("").parts)) for path in paths)
    return {name.removesuffix(".__init__") for name in names}


def package_data() -> set[str]:
    """Every file that belongs beside the code, as its path in the tree."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    kept = (path for path in files if path.suffix not in {".py", ".pyc"})
    return {path.relative_to(ROOT).as_posix() for path in kept}


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that must succeed; PYTHONPATH and the like do not reach it."""
    parts = [str(part) for part in command]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(parts, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, of a copy of the tree: nothing stale can come along."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "tree", ignore=NOT_SOURCE, symlinks=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=folder / "tree")
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it; the libraries are this environment's own."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home / "venv", with_pip=False)
    python = home / "venv" / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=home)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    # A plain path: the editable install's own hook, a .pth file over there, stays asleep.
    here = sysconfig.get_path("purelib")
    (Path(site.strip()) / "libraries.pth").write_text(here + "\n", encoding="utf-8")
    return home


def test_declared_packages_are_the_tree() -> None:
    holders = {
        ".".join(("unified_latents", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    declared = pyproject()["tool"]["setuptools"]["packages"]
    assert set(declared) == holders
    assert len(declared) == len(holders)


def test_every_package_says_what_it_is() -> None:
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_type_checkers_find_the_tree() -> None:
    links = {link.name: link for link in (ROOT / ".import" / "unified_latents").iterdir()}
    assert set(links) == set(FOLDERS)
    assert all(link.is_symlink() for link in links.values())
    assert all(link.resolve() == ROOT / name for name, link in links.items())


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert names == {f"unified_latents/{name}" for name in code | package_data()}


def test_the_wheel_holds_the_pretrained_model(wheel: Path) -> None:
    files = [path for path in (ROOT / "models" / "pretrained").rglob("*") if path.is_file()]
    assert ROOT / "models" / "pretrained" / "fashion" / "manifest.json" in files
    with zipfile.ZipFile(wheel) as archive:
        for path in files:
            name = f"unified_latents/{path.relative_to(ROOT).as_posix()}"
            assert archive.read(name) == path.read_bytes()
    for model in (ROOT / "models" / "pretrained").iterdir():
        size = sum(path.stat().st_size for path in files if model in path.parents)
        assert size <= 24 * 2**20, model


def test_every_module_imports_from_the_wheel(installed: Path) -> None:
    python = installed / "venv" / "bin" / "python"
    out = run(python, "-W", "error::ImportWarning", "-c", IMPORT_EVERYTHING, installed,
              ",".join(FOLDERS), ",".join(ELSEWHERE), cwd=installed)  # fmt: skip
    assert set(out.split()) == modules() - ELSEWHERE


@pytest.mark.parametrize("command", ["ul-train", "ul-serve"])
def test_the_commands_run_from_the_wheel(installed: Path, command: str) -> None:
    out = run(installed / "venv" / "bin" / command, "--help", cwd=installed)
    assert command in out
