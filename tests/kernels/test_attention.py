"""Attention against its definition in fp64 loops, and what rotary positions promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unified_latents.kernels.attention import Context, attention, rotary_angles, rotate


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def turned(x: list[float], angles: list[float]) -> list[float]:
    """R(p) x of one head at one position, as complex numbers."""
    half = len(x) // 2
    pairs = [
        complex(x[i], x[i + half]) * complex(math.cos(angles[i]), math.sin(angles[i]))
        for i in range(half)
    ]
    return [pair.real for pair in pairs] + [pair.imag for pair in pairs]


def normed(x: Tensor, scale: Tensor) -> list[float]:
    result: list[float] = (x / (x.square().mean() + 1e-6).sqrt() * scale).tolist()
    return result


def naive(
    q: Tensor, k: Tensor, v: Tensor, q_scale: Tensor, k_scale: Tensor, angles: Tensor
) -> Tensor:
    """One head of one sample, [l, d], position by position."""
    turns = angles.tolist()
    queries = [turned(normed(q[i], q_scale), turns[i]) for i in range(len(q))]
    keys = [turned(normed(k[i], k_scale), turns[i]) for i in range(len(k))]
    rows = []
    for query in queries:
        scores = [
            sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(len(query))
            for key in keys
        ]
        weights = [math.exp(score) for score in scores]
        rows.append(sum((w / sum(weights)) * v[j] for j, w in enumerate(weights)))
    return torch.stack([torch.as_tensor(row) for row in rows])


@pytest.mark.parametrize("grid", [(5,), (2, 3), (2, 1, 3)])
def test_attention_is_its_definition(grid: tuple[int, ...]) -> None:
    length = math.prod(grid)
    q, k, v = (draw(2, 3, length, 12, seed=i) for i in range(3))
    q_scale, k_scale = draw(12, seed=8), draw(12, seed=9)
    angles = rotary_angles(grid, 12).double()
    got = attention(q, k, v, q_scale, k_scale, angles)
    for n in range(2):
        for h in range(3):
            want = naive(q[n, h], k[n, h], v[n, h], q_scale, k_scale, angles)
            torch.testing.assert_close(got[n, h], want)


def test_gradients_of_every_input() -> None:
    angles = rotary_angles((2, 2), 4).double()
    inputs = [draw(1, 2, 4, 4, seed=i).requires_grad_() for i in range(3)]
    inputs += [draw(4, seed=i).requires_grad_() for i in (4, 5)]

    def run(*inputs: Tensor) -> Tensor:
        q, k, v, q_scale, k_scale = inputs
        return attention(q, k, v, q_scale, k_scale, angles)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize(("grid", "axis"), [((7,), 0), ((5, 6), 0), ((5, 6), 1), ((3, 4, 5), 2)])
def test_scores_depend_on_differences_of_positions_alone(grid: tuple[int, ...], axis: int) -> None:
    """⟨R(p) q, R(p') k⟩ is unchanged when both move by one along any axis."""
    angles = rotary_angles(grid, 24).double()
    q, k = (draw(24, seed=i).expand(1, 1, math.prod(grid), 24) for i in range(2))
    scores = rotate(q, angles)[0, 0] @ rotate(k, angles)[0, 0].T
    scores = scores.reshape(*grid, *grid)
    length = grid[axis] - 1
    here = scores.narrow(axis, 0, length).narrow(len(grid) + axis, 0, length)
    there = scores.narrow(axis, 1, length).narrow(len(grid) + axis, 1, length)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-5)  # the angles are fp32


@pytest.mark.parametrize("grid", [(4, 4), (2, 3, 3)])
def test_every_axis_counts(grid: tuple[int, ...]) -> None:
    """A step along each axis changes the score, and no two positions share their angles."""
    angles = rotary_angles(grid, 24).double()
    assert len({tuple(row) for row in angles.tolist()}) == math.prod(grid)
    x = torch.ones(1, 1, math.prod(grid), 24, dtype=torch.float64)
    turned_rows = rotate(x, angles)[0, 0].reshape(*grid, 24)
    origin = turned_rows[(0,) * len(grid)]
    for axis in range(len(grid)):
        step = turned_rows[tuple(int(i == axis) for i in range(len(grid)))]
        assert (origin @ step).item() < 24 - 0.1


def test_rotation_keeps_lengths_and_leaves_the_origin() -> None:
    angles = rotary_angles((4, 5), 16).double()
    x = draw(2, 3, 20, 16)
    torch.testing.assert_close(rotate(x, angles).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotate(x, angles)[:, :, 0], x[:, :, 0])


def test_angles_are_row_major_and_start_at_frequency_one() -> None:
    angles = rotary_angles((2, 3), 8)
    assert angles.shape == (6, 4)
    assert angles[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert angles[:, 2].tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(angles[:, 1], angles[:, 0] / 10)


def test_pairs_that_do_not_divide_stay_unrotated() -> None:
    """Three axes share the four pairs of a head of eight: one each, one left over."""
    angles = rotary_angles((2, 2, 2), 8)
    assert angles.shape == (8, 4)
    assert (angles[:, 3] == 0).all()
    assert (angles[-1, :3] == 1).all()


def test_permuting_positions_with_their_angles_permutes_the_result() -> None:
    angles = rotary_angles((2, 3), 8).double()
    q, k, v = (draw(1, 2, 6, 8, seed=i) for i in range(3))
    one, order = torch.ones(8, dtype=torch.float64), torch.tensor([3, 1, 5, 0, 2, 4])
    moved = [x[:, :, order] for x in (q, k, v)]
    got = attention(moved[0], moved[1], moved[2], one, one, angles[order])
    torch.testing.assert_close(got, attention(q, k, v, one, one, angles)[:, :, order])


def test_normed_queries_do_not_feel_their_length() -> None:
    angles = rotary_angles((4,), 8).double()
    q, k, v = (draw(1, 1, 4, 8, seed=i) for i in range(3))
    one = torch.ones(8, dtype=torch.float64)
    once, thrice = attention(q, k, v, one, one, angles), attention(3 * q, k, v, one, one, angles)
    torch.testing.assert_close(once, thrice, rtol=1e-5, atol=1e-5)


def test_a_context_is_keys_at_the_origin() -> None:
    """Tokens join the keys unrotated; a masked token might as well not be there."""
    angles = rotary_angles((2, 3), 8).double()
    q, k, v = (draw(2, 2, 6, 8, seed=i) for i in range(3))
    extra_k, extra_v = (draw(2, 2, 4, 8, seed=i) for i in (3, 4))
    a, b = draw(8, seed=5), draw(8, seed=6)
    longer = [torch.cat(pair, 2) for pair in ((q, extra_k), (k, extra_k), (v, extra_v))]
    unturned = torch.cat((angles, torch.zeros(4, 4, dtype=torch.float64)))
    want = attention(longer[0], longer[1], longer[2], a, b, unturned)[:, :, :6]
    torch.testing.assert_close(attention(q, k, v, a, b, angles, Context(extra_k, extra_v)), want)
    mask = torch.tensor([True, False, True, False]).expand(2, 4)
    masked = attention(q, k, v, a, b, angles, Context(extra_k, extra_v, mask))
    fewer = Context(extra_k[:, :, ::2], extra_v[:, :, ::2])
    torch.testing.assert_close(masked, attention(q, k, v, a, b, angles, fewer))
