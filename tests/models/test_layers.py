"""The shared pieces: reshapes and their inverses, identities at the start, where things land."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unified_latents.models.layers import (
    LevelEmbedding,
    ModulatedResBlock,
    Output,
    Positions,
    ResBlock,
    convolution,
    downsampling,
    group_norm,
    patchify,
    to_grid,
    to_tokens,
    unpatchify,
    upsample,
)

_GRIDS = [((4, 6), (2, 3)), ((4, 4), (1, 2)), ((4, 2, 6), (2, 1, 3))]


@pytest.mark.parametrize(("size", "patch"), _GRIDS)
def test_unpatchify_undoes_patchify(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size)
    patches = patchify(x, patch)
    grid = tuple(s // p for s, p in zip(size, patch, strict=True))
    assert patches.shape == (2, 3 * math.prod(patch), *grid)
    assert torch.equal(unpatchify(patches, patch), x)


def test_a_patch_holds_its_own_pixels() -> None:
    """Cell (i, j) of the grid sees rows 2i, 2i+1 and columns 3j … 3j+2, channel by channel."""
    x = torch.randn(1, 2, 4, 6)
    patches = patchify(x, (2, 3))
    for i in range(2):
        for j in range(2):
            block = x[0, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
            assert torch.equal(patches[0, :, i, j], block.flatten())


def test_a_patch_of_a_clip_holds_its_own_frames() -> None:
    x = torch.randn(1, 1, 4, 2, 2)
    assert torch.equal(patchify(x, (2, 1, 2))[0, :, 1, 0, 0], x[0, 0, 2:, 0, :].flatten())


@pytest.mark.parametrize("grid", [(3, 4), (2, 3, 4)])
def test_tokens_are_row_major(grid: tuple[int, ...]) -> None:
    x = torch.randn(2, 5, *grid)
    tokens = to_tokens(x)
    assert tokens.shape == (2, math.prod(grid), 5)
    assert torch.equal(tokens[:, 1], x.reshape(2, 5, -1)[..., 1])
    assert torch.equal(to_grid(tokens, grid), x)


def test_upsample_repeats_each_cell_in_place() -> None:
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    want = x.repeat_interleave(2, -1).repeat_interleave(3, -2)
    assert torch.equal(upsample(x, (6, 4)), want)


@pytest.mark.parametrize("space", [2, 3])
def test_convolution_keeps_the_grid_and_downsampling_divides_it(space: int) -> None:
    x = torch.randn(1, 4, *(4,) * space)
    assert convolution(space, 4, 6)(x).shape == (1, 6, *(4,) * space)
    assert downsampling(4, 6, (2,) * space)(x).shape == (1, 6, *(2,) * space)


@pytest.mark.parametrize("space", [2, 3])
def test_residual_blocks_start_as_the_identity(space: int) -> None:
    x, c = torch.randn(2, 8, *(4,) * space), torch.randn(2, 6)
    assert torch.equal(ResBlock(space, 8)(x), x)
    assert torch.equal(ModulatedResBlock(space, 8, 8, 6)(x, c), x)


def test_a_modulated_block_hears_its_conditioning() -> None:
    block = ModulatedResBlock(2, 8, 4, 6)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, c = torch.randn(1, 8, 4, 4).expand(2, -1, -1, -1), torch.randn(2, 6)
    out = block(x, c)
    assert out.shape == (2, 4, 4, 4)
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_group_norm_has_at_most_32_groups_of_at_least_four() -> None:
    for channels, groups in [(8, 2), (24, 6), (48, 12), (128, 32), (512, 32)]:
        assert group_norm(channels).num_groups == groups


def test_levels_are_told_apart_over_the_whole_range() -> None:
    """The features of neighbours a hundredth apart differ, and so do those of distant levels."""
    torch.manual_seed(0)
    level = LevelEmbedding(16)
    log_snr = torch.linspace(-15, 15, 301)
    distances = torch.cdist(level(log_snr), level(log_snr))
    assert (distances + torch.eye(301)).min() > 1e-3
    assert level(torch.tensor([1.0, 2.0])).shape == (2, 16)


def test_positions_are_distinct_and_no_parameter_depends_on_the_grid() -> None:
    positions = Positions((4, 5), 16, 8)
    assert positions().shape == (20, 16)
    assert torch.pdist(positions.features).min() > 0.1
    shapes = [{k: v.shape for k, v in Positions(g, 16, 8).state_dict().items()} for g in
              [(4, 5), (8, 8)]]  # fmt: skip
    assert shapes[0] == shapes[1]


def test_output_starts_at_zero_and_is_modulated() -> None:
    output = Output(8, 3, 6)
    x, c = torch.randn(2, 5, 8), torch.randn(2, 6)
    assert torch.equal(output(x, c), torch.zeros(2, 5, 3))
    for parameter in output.parameters():
        nn.init.normal_(parameter)
    assert not torch.allclose(output(x, c), output(x, 2 * c))
