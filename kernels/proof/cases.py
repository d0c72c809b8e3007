"""Every default configuration of the fused kernels, as a call on the smallest tensors it needs.

What Triton compiles depends on dtypes, head dim, width, masks and on which numbers are multiples
of sixteen; never on how long a sequence is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from unified_latents.kernels.attention import Context, rotary_angles
from unified_latents.kernels.fused import attention, loss, modulate, noise
from unified_latents.kernels.noise import Guidance, Keys, Step
from unified_latents.kernels.proof.case import Case

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)
WIDTHS = (128, 1152, modulate.MAX_WIDTH)
"""Of the shipped model, one that is no power of two, and the widest."""


def _leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(shape, dtype=dtype).requires_grad_()


def _keys(rows: int) -> Keys:
    number = torch.arange(rows)
    return Keys(number, number, number, 1)


def attend(head: int, dtype: torch.dtype, context: str) -> None:
    """q, k and v as views into one projection; `context` is none, all or masked."""
    n, heads, length, tokens = 1, 8, 64, 80
    wide = _leaf(n, length, 3 * heads * head, dtype=dtype)
    q, k, v = wide.unflatten(2, (3, heads, head)).permute(2, 0, 3, 1, 4)
    scale = _leaf(head, dtype=dtype)
    extra = None
    if context != "none":
        mask = torch.ones(n, tokens, dtype=torch.bool) if context == "masked" else None
        keys, values = (_leaf(n, heads, tokens, head, dtype=dtype) for _ in range(2))
        extra = Context(keys, values, mask)
    angles = rotary_angles((8, 8), head)
    attention.attention(q, k, v, scale, scale, angles, extra).sum().backward()


def modulated(width: int, x: torch.dtype, vectors: torch.dtype) -> None:
    """Both halves of a block: `vectors` is the dtype of shift, scale, gate and branch."""
    residual, branch = _leaf(2, 64, width, dtype=x), _leaf(2, 64, width, dtype=vectors)
    shift, scale, gate = (_leaf(2, width, dtype=vectors) for _ in range(3))
    modulate.modulate(residual, shift, scale).sum().backward()
    modulate.gated_residual(residual, branch, gate).sum().backward()


def drawn() -> None:
    """Normals alone."""
    noise.normal(_keys(2), 4096)


def diffused(dtype: torch.dtype) -> None:
    """Forward noising from keys."""
    noise.diffuse(torch.ones(2, 4096, dtype=dtype), torch.zeros(2), _keys(2))


def stepped(dtype: torch.dtype, guided: str) -> None:
    """A step of the decoder (none, clipped) or of the base model with all or some rows guided."""
    rows = 4
    x = torch.ones(rows, 4096, dtype=dtype)
    level = torch.zeros(rows)
    guidance = None
    if guided == "all":
        guidance = Guidance(x, level)
    elif guided == "some":
        guidance = Guidance(x[:2], level[:2], torch.tensor([0, 3]))
    row = Step(level, torch.ones(rows, 4))
    noise.guided_step(x, x, x, row, _keys(rows), guidance, clip=guided == "none")


def weighted(dtype: torch.dtype) -> None:
    """The loss, forward and backward."""
    v, v_hat = (_leaf(2, 4096, dtype=dtype) for _ in range(2))
    loss.weighted_error(v, v_hat, torch.zeros(2), torch.ones(2)).sum().backward()


def attention_cases() -> Iterator[Case]:
    """Every kind of context, dtype and head dim, the likeliest first."""
    for context in ("none", "masked", "all"):
        for dtype in (torch.bfloat16, torch.float32, torch.float16):
            for head in (64, 128, 32, 96):
                label = f"head {head}, context {context}"
                yield Case("attention", label, dtype, partial(attend, head, dtype, context))


def modulate_cases() -> Iterator[Case]:
    """Widths in fp32 and bf16, and what autocast makes: an fp32 residual and bf16 branches."""
    f32, bf16 = torch.float32, torch.bfloat16
    for width in WIDTHS:
        for x, vectors in ((f32, f32), (bf16, bf16), (f32, bf16)):
            mixed = "" if x == vectors else ", vectors bf16"
            label = f"width {width}{mixed}"
            yield Case("modulate", label, x, partial(modulated, width, x, vectors))


def noise_cases() -> Iterator[Case]:
    """Normals, noising, and the step with no, all or some rows guided."""
    yield Case("noise", "normal", torch.float32, drawn)
    for dtype in DTYPES:
        yield Case("noise", "diffuse", dtype, partial(diffused, dtype))
        for guided in ("none", "all", "some"):
            yield Case("noise", f"step, guided: {guided}", dtype, partial(stepped, dtype, guided))


def loss_cases() -> Iterator[Case]:
    """Every dtype."""
    for dtype in DTYPES:
        yield Case("loss", "", dtype, partial(weighted, dtype))


def every() -> list[Case]:
    """All of them, the quick ones first."""
    return [*noise_cases(), *loss_cases(), *modulate_cases(), *attention_cases()]
