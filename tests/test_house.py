"""The rules of the house that no linter knows, read from the tree itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "models", "training", "service")
TOP_LEVEL = {
    *PACKAGES,
    *("tests", "deploy", "pyproject.toml", "requirements.lock", "README.md", "Makefile"),
    *("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"),
}
GENERATED = re.compile(r"\..*|build|dist|.*\.egg-info|__pycache__")

FILE_LINES = 300
FUNCTION_LINES = 40
FUNCTION_LINES_P90 = 30
KERNEL_LINES = 90
ROOM_MODULES = 20


@dataclass(frozen=True)
class Function:
    """One function or method of the tree, without its decorators."""

    where: str
    lines: int
    is_kernel: bool


def sources(*folders: str) -> list[Path]:
    """Every Python file under the folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def parse(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file, nested ones too."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            kernel = any("triton" in ast.unparse(each) for each in node.decorator_list)
            yield Function(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines, kernel)


ALL = sources(*PACKAGES, "tests")


def test_there_is_something_to_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in ALL} == {*PACKAGES, "tests"}


def test_the_top_level_holds_six_folders_and_its_papers() -> None:
    present = {entry.name for entry in ROOT.iterdir() if not GENERATED.fullmatch(entry.name)}
    assert present == TOP_LEVEL


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ALL}
    assert {str(path): n for path, n in lengths.items() if n > FILE_LINES} == {}


def test_functions_stay_short() -> None:
    limits = {True: KERNEL_LINES, False: FUNCTION_LINES}
    every = [function for path in ALL for function in functions(path)]
    assert {f.where: f.lines for f in every if f.lines > limits[f.is_kernel]} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_most_functions_are_shorter_still(package: str) -> None:
    lengths = sorted(f.lines for path in sources(package) for f in functions(path))
    assert lengths[int(0.9 * (len(lengths) - 1))] <= FUNCTION_LINES_P90


def test_rooms_stay_small() -> None:
    rooms = {path.parent for path in sources(*PACKAGES)}
    assert {
        str(room): n for room in rooms if (n := len(list(room.glob("*.py")))) > ROOM_MODULES
    } == {}


def test_imports_name_the_distribution() -> None:
    """A bare `import models` works at the repository root, by accident, and nowhere else."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ALL
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(node)
        if name.split(".")[0] in PACKAGES
    ]
    assert bare == []


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that a statement names; a relative import names none."""
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    return [alias.name for alias in node.names]


def test_no_imports_relative_to_a_folder() -> None:
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ALL
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_every_module_says_what_it_is() -> None:
    assert [str(path) for path in sources(*PACKAGES) if not ast.get_docstring(parse(path))] == []


def test_tests_mirror_the_tree() -> None:
    """tests/<package>/test_<module>.py, or test_<module>_<topic>.py, is about that module."""
    strays = []
    for path in sources(*(f"tests/{package}" for package in PACKAGES)):
        room = ROOT / path.parent.relative_to(ROOT / "tests")
        nouns = {entry.stem.strip("_") for entry in room.iterdir()} if room.is_dir() else set()
        about = path.stem.removeprefix("test_")
        if about != path.stem and not any(f"{about}_".startswith(f"{noun}_") for noun in nouns):
            strays.append(str(path.relative_to(ROOT)))
    assert strays == []


def test_the_changelog_names_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    versions = [tuple(map(int, each.split("."))) for each in headings[1:]]
    assert all(newer > older for newer, older in pairwise(versions))
