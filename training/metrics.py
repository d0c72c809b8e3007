"""What evaluation reports, as pure functions: each figure has one definition, written here.

PSNR is on the real data range, 2.0 for pictures in [−1, 1]. Nats become bits per pixel of the
whole grid, H·W places whatever the channels. A figure never travels without its number of
samples and its definition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

DATA_RANGE = 2.0


@dataclass(frozen=True)
class Figure:
    """One reported number."""

    value: float
    std_error: float | None
    """Standard error over the n samples; none where the figure is no mean, or n = 1."""
    n: int
    definition: str


@dataclass(frozen=True)
class Curve:
    """A total, by where on the schedule it is paid: the values add up to it."""

    edges: tuple[float, ...]
    """Of the bins of λ, ascending, one more than values."""
    values: tuple[float, ...]


def mean(values: Float[Tensor, " n"], definition: str) -> Figure:
    """The mean with its standard error, s / √n. `ValueError` without values."""
    n = len(values)
    if n == 0:
        raise ValueError(f"no values: {definition}")
    values = values.double()
    error = (values.std() / math.sqrt(n)).item() if n > 1 else None
    return Figure(values.mean().item(), error, n, definition)


def share(hits: Tensor, definition: str) -> Figure:
    """The fraction of true entries with its binomial standard error, √(p (1 − p) / n)."""
    n = len(hits)
    if n == 0:
        raise ValueError(f"no values: {definition}")
    p = hits.double().mean().item()
    return Figure(p, math.sqrt(p * (1 - p) / n), n, definition)


def mean_squared_error(a: Float[Tensor, "n *d"], b: Float[Tensor, "n *d"]) -> Float[Tensor, " n"]:
    """Each picture's mean of (a − b)² over channels and places, fp64."""
    return (a.double() - b.double()).square().flatten(1).mean(1)


def psnr(mse: Float[Tensor, "*n"], data_range: float = DATA_RANGE) -> Float[Tensor, "*n"]:
    """10 log₁₀(range² / mse), in dB; infinite for equal pictures."""
    return 10 * (data_range**2 / mse).log10()


def bits_per(nats: Float[Tensor, "*n"], divisor: int) -> Float[Tensor, "*n"]:
    """nats / (ln 2 · divisor)."""
    return nats / (math.log(2) * divisor)


def rate_figures(
    nats: Float[Tensor, " n"], size: Sequence[int], latent_shape: Sequence[int]
) -> dict[str, Figure]:
    """The bitrate of n pictures under every divisor in use, each named by it."""
    places, dims = math.prod(size), math.prod(latent_shape)
    grid = "x".join(map(str, size))
    bound = "bound on the latent's information under the prior, E[L_z] with KL_1"
    return {
        f"bits_per_pixel_{grid}": mean(
            bits_per(nats, places), f"{bound}, in bits over the {places} pixels of the grid"
        ),
        f"bits_per_latent_dim_{dims}": mean(
            bits_per(nats, dims), f"{bound}, in bits over the {dims} dimensions of the latent"
        ),
        "bits_per_image": mean(bits_per(nats, 1), f"{bound}, in bits"),
        "nats_per_image": mean(nats, f"{bound}, in nats"),
    }


def psnr_figures(mse: Float[Tensor, " n"], size: Sequence[int], what: str) -> dict[str, Figure]:
    """PSNR over the centred region of `size`: the mean over pictures, and that of the mean MSE."""
    region = "x".join(map(str, size))
    where = f"dB, data range 2, over the centred {region} region, {what}"
    pooled = psnr(mse.double().mean()).item()
    return {
        f"psnr_{region}": mean(psnr(mse), f"mean over pictures of the PSNR in {where}"),
        f"psnr_{region}_of_mean_mse": Figure(
            pooled, None, len(mse), f"PSNR of the mean squared error of all pictures, {where}"
        ),
    }


def agreement_figures(
    named: Int[Tensor, " n"], asked: Int[Tensor, " n"], labels: Sequence[str]
) -> dict[str, Figure]:
    """How often a classifier names a generated picture as the label it was asked for."""
    what = "share of generated pictures that the classifier names as the label asked for"
    hits = named == asked
    figures = {"agreement": share(hits, what)}
    for index, label in enumerate(labels):
        of_label = asked == index
        if of_label.any():
            figures[f"agreement_{label}"] = share(hits[of_label], f"{what}: {label!r}")
    return figures


def ratio(a: Float[Tensor, " n"], b: Float[Tensor, " n"], definition: str) -> Figure:
    """mean(a) / mean(b) of paired values, the error by first order: that of a − ratio · b."""
    value = (a.double().mean() / b.double().mean()).item()
    residual = mean(a.double() - value * b.double(), definition)
    error = None if residual.std_error is None else residual.std_error / b.double().mean().item()
    return Figure(value, error, len(a), definition)


def curve(
    values: Float[Tensor, "n k"], log_snr: Float[Tensor, "n k"], low: float, high: float, bins: int
) -> Curve:
    """Stratified draws of an integrand over t, sorted into equal bins of λ; adds up to the mean."""
    place = ((log_snr - low) / (high - low) * bins).floor().long().clamp(0, bins - 1)
    totals = values.new_zeros(bins).index_add(0, place.flatten(), values.flatten())
    edges = tuple(low + (high - low) * k / bins for k in range(bins + 1))
    return Curve(edges, tuple((totals / values.numel()).tolist()))
