"""Everything random about step i is a function of (seed, i): its images, its noise, its dropout.

So a run that stops and goes on draws what an uninterrupted one would have drawn, and a snapshot
needs no generator state. Several ranks draw the whole batch and take their rows, so that two
ranks equal one rank with the doubled batch.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def mix(*words: int | str) -> int:
    """A 63-bit seed from any words; nearby words give unrelated seeds."""
    text = "/".join(str(word) for word in words)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*words: int | str) -> torch.Generator:
    """A fresh generator on the CPU, seeded by `mix(*words)`."""
    return torch.Generator().manual_seed(mix(*words))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> list[int]:
    order: list[int] = torch.randperm(size, generator=generator(seed, "epoch", epoch)).tolist()
    return order


def indices(seed: int, step: int, batch: int, size: int) -> list[int]:
    """The images of one step: `batch` places of an endless stream of shuffled epochs.

    A batch may cross into the next epoch, and may be larger than the `size` of the set.
    """
    places = range(step * batch, (step + 1) * batch)
    return [_permutation(seed, place // size, size)[place % size] for place in places]
