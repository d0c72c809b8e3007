"""Philox normals, forward noising and the guided sampler step: one read and one write each.

The counter layout is `kernels.noise`'s; `tl.philox` gives its words to the bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unified_latents.kernels.errors import require
from unified_latents.kernels.fused.launch import check, chunks, per_row, same_shape
from unified_latents.kernels.noise import Guidance, Keys, Noise, Step, Stepped

BLOCK = 256
"""Philox blocks a program: four elements each."""


@triton.jit
def _four_words(keys, row, stage, start, BLOCK: tl.constexpr):
    """The words of blocks start … start + BLOCK of a row; keys is [n, 3]: seed, sample, step."""
    block = (start + tl.arange(0, BLOCK)).to(tl.uint32)
    zero = tl.zeros_like(block)
    seed = tl.load(keys + row * 3)
    sample = zero + tl.load(keys + row * 3 + 1).to(tl.uint32)
    step = zero + tl.load(keys + row * 3 + 2).to(tl.uint32)
    return tl.philox(seed, block, step, sample, zero + stage)


@triton.jit
def _lanes(a, b, c, d):
    """a₀ b₀ c₀ d₀ a₁ …: four consecutive elements in one thread, a store of 128 bits."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def _uniform(word):
    return (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10


@triton.jit
def _turn(angle):
    """cos and sin of 0 < angle < 7 to an ulp or two: π/2 taken off in three parts, a polynomial.

    The library's functions also reduce huge angles, for which they keep an array on the stack.
    Source: Moshier's Cephes, sinf and cosf.
    """
    quarters = tl.floor(angle * 0.6366197723675814 + 0.5)
    x = angle - quarters * 1.5703125
    x = x - quarters * 4.837512969970703e-4
    x = x - quarters * 7.549789954891882e-8
    z = x * x
    odd = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x
    even = (2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2
    even = 1.0 - 0.5 * z + even * z * z
    turn = quarters.to(tl.int32)
    swap, half = (turn & 1) != 0, (turn & 2) != 0
    cosine, sine = tl.where(swap, -odd, even), tl.where(swap, even, odd)
    return tl.where(half, -cosine, cosine), tl.where(half, -sine, sine)


@triton.jit
def _normals(keys, row, stage, start, BLOCK: tl.constexpr):
    """Box–Muller in the reference's order of fp32 operations; [4 · BLOCK]."""
    w0, w1, w2, w3 = _four_words(keys, row, stage, start, BLOCK)
    r0 = tl.sqrt_rn(-2.0 * tl.log(_uniform(w0)))
    r1 = tl.sqrt_rn(-2.0 * tl.log(_uniform(w2)))
    c0, s0 = _turn(6.283185307179586 * _uniform(w1))
    c1, s1 = _turn(6.283185307179586 * _uniform(w3))
    return _lanes(r0 * c0, r0 * s0, r1 * c1, r1 * s1)


@triton.jit
def _levels(log_snr, row):
    """α and σ of a row."""
    level = tl.load(log_snr + row).to(tl.float32)
    return tl.sqrt_rn(tl.sigmoid(level)), tl.sqrt_rn(tl.sigmoid(-level))


@triton.jit
def words_kernel(out, keys, stage, size, BLOCK: tl.constexpr):
    """The raw words, int64 [n, size]: what the tests compare to the bit."""
    row, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK
    w0, w1, w2, w3 = _four_words(keys, row, stage, start, BLOCK)
    element = start * 4 + tl.arange(0, 4 * BLOCK)
    words = _lanes(w0, w1, w2, w3).to(tl.int64)
    tl.store(out + row * size + element, words, element < size)


@triton.jit
def normal_kernel(out, keys, stage, size, BLOCK: tl.constexpr):
    """ε, fp32 [n, size]."""
    row, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK
    element = start * 4 + tl.arange(0, 4 * BLOCK)
    eps = _normals(keys, row, stage, start, BLOCK)
    tl.store(out + row * size + element, eps, element < size)


@triton.jit
def diffuse_kernel(out, x, log_snr, keys, stage, size, BLOCK: tl.constexpr):
    """α x + σ ε; ε lives in registers only."""
    row, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK
    element = start * 4 + tl.arange(0, 4 * BLOCK)
    inside = element < size
    alpha, sigma = _levels(log_snr, row)
    value = tl.load(x + row * size + element, inside, 0.0).to(tl.float32)
    eps = _normals(keys, row, stage, start, BLOCK)
    result = alpha * value + sigma * eps
    tl.store(out + row * size + element, result.to(out.dtype.element_ty), inside)


@triton.jit
def _guided(v, unconditional, scale, source, size, element, inside):
    """v_u + w (v − v_u), where `source` is v_u's row; v itself where it is negative."""
    present = source >= 0
    weight = tl.load(scale + source, present, 1.0).to(tl.float32)
    at = unconditional + source * size + element
    v_u = tl.load(at, inside & present, 0.0).to(tl.float32)
    return v_u + weight * (v - v_u)


@triton.jit
def step_kernel(
    x_s, x_hat_out, x_t, conditional, previous, unconditional, scale, source,
    log_snr, coefficients, keys, stage, size,
    GUIDED: tl.constexpr, INDEXED: tl.constexpr, CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Guidance, v → x̂, clip, update and noise: one read of what a row needs, two writes."""
    row, start = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK
    element = start * 4 + tl.arange(0, 4 * BLOCK)
    inside, at = element < size, row * size + element
    alpha, sigma = _levels(log_snr, row)
    x = tl.load(x_t + at, inside, 0.0).to(tl.float32)
    v = tl.load(conditional + at, inside, 0.0).to(tl.float32)
    if GUIDED:
        own = row
        if INDEXED:
            own = tl.load(source + row)
        v = _guided(v, unconditional, scale, own, size, element, inside)
    x_hat = alpha * x - sigma * v
    if CLIP:
        x_hat = tl.clamp(x_hat, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    a, b = tl.load(coefficients + row * 4), tl.load(coefficients + row * 4 + 1)
    c, d = tl.load(coefficients + row * 4 + 2), tl.load(coefficients + row * 4 + 3)
    result = a * x + b * x_hat
    if c != 0.0:
        result += c * tl.load(previous + at, inside, 0.0).to(tl.float32)
    if d != 0.0:
        result += d * _normals(keys, row, stage, start, BLOCK)
    tl.store(x_s + at, result.to(x_s.dtype.element_ty), inside)
    tl.store(x_hat_out + at, x_hat.to(x_s.dtype.element_ty), inside)


def _packed(keys: Keys) -> Tensor:
    rows = torch.broadcast_tensors(keys.seed, keys.sample, keys.step)
    require("number of axes of keys", rows[0].ndim, (1,))
    return torch.stack(rows, -1).to(torch.int64)


def _grid(rows: int, size: int, block: int) -> tuple[int, int]:
    return chunks(size, 4 * block), rows


@torch.library.custom_op("unified_latents::normal", mutates_args=())
def _normal(keys: Tensor, stage: int, size: int) -> Tensor:
    out = torch.empty(len(keys), size, dtype=torch.float32, device=keys.device)
    check(normal_kernel, out)
    normal_kernel[_grid(len(keys), size, BLOCK)](out, keys, stage, size, BLOCK=BLOCK)
    return out


@_normal.register_fake
def _(keys: Tensor, stage: int, size: int) -> Tensor:
    return keys.new_empty((len(keys), size), dtype=torch.float32)


def normal(keys: Keys, size: int) -> Tensor:
    """Standard normals, fp32 [n, size]."""
    return _normal(_packed(keys), keys.stage, size)


@torch.library.custom_op("unified_latents::diffuse", mutates_args=())
def _diffuse(x: Tensor, log_snr: Tensor, keys: Tensor, stage: int) -> Tensor:
    check(diffuse_kernel, x)
    per_row(x, log_snr=log_snr, keys=keys[:, 0])
    x = x.contiguous()
    out, size = torch.empty_like(x), x[0].numel()
    grid = _grid(len(x), size, BLOCK)
    diffuse_kernel[grid](out, x, log_snr.float(), keys, stage, size, BLOCK=BLOCK)
    return out


@_diffuse.register_fake
def _(x: Tensor, log_snr: Tensor, keys: Tensor, stage: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _diffuse_saved(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _diffuse_backward(ctx, grad):
    (log_snr,) = ctx.saved_tensors
    alpha = log_snr.sigmoid().sqrt().reshape(-1, *[1] * (grad.ndim - 1))
    return (alpha * grad).to(grad.dtype), None, None, None


_diffuse.register_autograd(_diffuse_backward, setup_context=_diffuse_saved)


def diffuse(x: Tensor, log_snr: Tensor, keys: Keys) -> Tensor:
    """α x + σ ε in x's dtype; differentiable in x, not in λ."""
    return _diffuse(x, log_snr, _packed(keys), keys.stage)


@torch.library.custom_op("unified_latents::guided_step", mutates_args=())
def _guided_step(
    x_t: Tensor, conditional: Tensor, previous: Tensor,
    unconditional: Tensor | None, scale: Tensor | None, source: Tensor | None,
    log_snr: Tensor, coefficients: Tensor, keys: Tensor, stage: int, clip: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    inputs = [each.contiguous() for each in (x_t, conditional, previous)]
    check(step_kernel, *inputs)
    same_shape(*inputs)
    per_row(x_t, log_snr=log_snr, coefficients=coefficients[:, 0], keys=keys[:, 0])
    x_s, x_hat, size = torch.empty_like(inputs[0]), torch.empty_like(inputs[0]), x_t[0].numel()
    rows = [each.float().contiguous() for each in (log_snr, coefficients)]
    guides = [inputs[1], rows[0], keys]
    if unconditional is not None and scale is not None:
        check(step_kernel, inputs[0], unconditional)
        per_row(unconditional, scale=scale)
        guides = [unconditional.contiguous(), scale.float().contiguous(), keys]
        if source is not None:
            guides[2] = source
    step_kernel[_grid(len(x_t), size, BLOCK)](
        x_s, x_hat, *inputs, *guides, *rows, keys, stage, size,
        GUIDED=unconditional is not None, INDEXED=source is not None, CLIP=clip, BLOCK=BLOCK,
    )  # fmt: skip
    return x_s, x_hat


@_guided_step.register_fake
def _(
    x_t: Tensor, conditional: Tensor, previous: Tensor,
    unconditional: Tensor | None, scale: Tensor | None, source: Tensor | None,
    log_snr: Tensor, coefficients: Tensor, keys: Tensor, stage: int, clip: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out = torch.empty_like(x_t, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out)


def _sources(guidance: Guidance, rows: int) -> Tensor | None:
    """Each row's unconditional prediction, −1 where it has none; None: its own number."""
    if guidance.rows is None:
        require("guidance", len(guidance.unconditional), (rows,))
        return None
    require("guidance", guidance.rows.shape, (guidance.scale.shape,))
    given = guidance.rows
    source = torch.full((rows,), -1, dtype=torch.int64, device=given.device)
    return source.index_copy(0, given, torch.arange(len(given), device=given.device))


def guided_step(
    x_t: Tensor,
    conditional: Tensor,
    previous: Tensor,
    step: Step,
    noise: Noise,
    guidance: Guidance | None = None,
    *,
    clip: bool,
) -> Stepped:
    """`kernels.noise.guided_step`, one launch; not differentiable."""
    require("coefficients", tuple(step.coefficients.shape), ((len(x_t), 4),))
    guides: tuple[Tensor | None, ...] = (None, None, None)
    if guidance is not None:
        require("shape", guidance.unconditional.shape[1:], (x_t.shape[1:],))
        source = _sources(guidance, len(x_t))
        guides = (guidance.unconditional, guidance.scale, source)
    keys = noise.keys
    return Stepped(*_guided_step(
        x_t, conditional, previous, *guides,
        step.log_snr, step.coefficients, _packed(keys), keys.stage, clip,
    ))  # fmt: skip
