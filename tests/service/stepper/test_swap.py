from __future__ import annotations

import gc
import queue
import weakref
from functools import partial
from pathlib import Path

import pytest

from tests.service.conftest import save_tiny
from tests.service.stepper.test_loop import generate, results
from unified_latents.service.engine.messages import Checkpoint, Error, Result
from unified_latents.service.engine.protocol import Load, Loaded, Message, Unload
from unified_latents.service.stepper.catalogue import load
from unified_latents.service.stepper.loop import Loop
from unified_latents.service.stepper.swap import Loader, Swap


def loaded(path: Path, **changes: bool) -> Swap:
    """What the loader's thread says of a folder, beside the tiny model's card."""
    done: queue.SimpleQueue[Swap] = queue.SimpleQueue()
    old = load(Checkpoint("m", str(path.parent / "old")), "cpu").card
    loader = Loader(partial(load, device="cpu"), done.put)
    loader.start(Load(1, Checkpoint("m", str(path)), **changes), old)
    return done.get(timeout=60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old`, and `new` of another latent space."""
    folder = tmp_path_factory.mktemp("swap")
    save_tiny(folder / "old")
    save_tiny(folder / "new", seed=5)
    return folder


def test_rows_finish_on_the_old_model_which_is_then_freed(folders: Path) -> None:
    sent: list[Message] = []
    old = load(Checkpoint("m", str(folders / "old")), "cpu")
    loop = Loop({"m": old}, 8, sent.append)
    loop.take(generate(1))
    loop.tick()
    swap = loaded(folders / "new", other_space=True)
    assert swap.model is not None
    loop.swap(swap)
    loop.take(generate(2))
    while loop.busy:
        loop.tick()
    (answer,) = (message for message in sent if isinstance(message, Loaded))
    assert answer == Loaded(1, swap.model.card)
    assert results(sent)[1].model == old.card.digest
    assert results(sent)[2].model == swap.model.card.digest
    unified = weakref.ref(old.unified)
    del old
    gc.collect()
    assert unified() is None


def test_what_may_not_be_loaded_is_named(folders: Path) -> None:
    swap = loaded(folders / "new")
    assert swap.model is None
    assert "another space" in str(swap.error)
    assert "no checkpoint folder" in str(loaded(folders / "nowhere").error)


def test_an_unloaded_model_is_unknown(folders: Path) -> None:
    sent: list[Message] = []
    loop = Loop({"m": load(Checkpoint("m", str(folders / "old")), "cpu")}, 8, sent.append)
    loop.take(generate(1, decode=None))
    loop.take(Unload(1, "m"))
    loop.take(Unload(2, "m"))
    loop.take(generate(2))
    while loop.busy:
        loop.tick()
    assert [m.error for m in sent if isinstance(m, Loaded)] == [None, "no such model here"]
    assert [m.id for m in sent if isinstance(m, Result)] == [1]
    assert [m.code for m in sent if isinstance(m, Error)] == ["unknown_model"]
