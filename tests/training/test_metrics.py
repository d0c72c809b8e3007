from __future__ import annotations

import math

import pytest
import torch

from unified_latents.training.metrics import (
    agreement_figures,
    bits_per,
    curve,
    mean,
    mean_squared_error,
    psnr,
    psnr_figures,
    rate_figures,
    ratio,
    share,
)


def test_psnr_of_a_known_error() -> None:
    """An error of a tenth of the range everywhere is 20 dB, whatever the range."""
    assert psnr(torch.tensor(0.2**2)).item() == pytest.approx(20)
    assert psnr(torch.tensor(25.5**2), data_range=255).item() == pytest.approx(20)


def test_psnr_is_the_same_on_bytes_and_on_the_unit_range(generator: torch.Generator) -> None:
    a, b = torch.randint(0, 256, (2, 3, 1, 8, 8), generator=generator).double()
    on_bytes = psnr(mean_squared_error(a, b), data_range=255)
    on_unit = psnr(mean_squared_error(a / 127.5 - 1, b / 127.5 - 1))
    torch.testing.assert_close(on_bytes, on_unit)


def test_psnr_of_equal_pictures_is_infinite() -> None:
    assert psnr(torch.tensor(0.0)).item() == math.inf


def test_squared_error_is_a_mean_over_each_picture() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack((torch.full((3, 4, 4), 2.0), torch.zeros(3, 4, 4)))
    b[1, 0, 0, 0] = 48.0
    assert mean_squared_error(a, b).tolist() == [4.0, 48.0]


def test_bits() -> None:
    """1024 ln 2 nats are 1024 bits: one bit a pixel at 32×32."""
    nats = torch.tensor([1024 * math.log(2)], dtype=torch.float64)
    assert bits_per(nats, 1024).item() == pytest.approx(1)


def test_rate_figures_carry_their_divisor_in_the_name() -> None:
    nats = torch.tensor([100.0, 200.0], dtype=torch.float64)
    figures = rate_figures(nats, (32, 32), (16, 4, 4))
    bits = 150 / math.log(2)
    values = {name: figure.value for name, figure in figures.items()}
    assert values == pytest.approx(
        {
            "bits_per_pixel_32x32": bits / 1024,
            "bits_per_latent_dim_256": bits / 256,
            "bits_per_image": bits,
            "nats_per_image": 150.0,
        }
    )
    assert figures["nats_per_image"].std_error == pytest.approx(50)


def test_standard_error_of_a_mean(generator: torch.Generator) -> None:
    """Of 10 000 normals of deviation 3: 3 / 100 within its own error of 1 / √(2 n)."""
    figure = mean(3 * torch.randn(10_000, generator=generator), "normals")
    assert figure.std_error == pytest.approx(0.03, rel=0.04)
    assert abs(figure.value) < 5 * 0.03
    assert figure.n == 10_000


def test_one_value_has_no_error_and_none_is_refused() -> None:
    assert mean(torch.ones(1), "one").std_error is None
    with pytest.raises(ValueError, match="nothing"):
        mean(torch.ones(0), "nothing")
    with pytest.raises(ValueError, match="nothing"):
        share(torch.ones(0), "nothing")


def test_share_has_the_binomial_error() -> None:
    figure = share(torch.arange(100) < 20, "a fifth")
    assert figure.value == pytest.approx(0.2)
    assert figure.std_error == pytest.approx(0.04)


def test_mean_of_psnr_and_psnr_of_mean_differ() -> None:
    """20 and 40 dB: 30 in the mean, but the mean error is half the larger one: 23.0 dB."""
    figures = psnr_figures(torch.tensor([0.04, 0.0004], dtype=torch.float64), (28, 28), "a draw")
    assert figures["psnr_28x28"].value == pytest.approx(30)
    assert figures["psnr_28x28_of_mean_mse"].value == pytest.approx(20 + 10 * math.log10(2 / 1.01))


def test_agreement_per_label() -> None:
    asked = torch.tensor([0, 0, 0, 0, 1, 1])
    named = torch.tensor([0, 0, 0, 1, 1, 0])
    figures = agreement_figures(named, asked, ("bag", "coat", "never asked"))
    values = {name: figure.value for name, figure in figures.items()}
    assert values == pytest.approx(
        {"agreement": 4 / 6, "agreement_bag": 0.75, "agreement_coat": 0.5}
    )
    assert figures["agreement_coat"].n == 2


def test_ratio_of_means_and_its_error() -> None:
    """Against the spread of the ratio over many sets; a constant factor has no error."""
    generator = torch.Generator().manual_seed(0)
    b = 5 + torch.randn(400, 200, generator=generator).double()
    a = 2 * b + torch.randn(400, 200, generator=generator).double()
    spread = (a.mean(1) / b.mean(1)).std().item()
    found = ratio(a[0], b[0], "a over b")
    assert found.value == pytest.approx(a[0].mean().item() / b[0].mean().item())
    assert found.std_error == pytest.approx(spread, rel=0.2)
    exact = ratio(2 * b[0], b[0], "twice")
    assert exact.value == pytest.approx(2)
    assert exact.std_error == pytest.approx(0, abs=1e-12)
    assert ratio(a[0, :1], b[0, :1], "one").std_error is None


def test_curve_sorts_draws_into_bins_and_keeps_their_sum() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    log_snr = torch.tensor([[-1.0, 0.9], [1.0, -0.2]]).double()
    found = curve(values, log_snr, -1, 1, bins=2)
    assert found.edges == (-1, 0, 1)
    assert found.values == ((1 + 4) / 4, (2 + 3) / 4)
