"""Fused noise against the reference: words to the bit, normals to 1e-6, steps to fp64."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
import triton
from torch import Tensor

from unified_latents.kernels import noise
from unified_latents.kernels.errors import UnsupportedError
from unified_latents.kernels.fused import noise as fused
from unified_latents.kernels.noise import Guidance, Keys, Step, Stepped
from unified_latents.models import sampling
from unified_latents.models.sampling import Coefficients

_MASK = 0xFFFFFFFF
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def keys(rows: int, stage: int = 1) -> Keys:
    """Rows with large seeds, samples above 2³¹ and different steps."""
    seed = torch.tensor([2**53 - 1, 7, 2**32 + 5, 0])[:rows]
    sample = torch.tensor([2**32 - 1, 3, 2**31, 0])[:rows]
    return Keys(seed, sample, torch.tensor([1000, 0, 2**31 + 9, 0])[:rows], stage)


def run(
    operator: Callable[..., Stepped], inputs: Iterable[Tensor], row: Step, each: Keys
) -> Stepped:
    """One clipped step of x_t, v_c, v_u and the previous x̂."""
    x_t, conditional, unconditional, previous = inputs
    guidance = Guidance(unconditional, 2 + row.log_snr.float().tanh())
    return operator(x_t, conditional, previous, row, each, guidance, clip=True)


def words(each: Keys, size: int, block: int) -> Tensor:
    out = torch.full((len(each.seed), size), -1, dtype=torch.int64)
    packed = torch.stack((each.seed, each.sample, each.step), -1)
    grid = (triton.cdiv(size, 4 * block), len(packed))
    fused.words_kernel[grid](out, packed, each.stage, size, BLOCK=block)
    return out


@pytest.mark.parametrize(("size", "block"), [(1, 16), (63, 16), (1027, 64), (1027, 256)])
def test_words_equal_the_reference_for_any_block(size: int, block: int) -> None:
    each = keys(4)
    got = words(each, size, block)
    blocks = torch.arange(-(-size // 4))
    for row in range(4):
        counter = torch.zeros(len(blocks), 4, dtype=torch.int64)
        counter[:, 0], counter[:, 1] = blocks, each.step[row]
        counter[:, 2], counter[:, 3] = each.sample[row], each.stage
        seed = each.seed[row]
        key = torch.stack((seed & _MASK, seed >> 32)).expand(len(blocks), 2)
        want = noise.philox(counter, key).flatten()[:size]
        assert torch.equal(got[row], want)


def test_words_are_the_published_ones() -> None:
    """Random123's vector of zeros is block 0 of the row of zeros."""
    zero = torch.zeros(1, dtype=torch.int64)
    want = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words(Keys(zero, zero, zero, 0), 4, 16)[0].tolist() == want


