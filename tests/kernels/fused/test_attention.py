"""Fused attention against the fp64 reference: a pairwise cover of odd shapes, every gradient."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from unified_latents.kernels import attention as reference
from unified_latents.kernels.attention import Context, rotary_angles
from unified_latents.kernels.errors import UnsupportedError
from unified_latents.kernels.fused import attention as fused

Compare = Callable[..., dict[str, float]]

_F32, _F16, _BF16 = torch.float32, torch.float16, torch.bfloat16
_NONE, _FREE, _MASKED = "none", "free", "masked"
# Length, head dim, samples, dtype, context, and whether q, k and v lie unlike one another.
_COVER = [
    (1, 32, 1, _F32, _FREE, False),
    (1, 64, 3, _BF16, _MASKED, False),
    (1, 96, 3, _F16, _NONE, False),
    (1, 128, 1, _F16, _FREE, True),
    (1, 128, 3, _F32, _MASKED, True),
    (63, 32, 3, _BF16, _MASKED, False),
    (63, 64, 1, _F16, _NONE, False),
    (63, 64, 3, _F32, _FREE, True),
    (63, 96, 3, _F32, _MASKED, False),
    (63, 128, 1, _BF16, _NONE, False),
    (257, 32, 3, _F16, _NONE, True),
    (257, 64, 1, _F32, _NONE, True),
    (257, 96, 1, _BF16, _FREE, True),
    (257, 128, 1, _F16, _MASKED, False),
]
# The interpreter takes half a minute for one of these.
_LONG = [
    (1000, 32, 1, _F32, _FREE, True),
    (1000, 64, 1, _BF16, _MASKED, False),
]
_GRIDS = {1: (1, 1), 63: (3, 3, 7), 257: (257,), 1000: (10, 10, 10)}
_TOKENS = {1: 5, 63: 77, 257: 1, 1000: 33}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def projection(n: int, heads: int, length: int, head: int, parts: int, seed: int) -> list[Tensor]:
    """q, k, v as views into one projection's output, [n, h, l, d] each."""
    wide = draw(n, length, parts * heads * head, seed=seed)
    return list(wide.unflatten(2, (parts, heads, head)).permute(2, 0, 3, 1, 4))


def inputs(
    n: int, heads: int, length: int, head: int, dtype: torch.dtype, context: int | None
) -> list[Tensor]:
    """q, k, v, both scales and, where there is one, the context's k and v."""
    parts = projection(n, heads, length, head, 3, 0)
    parts += [1 + 0.3 * draw(head, seed=i) for i in (1, 2)]
    if context is not None:
        parts += projection(n, heads, context, head, 2, 3)
    return [each.to(dtype) for each in parts]


def masks(n: int, tokens: int) -> Tensor:
    """Sample 0 sees about half of the tokens, sample 1 none."""
    mask = draw(n, tokens, seed=5) > 0
    mask[1:2] = False
    return mask


def call(
    operator: Callable[..., Tensor], angles: Tensor, mask: Tensor | None
) -> Callable[..., Tensor]:
    """The operator as a function of what it is differentiable in."""

    def run(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, *context: Tensor) -> Tensor:
        extra = Context(context[0], context[1], mask) if context else None
        return operator(q, k, v, a, b, angles.to(q.dtype), extra)

    return run


@pytest.mark.parametrize(("length", "head", "n", "dtype", "context", "unlike"), _COVER + _LONG)
def test_attention_equals_fp64(
    compare: Compare,
    length: int,
    head: int,
    n: int,
    dtype: torch.dtype,
    context: str,
    unlike: bool,
) -> None:
    """The value, and the gradients of q, k, v, both scales and the context."""
    angles = rotary_angles(_GRIDS[length], head)
    tokens = None if context == _NONE else _TOKENS[length]
    mask = masks(n, tokens) if tokens and context == _MASKED else None
    slow = call(reference.attention, angles.double(), mask)

    def fast(*parts: Tensor) -> Tensor:
        q, k, v, a, b, *rest = parts
        extra = Context(rest[0], rest[1], mask) if rest else None
        return fused.attention(q, k, v, a, b, angles, extra)

    parts = inputs(n, 2 if length < 64 else 1, length, head, dtype, tokens)
    if unlike:
        q, _, v = parts[:3]
        parts[0] = q.contiguous()
        parts[2] = v.transpose(2, 3).contiguous().transpose(2, 3)
    assert compare(fast, slow, parts, dtype) == {}


def test_the_cover_is_pairwise() -> None:
    """Every two values of two different columns meet in some row."""
    columns = list(zip(*_COVER, strict=True))
    assert {row[0] for row in _COVER + _LONG} == {1, 63, 257, 1000}
    assert set(columns[1]) == set(fused.HEAD_DIMS)
    assert [len(set(each)) for each in columns] == [3, 4, 2, 3, 3, 2]
    for first, second in combinations(columns, 2):
        assert set(zip(first, second, strict=True)) == set(product(first, second))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    angles = rotary_angles((8, 9), 32)
    q, k, v, a, b = inputs(3, 2, 72, 32, _F32, None)
    batch = fused.attention(q, k, v, a, b, angles)
    alone = fused.attention(q[1:2], k[1:2], v[1:2], a, b, angles)
    assert torch.equal(batch[1:2], alone)


