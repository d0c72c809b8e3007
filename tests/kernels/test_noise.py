"""Noise against its published vectors, an exact integer twin, and the statistics of a normal."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unified_latents.kernels import noise

_MASK = 0xFFFFFFFF
_LARGEST_SEED = 2**53 - 1

# Random123's kat_vectors, "philox4x32 10": counter, key, words.
_ALL_ONES = (_MASK,) * 4
_KNOWN_ANSWERS = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": (_ALL_ONES, _ALL_ONES[:2], (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def integers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def philox_exact(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox 4x32-10 in Python's unbounded integers, written from the paper's Section 3.3."""
    c, k = list(counter), list(key)
    for _ in range(10):
        product = (0xD2511F53 * c[0], 0xCD9E8D57 * c[2])
        c = [
            (product[1] >> 32) ^ c[1] ^ k[0],
            product[1] & _MASK,
            (product[0] >> 32) ^ c[3] ^ k[1],
            product[0] & _MASK,
        ]
        k = [(k[0] + 0x9E3779B9) & _MASK, (k[1] + 0xBB67AE85) & _MASK]
    return tuple(c)


def words_exact(seed: int, sample: int, step: int, stage: int, size: int) -> np.ndarray:
    """The `size` words of one row, element by element, from the documented layout."""
    key = (seed & _MASK, seed >> 32)
    return np.array(
        [philox_exact((i // 4, step, sample, stage), key)[i % 4] for i in range(size)],
        dtype=np.uint64,
    )


def draw(seed: int, sample: int, step: int, stage: int, size: int) -> Tensor:
    return noise.normal(integers(seed), integers(sample), integers(step), stage, size)[0]


@pytest.mark.parametrize("name", _KNOWN_ANSWERS)
def test_philox_gives_the_published_words(name: str) -> None:
    counter, key, words = _KNOWN_ANSWERS[name]
    assert noise.philox(integers(*counter), integers(*key)).tolist() == list(words)


def test_philox_equals_exact_integers_on_random_counters() -> None:
    generator = torch.Generator().manual_seed(0)
    counter = torch.randint(0, 2**32, (64, 4), generator=generator)
    key = torch.randint(0, 2**32, (64, 2), generator=generator)
    words = noise.philox(counter, key)
    for c, k, w in zip(counter.tolist(), key.tolist(), words.tolist(), strict=True):
        assert tuple(w) == philox_exact(tuple(c), tuple(k))


@pytest.mark.parametrize(
    ("seed", "sample", "step", "stage"),
    [
        (0, 0, 0, 0),
        (1, 2, 3, 1),
        (2**32, 0, 0, 0),
        (2**32 + 7, 5, 250, 3),
        (_LARGEST_SEED, 2**31, 1000, 2),
        (_LARGEST_SEED, 2**32 - 1, 2**32 - 1, 2),
    ],
)
def test_layout_of_key_counter_and_lane(seed: int, sample: int, step: int, stage: int) -> None:
    """The key is (seed mod 2^32, seed div 2^32), the counter (element//4, step, sample, stage)."""
    got = noise.uniform(integers(seed), integers(sample), integers(step), stage, 11)[0]
    words = words_exact(seed, sample, step, stage, 11)
    want = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    np.testing.assert_array_equal(got.numpy(), want)


def test_no_two_key_fields_are_interchangeable() -> None:
    """Swapping the values of any two of seed, sample, step, stage gives another row."""
    orders = itertools.permutations((0, 1, 2, 3))
    rows = {
        tuple(draw(seed, sample, step, stage, 4).tolist()) for seed, sample, step, stage in orders
    }
    assert len(rows) == 24


def test_high_word_of_the_seed_counts() -> None:
    assert not torch.equal(draw(5, 0, 0, 0, 8), draw(5 + 2**32, 0, 0, 0, 8))
    assert not torch.equal(draw(_LARGEST_SEED, 0, 0, 0, 8), draw(_LARGEST_SEED - 1, 0, 0, 0, 8))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 1024, 1027])
def test_a_shorter_draw_is_the_start_of_a_longer_one(size: int) -> None:
    row = draw(3, 1, 4, 1, size)
    assert row.shape == (size,)
    assert row.dtype == torch.float32
    assert torch.equal(row, draw(3, 1, 4, 1, 1031)[:size])


def test_a_row_does_not_depend_on_its_batch() -> None:
    seeds, samples = integers(9, 9, 7, _LARGEST_SEED), integers(0, 1, 0, 3)
    steps = integers(0, 5, 5, 2)
    batch = noise.normal(seeds, samples, steps, 1, 33)
    for i in range(4):
        alone = noise.normal(seeds[i : i + 1], samples[i : i + 1], steps[i : i + 1], 1, 33)
        assert torch.equal(batch[i], alone[0])
    order = [2, 0, 3, 1]
    permuted = noise.normal(seeds[order], samples[order], steps[order], 1, 33)
    assert torch.equal(permuted, batch[order])


def test_a_block_of_steps_broadcasts_over_samples() -> None:
    """One call for [samples, steps] gives what one call for each gives."""
    block = noise.normal(
        integers(11)[:, None], integers(0, 1, 2)[:, None], integers(0, 1, 2, 3)[None], 0, 6
    )
    assert block.shape == (3, 4, 6)
    for sample in range(3):
        for step in range(4):
            assert torch.equal(block[sample, step], draw(11, sample, step, 0, 6))


def test_uniforms_are_in_the_half_open_interval() -> None:
    u = noise.uniform(torch.arange(2000), integers(0), integers(0), 0, 512)
    assert u.min() > 0
    assert u.max() <= 1


@pytest.mark.parametrize(("word", "radius"), [(0, math.sqrt(66 * math.log(2))), (_MASK, 0.0)])
def test_extreme_words_give_finite_normals(
    word: int, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """u = 2^-33 and u = 1: no seed of ours is known to reach them, so the words are planted."""
    monkeypatch.setattr(noise, "philox", lambda counter, key: torch.full_like(counter, word))
    row = draw(0, 0, 0, 0, 8)
    assert row.isfinite().all()
    torch.testing.assert_close(row[:2].norm(), torch.tensor(radius))


def _pairs_fp64(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Box-Muller in fp64 from exact words: the normals and each one's radius."""
    u = (words.astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2 * np.log(u[0::2]))
    angle = 2 * np.pi * u[1::2]
    normals = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1).reshape(-1)
    return normals, np.repeat(radius, 2)


def test_normals_against_fp64_box_muller() -> None:
    """Two roundings of u to 2^-25 (near 1) and one of the angle bound the error.

    dr = du / (u r) ≤ 2^-24 / r and at most √(2·2^-24) where r itself is smaller than that;
    the angle is off by at most two half-ulps below 8 and the rounding of u, times r.
    """
    size = 20_000
    counter = torch.zeros(size // 4, 4, dtype=torch.int64)
    counter[:, 0], counter[:, 1], counter[:, 2], counter[:, 3] = torch.arange(size // 4), 2, 1, 3
    words = noise.philox(counter, integers(42, 0).expand(size // 4, 2)).numpy().reshape(-1)
    want, radius = _pairs_fp64(words)
    got = draw(42, 1, 2, 3, size).numpy().astype(np.float64)
    du = 2.0**-24
    from_radius = np.minimum(du / np.maximum(radius, 1e-12), math.sqrt(2 * du)) + radius * du * 2
    from_angle = radius * (2 * np.pi * du + 2 * 2.0**-22)
    assert np.all(np.abs(got - want) <= from_radius + from_angle)
    assert np.abs(got - want).max() < 2e-5


def test_normals_follow_from_the_fp32_uniforms_to_1e_6() -> None:
    """The documented tolerance across libraries: the fp32 order of operations is the definition."""
    one = integers(1)
    u = noise.uniform(one, one, one, 1, 40_000)[0].numpy()
    radius = np.sqrt(-2 * np.log(u[0::2].astype(np.float64)))
    angle = (np.float32(2 * np.pi) * u[1::2]).astype(np.float64)
    want = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1).reshape(-1)
    np.testing.assert_allclose(draw(1, 1, 1, 1, 40_000).numpy(), want, rtol=3e-7, atol=1e-6)


@pytest.fixture(scope="module")
def sheet() -> Tensor:
    """[stages 4, steps 4, samples 32, elements 1024]: half a million normals, fp64."""
    samples, steps = torch.arange(32)[None, :], torch.arange(4)[:, None]
    rows = [noise.normal(integers(2026)[None], samples, steps, s, 1024) for s in range(4)]
    return torch.stack(rows).double()


def test_moments(sheet: Tensor) -> None:
    """Mean 0, variance 1, skewness 0, kurtosis 3, each within 4.5 of its own standard error."""
    n = sheet.numel()
    for power, value, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        error = abs(sheet.pow(power).mean().item() - value)
        assert error < 4.5 * math.sqrt(variance / n), f"moment {power}"


def _kolmogorov(values: Tensor) -> float:
    """√n sup |F_n − Φ|: above 2.23 with probability 1e-4 if the values are standard normal."""
    ordered = values.flatten().sort().values
    n = len(ordered)
    rank = torch.arange(n, dtype=torch.float64) / n
    cdf = torch.special.ndtr(ordered)
    return math.sqrt(n) * torch.maximum((cdf - rank).max(), (rank + 1 / n - cdf).max()).item()


def test_distribution_and_tails(sheet: Tensor) -> None:
    assert _kolmogorov(sheet) < 2.23
    for level in (2.0, 3.0, 4.0):
        expected = math.erfc(level / math.sqrt(2)) * sheet.numel()
        found = (sheet.abs() > level).sum().item()
        assert abs(found - expected) < 4.5 * math.sqrt(expected)


@pytest.mark.parametrize("lane", range(4))
def test_each_lane_is_normal(sheet: Tensor, lane: int) -> None:
    assert _kolmogorov(sheet[..., lane::4]) < 2.23


def _correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors of zero correlation."""
    return abs((a * b).mean().item()) * math.sqrt(a.numel())


def test_neighbours_are_uncorrelated(sheet: Tensor) -> None:
    """Between stages, steps, samples, elements, and the two halves of a Box-Muller pair."""
    for axis in range(4):
        for lag in (1, 2):
            length = sheet.shape[axis] - lag
            ahead, behind = sheet.narrow(axis, lag, length), sheet.narrow(axis, 0, length)
            assert _correlation(ahead, behind) < 4.5, f"axis {axis}, lag {lag}"
    assert _correlation(sheet[..., 0::2], sheet[..., 1::2]) < 4.5


def test_squares_of_a_pair_are_uncorrelated(sheet: Tensor) -> None:
    """A pair shares its radius; cos² and sin² must undo that exactly."""
    first, second = (sheet[..., lane::2].square() - 1 for lane in (0, 1))
    assert _correlation(first / math.sqrt(2), second / math.sqrt(2)) < 4.5


def test_successive_seeds_are_uncorrelated() -> None:
    rows = noise.normal(torch.arange(256), integers(0), integers(0), 0, 1024).double()
    assert _correlation(rows[1:], rows[:-1]) < 4.5
    assert _correlation(rows[:, 1:], rows[:, :-1]) < 4.5
