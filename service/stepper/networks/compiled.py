"""Networks as shared libraries, made ahead of time by `compile` and run in place of the modules.

A package is a folder: what AOTInductor wrote, and `compiled.json`. There are no weights in it: it
copies those of the module that it stands in for, so a new checkpoint of the same shapes needs no
new package. It is of use to one processor, one torch, one number of threads and one state of our
code, and is passed over where any of them is another.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from unified_latents import kernels, models
from unified_latents.models.base import BaseModel
from unified_latents.models.manifest import file_digest
from unified_latents.models.unified import UnifiedLatents
from unified_latents.service.engine.spawn import PACKAGE
from unified_latents.service.stepper.networks.numerics import code, in_blocks

NetworkName = Literal["encode", "base", "decode"]
"""The stage that evaluates it."""
BLOCKS: Mapping[NetworkName, int] = {"encode": 1, "base": 4, "decode": 1}
"""Rows of a strict call: always as many, so that none depends on how many others there are."""
_AGREES = 1e-3
_PROCESSOR = ("flags", "features", "model name", "cpu part", "cpu implementer")
"""Of /proc/cpuinfo: what a compiler makes use of, and its tuning."""

log = logging.getLogger(__name__)


class PackageError(Exception):
    """A package is damaged or does not compute what its network does."""


class Purpose(msgspec.Struct, frozen=True):
    """What a package is for: equal purposes, equal bytes."""

    stage: NetworkName
    machine: str
    network: str
    compiler: str
    """Its name and version."""

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"{self.stage}-{self.network[:12]}-{self.machine[:12]}"


class Package(msgspec.Struct, frozen=True):
    """`compiled.json`."""

    purpose: Purpose
    files: dict[str, str]
    """SHA-256 of every other file."""
    seal: str = ""
    """SHA-256 of the above."""

    @property
    def sealed(self) -> Package:
        """With the seal that it should have."""
        bare = msgspec.structs.replace(self, seal="")
        seal = hashlib.sha256(msgspec.json.encode(bare)).hexdigest()
        return msgspec.structs.replace(self, seal=seal)


class _Stamp(msgspec.Struct):
    """All that is read of a package that another version may have made."""

    class Purpose(msgspec.Struct):
        machine: str

    purpose: Purpose


class Network(NamedTuple):
    """A network, and rows as a pass gives them."""

    module: nn.Module
    inputs: tuple[Tensor, ...]

    @property
    def fingerprint(self) -> str:
        """A digest of its kind and shapes, its weights not among them."""
        state = [*self.module.named_parameters(), *self.module.named_buffers()]
        facts = [
            repr(self.module),
            *(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in state),
            *(f"{tuple(each.shape[1:])} {each.dtype}" for each in self.inputs),
        ]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def networks(
    unified: UnifiedLatents, base: BaseModel | None, rows: int
) -> dict[NetworkName, Network]:
    """All that can be compiled, with random rows: levels from −5 to 3, label 0, nothing known."""
    config, random = unified.config, torch.Generator().manual_seed(0)
    x, z = (
        torch.randn(rows, *shape, generator=random)
        for shape in (config.image_shape, config.latent_shape)
    )
    log_snr, label = torch.linspace(-5, 3, rows), torch.zeros(rows, dtype=torch.int64)
    seen = [x.new_zeros(rows, width, *config.size) for width in config.image_context]
    found: dict[NetworkName, Network] = {
        "encode": Network(unified.encoder, (x,)),
        "decode": Network(unified.decoder, (x, log_snr, z, *seen)),
    }
    if base is not None:
        known = [x.new_zeros(rows, width, *config.grid) for width in base.config.context]
        found["base"] = Network(base, (z, log_snr, label, *known))
    return found


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A digest of what a library depends on besides its network and its compiler."""
    text = cpuinfo.read_text("utf-8", "replace") if cpuinfo.exists() else ""
    lines = [line for line in text.splitlines() if line.lower().startswith(_PROCESSOR)]
    facts = [
        platform.machine(),
        *sorted({word for line in lines for word in line.split()}),
        json.dumps(dict(BLOCKS)),
        str(torch.__version__),
        str(torch.get_num_threads()),
        code(kernels, models),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


class Compiled:
    """A loaded package: the module's function of its rows, on a copy of the module's weights.

    A strict call takes `block` rows at a time, the last of them repeated where rows are missing.
    """

    def __init__(self, folder: Path, module: nn.Module, block: int) -> None:
        runner = torch._C._aoti.AOTIModelPackageLoader(str(folder), "model", False, 1, -1)
        weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        wanted = {name: weights[name] for name in runner.get_constant_fqns()}
        # A copy: handles of tensors that stay the caller's (the last argument) are never freed.
        runner.load_constants(wanted, False, True, False)
        self._runner, self._block = runner, block

    def __call__(self, *inputs: Tensor, strict: bool = False) -> Tensor:
        """Rows in, rows out."""
        return in_blocks(self._run, inputs, self._block) if strict else self._run(inputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        made: Tensor = self._runner.run([each.contiguous() for each in inputs])[0]
        return made


class Library:
    """The packages that an engine was given, of use here."""

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        here = machine()
        found = {Path(folder): _read(Path(folder), here) for folder in folders}
        self._packages = {folder: package for folder, package in found.items() if package}
        self._used: set[Path] = set()

    @property
    def digest(self) -> str | None:
        """Of all purposes, whether a model has them or not; None where there are none."""
        if not self._packages:
            return None
        purposes = sorted(
            (package.purpose for package in self._packages.values()), key=msgspec.json.encode
        )
        return hashlib.sha256(msgspec.json.encode(purposes)).hexdigest()

    @property
    def unused(self) -> list[Path]:
        """Packages that have not been matched by any model yet."""
        return sorted(self._packages.keys() - self._used)

    def match(self, unified: UnifiedLatents, base: BaseModel | None) -> dict[NetworkName, Compiled]:
        """What there is of a model's networks.

        `PackageError` where a file is not what was written, or does not agree with its network.
        """
        if not self._packages:
            return {}
        found = {}
        for stage, network in networks(unified, base, 2).items():
            wanted = stage, network.fingerprint
            for folder, package in self._packages.items():
                if (package.purpose.stage, package.purpose.network) == wanted:
                    found[stage] = load(folder, package, network)
                    self._used.add(folder)
        return found


def read(folder: Path) -> Package:
    """What is said of a package; `PackageError` where it is damaged."""
    try:
        package = msgspec.json.decode((folder / PACKAGE).read_bytes(), type=Package)
    except (OSError, msgspec.DecodeError) as error:
        raise PackageError(f"{folder / PACKAGE}: {error}") from error
    if package != package.sealed:
        raise PackageError(f"{folder / PACKAGE} is damaged: remove {folder} and compile it again")
    return package


def _read(folder: Path, here: str) -> Package | None:
    """`read`; None, and a warning, for what was compiled elsewhere or by another version."""
    try:
        stamp = msgspec.json.decode((folder / PACKAGE).read_bytes(), type=_Stamp)
    except (OSError, msgspec.DecodeError) as error:
        raise PackageError(f"{folder / PACKAGE}: {error}") from error
    if stamp.purpose.machine == here:
        return read(folder)
    log.warning("%s is of no use here: it was compiled for something else", folder)
    return None


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a package but `compiled.json`."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != PACKAGE)
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


@torch.inference_mode()
def load(folder: Path, package: Package, network: Network) -> Compiled:
    """A package in a network's place; `PackageError` as `Library.match`."""
    there = contents(folder)
    for name in sorted(there.keys() | package.files.keys()):
        if there.get(name) != package.files.get(name):
            advice = f"remove {folder} and compile it again"
            raise PackageError(f"{folder / name} is missing, damaged or foreign: {advice}")
    compiled = Compiled(folder, network.module, BLOCKS[package.purpose.stage])
    expected, made = network.module(*network.inputs), compiled(*network.inputs)
    error = (made - expected).abs().max().item() if made.shape == expected.shape else float("nan")
    if not error <= _AGREES * expected.abs().max().item() + _AGREES:
        raise PackageError(f"{folder} does not compute what its network does: off by {error:g}")
    return compiled
