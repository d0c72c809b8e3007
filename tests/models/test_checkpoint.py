"""Checkpoints: what goes in comes out, damage is named, and the latent space has an identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.models.conftest import Awaken
from unified_latents.models import checkpoint, manifest
from unified_latents.models.base import BaseModel
from unified_latents.models.checkpoint import load, save
from unified_latents.models.config import BaseConfig, UnifiedConfig
from unified_latents.models.manifest import (
    Card,
    CheckpointError,
    DataSource,
    Defaults,
    Preprocessing,
)
from unified_latents.models.unified import UnifiedLatents

_PREPROCESSING = Preprocessing(mode="RGB", fit="pad", background=255)
_CARD = Card(
    name="tiny",
    labels=("a", "b", "c"),
    preprocessing=_PREPROCESSING,
    data=DataSource("noise", "nowhere", "CC0-1.0", {"train": 3}, {"train.parquet": "00"}),
    licence="Apache-2.0",
    defaults=Defaults(guidance=1.5, guidance_interval=(-2.0, 3.0)),
    recipe={"steps": 3, "nested": {"lr": 0.001}},
    metrics={"psnr": 18.5},
)
_FILES = (
    "config.json",
    "encoder.safetensors",
    "prior.safetensors",
    "decoder.safetensors",
    "base.safetensors",
    "canary.safetensors",
)

Networks = tuple[UnifiedLatents, BaseModel]


@pytest.fixture
def networks(any_tiny: UnifiedConfig, any_tiny_base: BaseConfig, awaken: Awaken) -> Networks:
    return awaken(UnifiedLatents(any_tiny)), awaken(BaseModel(any_tiny_base), 1)


@pytest.fixture
def pair(tiny: UnifiedConfig, tiny_base: BaseConfig, awaken: Awaken) -> Networks:
    return awaken(UnifiedLatents(tiny)), awaken(BaseModel(tiny_base), 1)


@pytest.fixture
def folder(tmp_path: Path, pair: Networks) -> Path:
    save(tmp_path / "model", *pair, _CARD)
    return tmp_path / "model"


def equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_round_trip_to_the_bit(tmp_path: Path, networks: Networks) -> None:
    unified, base = networks
    written = save(tmp_path / "model", unified, base, _CARD)
    back = load(tmp_path / "model")
    assert equal(back.unified, unified)
    assert back.base is not None
    assert equal(back.base, base)
    assert back.unified.config == unified.config
    assert back.base.config == base.config
    assert back.card == _CARD
    assert back.manifest == written
    assert back.manifest.lambda_0 == 5.0
    x = torch.randn(1, *unified.config.image_shape)
    assert torch.equal(back.unified.encoder(x), unified.encoder(x))


def test_without_a_base_model(tmp_path: Path, pair: Networks) -> None:
    save(tmp_path / "model", pair[0], None, _CARD)
    assert load(tmp_path / "model").base is None
    assert not (tmp_path / "model" / "base.safetensors").exists()


def test_loaded_networks_are_frozen_and_in_evaluation_mode(folder: Path) -> None:
    back = load(folder)
    assert back.base is not None
    for module in (back.unified, back.base):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_half_precision_storage(tmp_path: Path, pair: Networks) -> None:
    """Half the bytes; loaded as the fp32 of what is stored; saving that again changes no bit."""
    sizes = {}
    for dtype in (torch.float32, torch.float16):
        save(tmp_path / str(dtype), *pair, _CARD, dtype)
        sizes[dtype] = (tmp_path / str(dtype) / "decoder.safetensors").stat().st_size
    assert sizes[torch.float16] < 0.75 * sizes[torch.float32]
    back = load(tmp_path / "torch.float16")
    for name, value in pair[0].state_dict().items():
        assert torch.equal(back.unified.state_dict()[name], value.half().float())
    assert checkpoint.check_canary(back).ok
    again = save(tmp_path / "again", back.unified, back.base, _CARD, torch.float16)
    assert again == back.manifest


def test_saving_twice_gives_the_same_folder(tmp_path: Path, pair: Networks) -> None:
    first, second = (save(tmp_path / name, *pair, _CARD) for name in ("a", "b"))
    assert first == second
    assert first.digest == second.digest


def test_a_loaded_checkpoint_saved_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    back = load(folder)
    again = save(tmp_path / "again", back.unified, back.base, back.card)
    assert again == back.manifest
    assert again.latent_space == back.manifest.latent_space


def test_saving_replaces_a_folder_and_leaves_nothing_beside_it(
    folder: Path, pair: Networks
) -> None:
    (folder / "stray.txt").write_text("from before")
    save(folder, pair[0], None, _CARD)
    assert load(folder).base is None
    assert not (folder / "stray.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_folder_holds_json_and_safetensors_alone(folder: Path) -> None:
    """Nothing to unpickle: a safetensors file starts with its header's length and a brace."""
    assert sorted(path.name for path in folder.iterdir()) == sorted((*_FILES, "manifest.json"))
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            content = path.read_bytes()
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            assert "__metadata__" not in header or isinstance(header["__metadata__"], dict)


