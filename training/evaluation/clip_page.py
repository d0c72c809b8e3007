"""The figures and the page of an evaluation of clips: Markdown, a contact sheet, a film."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unified_latents.models import manifest
from unified_latents.models.checkpoint import Networks
from unified_latents.models.config import UnifiedConfig
from unified_latents.training import grids
from unified_latents.training.data.card import read_card
from unified_latents.training.evaluation import page
from unified_latents.training.evaluation.clips import Films, copied
from unified_latents.training.evaluation.evaluate import Metrics
from unified_latents.training.evaluation.film import Reference
from unified_latents.training.measure import Settings
from unified_latents.training.metrics import (
    Figure,
    mean,
    mean_squared_error,
    psnr,
    psnr_figures,
    rate_figures,
    share,
)

NEXT = 2
"""Frames after the known ones over which a prediction is compared with standing still."""
_SHOWN, _FILM = 6, 8
_FRAME_MS = 120
_GAP = 2


def report(films: Films) -> Metrics:
    """Merge all batches, write `metrics.json`, `report.md`, `clips.png` and `clips.gif`."""
    about = manifest.read_manifest(films.checkpoint)
    config = manifest.read(films.checkpoint / manifest.CONFIG, Networks).unified
    found, reference = films.merged("clips"), films.merged("reference")["real"]
    metrics = Metrics(
        about.card.name,
        films.digest,
        read_card(films.data).name,
        films.sha256[1],
        films.settings,
        "none",
        figures(found, reference, config, films.settings),
        loss_factor=config.loss_factor,
    )
    manifest.write(films.out / "metrics.json", metrics)
    _sheet(films.out / "clips.png", found)
    _film(films.out / "clips.gif", found)
    (films.out / "report.md").write_text(markdown(metrics, config.known_frames), "utf-8")
    return metrics


def figures(
    found: dict[str, Tensor], reference: Tensor, config: UnifiedConfig, settings: Settings
) -> dict[str, Figure]:
    """Rate, reconstruction, prediction, distances: each with its n and its definition."""
    how = settings.sampling
    what = f"one {how.decode_steps}-step {how.decode_sampler} draw, shown no frame"
    made = rate_figures(found["nats"], config.size, config.latent_shape)
    made |= psnr_figures(found["mse"], config.size, what)
    return made | prediction(found, config.known_frames) | distances(found, reference)


def prediction(found: dict[str, Tensor], known: int) -> dict[str, Figure]:
    """The next frames against standing still, and how far two seeds are apart."""
    after = slice(known, known + NEXT)
    real, made, other = (found[name][:, :, after] for name in ("clip", "first", "second"))
    still = copied(found["clip"], known)[:, :, after]
    errors = [_error(each, real) for each in (made, still)]
    where = f"over the {NEXT} frames after the {known} known ones, data range 2"
    pooled = [psnr(error.mean()).item() for error in errors]
    apart = (found["first"][:, :, known:].float() - found["second"][:, :, known:].float()).abs()
    levels = apart.flatten(1).mean(1)
    n = len(real)
    return {
        f"psnr_next_{NEXT}": Figure(pooled[0], None, n, f"dB of one sample's mean MSE, {where}"),
        f"psnr_next_{NEXT}_copy_last": Figure(
            pooled[1], None, n, f"… of the last known frame held, {where}"
        ),
        f"mse_next_{NEXT}": mean(errors[0], f"mean squared error of one sample, {where}"),
        f"mse_next_{NEXT}_copy_last": mean(errors[1], f"… of the last known frame held, {where}"),
        "better_than_copy_last": share(
            errors[0] < errors[1], f"clips whose sample has the smaller error, {where}"
        ),
        "seeds_apart": mean(
            levels, "mean absolute difference of two seeds' unknown frames, in levels of 255"
        ),
        f"seeds_apart_next_{NEXT}": mean(
            (made.float() - other.float()).abs().flatten(1).mean(1), f"… {where}, in levels of 255"
        ),
    }


def _error(a: Tensor, b: Tensor) -> Tensor:
    return mean_squared_error(a / 127.5, b / 127.5)


def distances(found: dict[str, Tensor], reference: Tensor) -> dict[str, Figure]:
    """Of test clips, samples, stills and reconstructions to the same training clips."""
    to, n = Reference.of(reference), len(found["nats"])
    words = {
        "real": "real test clips: the floor of this many",
        "made": "samples that go on from the known frames",
        "still": "clips that stand still after them: what a prediction must beat",
        "again": "reconstructions",
    }
    return {
        f"video_distance_{name}": Figure(
            to.distance(found[f"features_{name}"]),
            None,
            n,
            f"EfficientNet-Lite0 frames and lags, to {len(reference)} training clips: {of}",
        )
        for name, of in words.items()
    }


def _sheet(path: Path, found: dict[str, Tensor]) -> None:
    """For each clip four rows of frames: real, reconstruction, two samples."""
    rows = [found[name][:_SHOWN] for name in ("clip", "again", "first", "second")]
    clips = torch.stack(rows, 1).flatten(0, 1)
    grids.write(path, grids.stills(clips), columns=clips.shape[2])


def _film(path: Path, found: dict[str, Tensor]) -> None:
    """Columns of clips in motion: real above reconstruction and two samples."""
    rows = [_wall(found[name][:_FILM]) for name in ("clip", "again", "first", "second")]
    frames = [
        Image.fromarray(torch.cat([row[t] for row in rows]).numpy()) for t in range(len(rows[0]))
    ]
    frames = [
        frame.resize((2 * frame.width, 2 * frame.height), Image.Resampling.NEAREST)
        for frame in frames
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=_FRAME_MS, loop=0)


def _wall(clips: UInt8[Tensor, "n c t h w"]) -> UInt8[Tensor, "t h w 3"]:
    """Clips side by side, a gap around each."""
    pixels = clips.expand(-1, 3, -1, -1, -1)
    apart = torch.nn.functional.pad(pixels, (0, _GAP, 0, _GAP), value=255)
    return apart.permute(2, 3, 0, 4, 1).flatten(2, 3)


def markdown(metrics: Metrics, known: int) -> str:
    """The page's text."""
    how, found = metrics.settings.sampling, metrics.figures
    bits = next(value for name, value in found.items() if name.startswith("bits_per_pixel_"))
    distance = {name: found[f"video_distance_{name}"].value for name in ("real", "made", "still")}
    made, still = found[f"psnr_next_{NEXT}"].value, found[f"psnr_next_{NEXT}_copy_last"].value
    return (
        f"# {metrics.checkpoint} on {metrics.data}\n\n"
        f"**{bits.value:.4f}** bits per pixel and frame · next {NEXT} frames **{made:.2f}** dB, "
        f"copying the last known frame {still:.2f} dB · video distance "
        f"**{distance['made']:.2f}** (real {distance['real']:.2f}, "
        f"standing still {distance['still']:.2f})\n\n"
        f"## Clips\n\nThe first held-out clips, none chosen. In each group: the real clip, its "
        f"reconstruction from a latent alone, and two samples that go on from the first {known} "
        f"frames (guidance {how.guidance:g}, {how.base_steps} base steps, {how.decode_steps} "
        f"decoder steps).\n\n![clips](clips.png)\n\n![clips in motion](clips.gif)\n\n"
        f"## Figures\n\n{page.table(found)}\n\n"
        f"Seed {metrics.settings.seed} and the one after it; noise is keyed by clip. The video "
        f"distance sees clips that stand still, are slowed, noisy or blurred, weakly those that "
        f"are shuffled, and not those that run backwards.\n\n"
        f"Checkpoint `{metrics.digest}`, test clips `{metrics.test_sha256}`.\n"
    )
