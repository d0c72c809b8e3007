from __future__ import annotations

from collections import Counter

import torch

from unified_latents.training.order import generator, indices, mix


def test_seeds_depend_on_every_word_and_its_place() -> None:
    words = [(0, 1), (1, 0), (0, 0), (0, "draws", 1), (0, "epoch", 1), (1, "draws", 1), (11,)]
    seeds = {mix(*each) for each in words}
    assert len(seeds) == len(words)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    assert mix(0, "draws", 1) == 8542520329897979764


def test_generators_of_equal_words_agree() -> None:
    draws = [torch.rand(3, generator=generator(3, "draws", step)) for step in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_an_epoch_shows_each_image_once() -> None:
    seen = [i for step in range(5) for i in indices(1, step, 4, 20)]
    assert sorted(seen) == list(range(20))
    assert seen != list(range(20))
    assert [i for step in range(5, 10) for i in indices(1, step, 4, 20)] != seen


def test_batches_cross_epochs_and_may_exceed_the_set() -> None:
    counts = Counter(i for step in range(3) for i in indices(1, step, 20, 12))
    assert sum(counts.values()) == 60
    assert set(counts.values()) == {5}


def test_the_order_does_not_depend_on_where_it_starts() -> None:
    whole = [i for step in range(6) for i in indices(9, step, 5, 7)]
    assert indices(9, 3, 5, 7) == whole[15:20]
    assert indices(9, 0, 30, 7) == whole
