"""The figures of a report, from what was measured; each says what it is in its definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unified_latents.models.config import UnifiedConfig
from unified_latents.training.evaluation.distances import Moments, frechet, kernel, moments
from unified_latents.training.evaluation.study import Lesson, Study
from unified_latents.training.metrics import Curve, Figure, bits_per, curve, mean, ratio, share

FRECHET_LEAST = 5000
"""Below so many pictures a set gets no Fréchet distance: its bias would drown it."""
_NAMES = {
    "classifier": "the penultimate features of the small classifier that judges labels",
    "efficientnet_lite0": "the 1280 features of EfficientNet-Lite0 (ImageNet) at 64×64",
}
_LESSONS: dict[Lesson, str] = {
    "generated": "{n} generated pictures alone",
    "real": "all {n} real training pictures",
    "fewer_real": "{n} real training pictures, chosen at random",
    "gaussian": "{n} samples of one full-covariance pixel Gaussian a class",
}


def bound_figures(measured: dict[str, Tensor], config: UnifiedConfig) -> dict[str, Figure]:
    """Bits under the base model, beside the prior's on the same draws, and the decoder's loss."""
    grid = "x".join(map(str, config.size))
    pixels = math.prod(config.size)
    nats = measured["decoder"].mean(1)
    figures = {
        "decoder_nats_per_image": mean(nats, "E[L_x], the decoder's loss with c_lf in it, in nats")
    }
    if "base" not in measured:
        return figures
    prior, base, free = (
        measured[name].mean(1) + measured["kl_1"] for name in ("prior", "base", "base_null")
    )
    what = "bound under the base model, unweighted ELBO with KL_1, in bits over the grid's pixels"
    name = f"base_bits_per_pixel_{grid}"
    figures[name] = mean(bits_per(base, pixels), f"{what}, given the true label")
    figures[f"{name}_label_free"] = mean(bits_per(free, pixels), f"{what}, without the label")
    over = "bits under the base model over bits under the prior, same draws"
    figures["base_over_prior"] = ratio(base, prior, f"{over}, given the true label")
    figures["base_over_prior_label_free"] = ratio(free, prior, f"{over}, without the label")
    return figures


def curves(measured: dict[str, Tensor], config: UnifiedConfig) -> dict[str, Curve]:
    """Where on the schedules it is paid: bits a pixel of the latent, nats a pixel of the image."""
    pixels = math.prod(config.size)
    latent, image = config.latent_schedule, config.image_schedule
    found: dict[str, Curve] = {
        name: curve(
            bits_per(measured[name], pixels),
            measured["log_snr_z"],
            latent.lambda_min,
            latent.lambda_max,
            bins=15,
        )
        for name in ("prior", "base", "base_null")
        if name in measured
    }
    nats, log_snr = measured["decoder"] / pixels, measured["log_snr_x"]
    found["decoder"] = curve(nats, log_snr, image.lambda_min, image.lambda_max, bins=20)
    return found


def two_way_figures(study: Study) -> dict[str, Figure]:
    """Accuracy on real test pictures of a classifier by what it was trained on."""
    return {
        f"accuracy_trained_on_{lesson}": share(
            study.hits(lesson),
            "share of real test pictures named rightly by a classifier trained on "
            + text.format(n=study.count(lesson)),
        )
        for lesson, text in _LESSONS.items()
        if lesson in study.lessons
    }


@dataclass(frozen=True)
class FeatureSet:
    """The features of a set of pictures, and what to call it."""

    what: str
    features: Tensor

    def moments(self) -> Moments:
        return moments(self.features)


def distance_figures(study: Study, network: str, least: int = FRECHET_LEAST) -> dict[str, Figure]:
    """Both distances in one network's features, and what real pictures score between themselves."""
    data = study.features(network, "train")
    test = FeatureSet("test pictures", study.features(network, "test"))
    train = FeatureSet("training pictures", data)
    pairs = {"floor_test_train": (test, train)}
    images, generated = study.evaluation.images, study.evaluation.generated
    drawn = FeatureSet("reconstructions", study.features(network, "reconstructions"))
    originals = FeatureSet("the very pictures they are of", test.features[:images])
    pairs |= {"reconstructions": (drawn, originals)} | _halves(data, images)
    if generated:
        made = FeatureSet("generated pictures", study.features(network, "generated"))
        pairs |= {"generated_train": (made, train), "generated_test": (made, test)}
        pairs |= _halves(data, generated)
    figures: dict[str, Figure] = {}
    for name in sorted(pairs, key=lambda each: each.startswith("floor")):
        figures |= _between(network, name, *pairs[name], least)
    return figures


def _halves(features: Tensor, size: int) -> dict[str, tuple[FeatureSet, FeatureSet]]:
    """Two disjoint random parts of the training pictures, as many in each as were drawn."""
    size = min(size, len(features) // 2)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    first, second = features[order[:size]], features[order[size : 2 * size]]
    sets = FeatureSet("training pictures", first), FeatureSet("other training pictures", second)
    return {f"floor_train_{size}": sets}


def _between(
    network: str, name: str, a: FeatureSet, b: FeatureSet, least: int
) -> dict[str, Figure]:
    n = min(len(a.features), len(b.features))
    floor = "real against real: " if name.startswith("floor") else ""
    sets = f"{floor}{len(a.features)} {a.what} against {len(b.features)} {b.what}"
    where = f"in {_NAMES[network]}; {sets}"
    figures: dict[str, Figure] = {}
    if n >= max(least, 2):
        value = frechet(a.moments(), b.moments())
        text = f"Fréchet distance {where}"
        figures[f"frechet_{network}_{name}"] = Figure(value, None, n, text)
    if n >= 2:
        found = kernel(a.features, b.features)
        text = (
            f"kernel distance (unbiased MMD², cubic kernel, mean of blocks of at most 1000) {where}"
        )
        figures[f"kernel_{network}_{name}"] = Figure(found.value, found.std_error, n, text)
    return figures
