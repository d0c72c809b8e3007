"""A checkpoint: a folder of safetensors, a config and a manifest, and nothing to unpickle.

    config.json  encoder|prior|decoder[|base].safetensors  canary.safetensors  manifest.json

The latent-space id is a digest of what a latent means: the encoder's weights, its preprocessing,
λ(0), channels and strides. The grid is no part of it: one convolutional space serves many sizes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unified_latents.models import canary, manifest
from unified_latents.models.base import BaseModel
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.manifest import Card, CheckpointError, Manifest, Preprocessing
from unified_latents.models.unified import UnifiedLatents

PRETRAINED = Path(__file__).parent / "pretrained"
STAGE_1 = ("encoder", "prior", "decoder")


@dataclass(frozen=True)
class Networks:
    """`config.json`: the sizes of the networks in the folder."""

    unified: UnifiedConfig
    base: BaseConfig | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: fp32 networks in evaluation mode, and the manifest."""

    unified: UnifiedLatents
    base: BaseModel | None
    manifest: Manifest
    canary: dict[str, Tensor]

    @property
    def card(self) -> Card:
        return self.manifest.card


def find(name: str | Path) -> Path:
    """A checkpoint's folder: a path, or the name of a pretrained model that the package ships."""
    for folder in (Path(name), PRETRAINED / name):
        if (folder / manifest.MANIFEST).is_file():
            return folder
    shipped = sorted(path.parent.name for path in PRETRAINED.glob(f"*/{manifest.MANIFEST}"))
    raise CheckpointError(f"{name}: no checkpoint folder, and none of the shipped ones: {shipped}")


def save(
    folder: Path,
    unified: UnifiedLatents,
    base: BaseModel | None,
    card: Card,
    dtype: torch.dtype = torch.float32,
) -> Manifest:
    """Writes the folder in one step (a complete one or none), weights stored as `dtype`.

    The latent-space id and the canary are taken from the weights as stored.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        written = _write(new, unified, base, card, dtype)
        new.chmod(0o755)
        for path in new.iterdir():
            path.chmod(0o644)
        _replace(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return written


def load(folder: str | Path) -> Checkpoint:
    """Verifies every digest, then rebuilds the networks on the CPU.

    Raises CheckpointError naming the file that is missing, damaged or does not fit.
    """
    folder = find(folder)
    read = manifest.read_manifest(folder)
    networks = manifest.read(folder / manifest.CONFIG, Networks)
    unified = UnifiedLatents(networks.unified)
    base = None if networks.base is None else BaseModel(networks.base)
    modules = _modules(unified, base)
    required = {manifest.CONFIG, manifest.CANARY, *(f"{name}.safetensors" for name in modules)}
    if missing := sorted(required - read.files.keys()):
        raise CheckpointError(f"{folder / manifest.MANIFEST}: does not name {missing}")
    for name, module in modules.items():
        _fill(module, folder / f"{name}.safetensors")
    space = latent_space(unified.encoder, networks.unified, read.card.preprocessing)
    if (space, networks.unified.lambda_0) != (read.latent_space, read.lambda_0):
        raise CheckpointError(f"{folder / manifest.MANIFEST}: the latent space is {space}")
    return Checkpoint(
        unified.eval().requires_grad_(False),
        None if base is None else base.eval().requires_grad_(False),
        read,
        _tensors(folder / manifest.CANARY),
    )


def check_canary(checkpoint: Checkpoint) -> canary.CanaryReport:
    """Runs the canary on this machine and compares it with the checkpoint's record."""
    return canary.compare(checkpoint.canary, canary.record(checkpoint.unified, checkpoint.base))


def annotate(folder: Path, **changes: object) -> Manifest:
    """Changes fields of the card in place (`metrics=…`, `defaults=…`); weights are untouched."""
    old = manifest.read_manifest(folder)
    new = replace(old, card=replace(old.card, **changes))  # type: ignore[arg-type]
    part = folder / f".{manifest.MANIFEST}.part"
    manifest.write(part, new)
    part.replace(folder / manifest.MANIFEST)
    return new


def latent_space(encoder: nn.Module, config: UnifiedConfig, preprocessing: Preprocessing) -> str:
    """The identity of the space that `encoder` writes into: 32 hexadecimal digits."""
    meaning = (
        preprocessing,
        float(config.lambda_0),
        config.image_channels,
        config.latent_channels,
        config.encoder.patch,
        config.encoder.strides,
    )
    digest = hashlib.sha256(msgspec.json.encode(meaning))
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _modules(unified: UnifiedLatents, base: BaseModel | None) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {name: unified.get_submodule(name) for name in STAGE_1}
    return parts if base is None else {**parts, "base": base}


def _write(
    folder: Path,
    unified: UnifiedLatents,
    base: BaseModel | None,
    card: Card,
    dtype: torch.dtype,
) -> Manifest:
    manifest.write(
        folder / manifest.CONFIG, Networks(unified.config, None if base is None else base.config)
    )
    for name, module in _modules(unified, base).items():
        tensors = {k: v.to("cpu", dtype).contiguous() for k, v in module.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    stored, stored_base = _stored(folder, unified.config, base)
    save_file(canary.record(stored, stored_base), folder / manifest.CANARY)
    written = Manifest(
        format=manifest.FORMAT,
        card=card,
        latent_space=latent_space(stored.encoder, unified.config, card.preprocessing),
        lambda_0=unified.config.lambda_0,
        files={path.name: manifest.file_digest(path) for path in sorted(folder.iterdir())},
    )
    manifest.write(folder / manifest.MANIFEST, written)
    return written


def _stored(
    folder: Path, config: UnifiedConfig, base: BaseModel | None
) -> tuple[UnifiedLatents, BaseModel | None]:
    """The networks as a reader of the folder will see them."""
    unified = UnifiedLatents(config).eval()
    again = None if base is None else BaseModel(base.config).eval()
    for name, module in _modules(unified, again).items():
        _fill(module, folder / f"{name}.safetensors")
    return unified, again


def _fill(module: nn.Module, path: Path) -> None:
    tensors = {name: value.float() for name, value in _tensors(path).items()}
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _replace(folder: Path, new: Path) -> None:
    """Puts `new` where `folder` was; an interruption leaves the old, the new, or both."""
    old = folder.with_name(f".{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