@pytest.mark.parametrize("size", [1, 63, 5000])
def test_normals_equal_the_reference(size: int) -> None:
    each = keys(3)
    want = noise.normal(each.seed, each.sample, each.step, each.stage, size)
    torch.testing.assert_close(fused.normal(each, size), want, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", _TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 7), (2, 3, 16, 17)])
def test_diffuse_equals_fp64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = draw(*shape).to(dtype).requires_grad_()
    level, each = draw(len(x), seed=1) * 3, keys(len(x))
    got = fused.diffuse(x, level, each)
    exact = x.detach().double().requires_grad_()
    want = noise.diffuse(exact, level.double(), each)
    grad = draw(*shape, seed=2).to(dtype)
    (dx,), (dx_want,) = torch.autograd.grad(got, x, grad), torch.autograd.grad(want, exact, grad)
    assert got.dtype == dx.dtype == dtype
    assert error(got, want) <= _TOLERANCE[dtype]
    assert error(dx, dx_want) <= _TOLERANCE[dtype]


def step(sampler: sampling.SamplerName, rows: int) -> Step:
    """Each row at its own λ_t → λ_s; the last row's λ_s is +∞, a decoder's end."""
    lam_t, lam_s = torch.linspace(-6, 3, rows), torch.linspace(-5, 5, rows)
    lam_s[-1] = torch.inf
    before = torch.full((rows,), -torch.inf) if rows == 1 else lam_t - 1.5
    columns: Coefficients = sampling.SAMPLERS[sampler](lam_t.double(), lam_s.double(), before)
    return Step(lam_t, torch.stack(columns, -1).float())


def guides(which: str, v_u: Tensor) -> Guidance | None:
    """No guidance, every row's, or every other row's, last one first."""
    if which == "none":
        return None
    if which == "all":
        return Guidance(v_u, torch.linspace(0.5, 4, len(v_u)))
    rows = torch.arange(0, len(v_u), 2).flip(0)
    return Guidance(v_u[rows], torch.linspace(0.5, 4, len(rows)), rows)


def guided_v(v_c: Tensor, guidance: Guidance | None) -> Tensor:
    """v_u + w (v_c − v_u), row by row."""
    result = v_c.clone()
    if guidance is None:
        return result
    rows = torch.arange(len(v_c)) if guidance.rows is None else guidance.rows
    for row, v_u, w in zip(rows, guidance.unconditional.to(v_c), guidance.scale, strict=True):
        result[row] = v_u + w.double() * (v_c[row] - v_u)
    return result


@pytest.mark.parametrize("guidance", ["none", "all", "some"])
@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
@pytest.mark.parametrize(
    ("shape", "clip"), [((1, 1), True), ((3, 5, 41), False), ((4, 3, 7), True)]
)
def test_guided_step_equals_the_sampler_loop(
    shape: tuple[int, ...], clip: bool, sampler: sampling.SamplerName, guidance: str
) -> None:
    """The fused step and its reference against guidance by hand and `advance` in fp64."""
    x, v_c, v_u, before = (draw(*shape, seed=i) for i in range(4))
    row, each, guide = step(sampler, len(x)), keys(len(x)), guides(guidance, v_u)
    got = fused.guided_step(x, v_c, before, row, each, guide, clip=clip)
    exact = Step(*(part.double() for part in row))
    state = sampling.State(x.double(), before.double())
    v_hat, eps = guided_v(v_c.double(), guide), each.normal(x).double()
    want = sampling.advance(state, v_hat, exact.log_snr, exact.coefficients, eps, clip=clip)
    slow = noise.guided_step(x, v_c, before, row, each, guide, clip=clip)
    for fast, plain, truth in zip(got, slow, want, strict=True):
        assert error(fast, truth) <= 1e-5
        assert error(plain, truth) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_guided_step_in_half_precision(dtype: torch.dtype) -> None:
    inputs = [draw(3, 100, seed=i).to(dtype) for i in range(4)]
    row, each = step("ancestral", 3), keys(3)
    got = run(fused.guided_step, inputs, row, each)
    exact = Step(*(part.double() for part in row))
    want = run(noise.guided_step, (x.double() for x in inputs), exact, each)
    assert error(got.x_s, want.x_s) <= 2e-2
    assert error(got.x_hat, want.x_hat) <= 2e-2


def test_a_row_does_not_depend_on_its_batch() -> None:
    inputs = [draw(4, 1030, seed=i) for i in range(4)]
    row, each = step("ancestral", 4), keys(4)
    batch = run(fused.guided_step, inputs, row, each)
    for i in range(4):
        one = slice(i, i + 1)
        own = Keys(each.seed[one], each.sample[one], each.step[one], each.stage)
        step_alone = Step(*(part[one] for part in row))
        alone = run(fused.guided_step, (x[one] for x in inputs), step_alone, own)
        assert torch.equal(batch.x_s[one], alone.x_s)


def test_not_a_number_stays_one_through_the_clip() -> None:
    """The guard against faults looks at the result."""
    x = torch.full((1, 8), torch.nan)
    zero = torch.zeros(1, 8)
    got = fused.guided_step(x, zero, zero, step("ddim", 1), keys(1), clip=True)
    assert got.x_s.isnan().all()


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"dtype torch.float64 .*float32.*bfloat16"):
        fused.diffuse(draw(2, 3).double(), draw(2), keys(2))
    x, row = draw(2, 8), step("ddim", 2)
    with pytest.raises(UnsupportedError, match="shape"):
        fused.guided_step(x, x[:, :4], x, row, keys(2), clip=False)
    with pytest.raises(UnsupportedError, match="shape"):
        fused.guided_step(x, x, x, row, keys(2), Guidance(x[:, :4], torch.ones(2)), clip=False)
    with pytest.raises(UnsupportedError, match=r"shape of scale \(1,\) .*use \(2,\)"):
        fused.guided_step(x, x, x, row, keys(2), Guidance(x, torch.ones(1)), clip=False)
    with pytest.raises(UnsupportedError, match=r"dtype torch\.float64"):
        fused.guided_step(x, x.double(), x, row, keys(2), clip=False)
    with pytest.raises(UnsupportedError, match=r"guidance 1 .*use 2"):
        fused.guided_step(x, x, x, row, keys(2), Guidance(x[:1], torch.ones(1)), clip=False)
    with pytest.raises(UnsupportedError, match="coefficients"):
        fused.guided_step(x, x, x, step("ddim", 3), keys(2), clip=False)


def test_a_row_without_its_level_or_its_key_is_refused() -> None:
    """They would be read past their end."""
    x = draw(3, 8)
    with pytest.raises(UnsupportedError, match=r"shape of log_snr \(2,\) .*use \(3,\)"):
        fused.diffuse(x, draw(2), keys(3))
    with pytest.raises(UnsupportedError, match=r"shape of keys \(2,\) .*use \(3,\)"):
        fused.diffuse(x, draw(3), keys(2))
    row = step("ddim", 3)
    with pytest.raises(UnsupportedError, match=r"shape of log_snr \(2,\)"):
        fused.guided_step(x, x, x, row._replace(log_snr=draw(2)), keys(3), clip=False)
    with pytest.raises(UnsupportedError, match=r"shape of keys \(2,\)"):
        fused.guided_step(x, x, x, row, keys(2), clip=False)
    one = torch.tensor(3)
    with pytest.raises(UnsupportedError, match=r"number of axes of keys 0 .*use 1"):
        fused.normal(Keys(one, one, one, 1), 8)