def test_the_compiler_sees_through() -> None:
    """fullgraph=True and torch.export pass, and give the eager bytes and gradients."""
    angles = rotary_angles((5,), 32)
    leaves = [each.detach().requires_grad_() for each in inputs(2, 2, 5, 32, _F32, 3)]
    run = call(fused.attention, angles, masks(2, 3))
    compiled: Callable[..., Tensor] = torch.compile(run, fullgraph=True, backend="aot_eager")
    eager, got = run(*leaves), compiled(*leaves)
    assert torch.equal(eager, got)
    pairs = zip(
        torch.autograd.grad(eager.sum(), leaves),
        torch.autograd.grad(got.sum(), leaves),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_operator_keeps_torch_library_s_contract() -> None:
    parts = [each.detach().requires_grad_() for each in inputs(1, 1, 3, 32, _F32, 2)]
    arguments = (*parts[:5], rotary_angles((3,), 32), *parts[5:], masks(1, 2))
    torch.library.opcheck(torch.ops.unified_latents.attention.default, arguments)


def test_what_is_not_supported_is_named() -> None:
    angles = rotary_angles((5,), 48)
    q, k, v, a, b = inputs(1, 1, 5, 48, _F32, None)
    with pytest.raises(UnsupportedError, match=r"head dim 48 .* use 32, 64, 96, 128"):
        fused.attention(q, k, v, a, b, angles)
    q, k, v, a, b, ck, cv = inputs(1, 1, 5, 32, _F32, 4)
    angles = rotary_angles((5,), 32)
    with pytest.raises(UnsupportedError, match=r"dtype torch\.float64"):
        fused.attention(q.double(), k.double(), v.double(), a, b, angles)
    with pytest.raises(UnsupportedError, match=r"dtype torch\.bfloat16"):
        fused.attention(q, k.bfloat16(), v, a, b, angles)
    with pytest.raises(UnsupportedError, match="mask"):
        fused.attention(q, k, v, a, b, angles, Context(ck, cv, torch.ones(1, 3).bool()))
    with pytest.raises(UnsupportedError, match=r"mask dtype torch\.float32 .*use torch\.bool"):
        fused.attention(q, k, v, a, b, angles, Context(ck, cv, torch.ones(1, 4)))
    with pytest.raises(UnsupportedError, match=r"context \(1, 1, 16\) .*use \(1, 1, 32\)"):
        fused.attention(q, k, v, a, b, angles, Context(ck[..., :16], cv[..., :16]))


def test_what_would_be_read_past_its_end_is_refused() -> None:
    angles = rotary_angles((5,), 32)
    q, k, v, a, b = inputs(1, 1, 5, 32, _F32, None)
    with pytest.raises(UnsupportedError, match=r"shape of a scale \(16,\) .*use \(32,\)"):
        fused.attention(q, k, v, a[:16], b, angles)
    with pytest.raises(UnsupportedError, match=r"angles \(4, 16\) .*use \(5, 16\)"):
        fused.attention(q, k, v, a, b, angles[:4])
    with pytest.raises(UnsupportedError, match=r"number of axes 3 .*use 4"):
        fused.attention(q[0], k[0], v[0], a, b, angles)
    many = torch.empty(1, 1, 1, 32).expand(300, 300, 1, 32)
    with pytest.raises(UnsupportedError, match=r"samples × heads 90000 .*at most 65535"):
        fused.attention(many, many, many, a, b, angles[:1])


def test_another_device_is_named() -> None:
    """The checks alone: torch gives operators with tensors of `meta` to their fakes."""
    angles, mask = rotary_angles((5,), 32), torch.ones(1, 4, device="meta").bool()
    q, k, v, a, b, ck, cv = inputs(1, 1, 5, 32, _F32, 4)
    with pytest.raises(UnsupportedError, match=r"device meta .*use cpu"):
        fused._check_context(q, ck, cv, mask)
    with pytest.raises(UnsupportedError, match=r"device of angles meta .*use cpu"):
        fused._check_own(q, k, v, (a, b), angles.to("meta"))
    with pytest.raises(UnsupportedError, match=r"device meta .*use cpu, cuda"):
        fused._check_own(q, k.to("meta"), v, (a, b), angles)


def test_scales_with_gaps(compare: Compare) -> None:
    angles = rotary_angles((5,), 32)
    parts = inputs(1, 2, 5, 32, _F32, None)
    parts[3:] = (draw(32, 2, seed=i)[:, 1] for i in (7, 8))
    pair = (call(each, angles, None) for each in (fused.attention, reference.attention))
    assert compare(*pair, parts, _F32) == {}