@pytest.mark.parametrize("name", _FILES)
def test_a_flipped_bit_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load(folder)


@pytest.mark.parametrize("name", _FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def edit_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "manifest.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def redigest(folder: Path, name: str) -> None:
    """Makes the manifest agree with a file that was tampered with."""
    digest = manifest.file_digest(folder / name)
    edit_manifest(folder, lambda m: m.__setitem__("files", {**files_of(m), name: digest}))


def files_of(value: dict[str, object]) -> dict[str, str]:
    files = value["files"]
    assert isinstance(files, dict)
    return files


def test_a_pickle_under_a_weights_name_is_refused(folder: Path) -> None:
    """Even one that the manifest vouches for: it is not opened as a pickle, and it is named."""
    torch.save({"x": torch.zeros(3)}, folder / "encoder.safetensors")
    redigest(folder, "encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors"):
        load(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    (folder / "prior.safetensors").write_bytes((folder / "encoder.safetensors").read_bytes())
    redigest(folder, "prior.safetensors")
    with pytest.raises(CheckpointError, match=r"prior\.safetensors"):
        load(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"unified": 3}', b"\xff\xfe"])
def test_a_config_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    redigest(folder, "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


def test_a_config_of_impossible_sizes_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text().replace('"size": [', '"size": [1,', 1)
    (folder / "config.json").write_text(text)
    redigest(folder, "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.__setitem__("format", 99),
        lambda m: m.pop("card"),
        lambda m: m.__setitem__("lambda_0", "five"),
        lambda m: m.__setitem__("files", {**m["files"], "../config.json": "0" * 64}),
    ],
    ids=["format", "no card", "wrong type", "outside"],
)
def test_a_damaged_manifest_is_refused(
    folder: Path, change: Callable[[dict[str, object]], object]
) -> None:
    edit_manifest(folder, change)
    with pytest.raises(CheckpointError, match=r"manifest\.json|config\.json"):
        load(folder)


def test_unvouched_weights_are_refused(folder: Path) -> None:
    """A manifest that leaves a file out does not make it trustworthy."""
    edit_manifest(folder, lambda m: files_of(m).pop("prior.safetensors"))
    with pytest.raises(CheckpointError, match="prior"):
        load(folder)


def test_a_false_latent_space_is_refused(folder: Path) -> None:
    """The 409 of the service rests on it: a manifest cannot claim another space's identity."""
    edit_manifest(folder, lambda m: m.__setitem__("latent_space", "0" * 32))
    with pytest.raises(CheckpointError, match="latent"):
        load(folder)


def test_unknown_fields_are_ignored(folder: Path) -> None:
    edit_manifest(folder, lambda m: m.__setitem__("from_the_future", {"x": 1}))
    assert load(folder).card == _CARD


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing-here"):
        load(tmp_path / "nothing-here")


def test_annotate_changes_the_card_and_no_weight(folder: Path) -> None:
    before = load(folder)
    checkpoint.annotate(folder, metrics={"psnr": 20.0})
    after = load(folder)
    assert after.card == replace(_CARD, metrics={"psnr": 20.0})
    assert after.manifest.files == before.manifest.files
    assert equal(after.unified, before.unified)


def test_the_canary_travels_and_notices(folder: Path) -> None:
    back = load(folder)
    report = checkpoint.check_canary(back)
    assert report.ok
    assert report.image_error == 0
    for parameter in back.unified.decoder.parameters():
        parameter.mul_(1.05)
    assert not checkpoint.check_canary(back).ok


def test_the_digest_follows_every_file(tmp_path: Path, pair: Networks) -> None:
    unified, base = pair
    digests = {save(tmp_path / "m", unified, base, _CARD).digest}
    for module in (unified.prior, unified.decoder, base):
        next(module.parameters()).detach().add_(0.1)
        digests.add(save(tmp_path / "m", unified, base, _CARD).digest)
    assert len(digests) == 4
