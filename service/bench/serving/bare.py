"""What the three rivals serve: the model behind a function from requests to answers.

Requests of one call share a forward pass where their step counts agree, each with its own label,
seed and guidance: the most that batching whole requests can share. The loop is that of `models`.
"""

from __future__ import annotations

import base64
import io
import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified_latents.models.pixels import from_unit, to_unit
from unified_latents.models.sampling import Denoiser, NoiseKeys, Stage, guide, plan, sample
from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.engine.spawn import packages
from unified_latents.service.stepper.catalogue import load
from unified_latents.service.stepper.networks.compiled import Library

Body = dict[str, Any]


class Bare:
    """A checkpoint and its two loops, on `threads` threads; UL_COMPILED counts here too."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        compiled = os.environ.get("UL_COMPILED")
        library = Library(packages(Path(compiled) if compiled else None))
        model = load(Checkpoint("bare", folder), "cpu", library)
        if model.base is None:
            raise ValueError("the bench needs a model with a base model")
        self._evaluate = partial(model.evaluate, strict=False)
        self._config, self._null = model.unified.config, model.base.config.classes
        self._mode = model.card.preprocessing.mode

    @torch.inference_mode()
    def __call__(self, bodies: Sequence[Body]) -> list[list[str]]:
        """Base64 files of each request: PNG of its images, or its latent's float32."""
        groups = defaultdict(list)
        for i, body in enumerate(bodies):
            groups[_shared(body)].append(i)
        answers: list[list[str]] = [[] for _ in bodies]
        for key, members in groups.items():
            run = self._encode if key is None else self._generate
            for i, files in zip(members, run([bodies[i] for i in members]), strict=True):
                answers[i] = files
        return answers

    def _encode(self, bodies: list[Body]) -> list[list[str]]:
        files = (io.BytesIO(base64.b64decode(body["image"])) for body in bodies)
        pixels = [np.asarray(Image.open(file).convert(self._mode)) for file in files]
        x = torch.from_numpy(np.stack(pixels)).reshape(len(bodies), *pixels[0].shape[:2], -1)
        z = self._evaluate("encode", to_unit(x.permute(0, 3, 1, 2).contiguous()))
        return [[base64.b64encode(row.numpy().tobytes()).decode()] for row in z]

    def _generate(self, bodies: list[Body]) -> list[list[str]]:
        seeds, samples, labels, scales = (
            torch.tensor(column) for column in zip(*_rows(bodies), strict=True)
        )
        config, steps = self._config, bodies[0]["steps"]
        z_0 = sample(
            self._guided(labels, scales),
            NoiseKeys(seeds, samples, Stage.BASE),
            config.latent_shape,
            plan(config.latent_schedule, steps["base"], "dpmpp-2m", to_mean=False),
            clip=False,
        )
        x = sample(
            lambda x_t, log_snr: self._evaluate("decode", x_t, log_snr, z_0),
            NoiseKeys(seeds, samples, Stage.DECODE),
            config.image_shape,
            plan(config.image_schedule, steps["decode"], "ancestral", to_mean=True),
            clip=True,
        )
        files = [_png(row) for row in from_unit(x)]
        return [[files.pop(0) for _ in range(body["n"])] for body in bodies]

    def _guided(self, labels: Tensor, scales: Tensor) -> Denoiser:
        """Two rows a sample where any of the group is guided; the group agrees on that."""
        null = torch.full_like(labels, self._null)

        def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor:
            if bool((scales == 1).all()):
                return self._evaluate("base", z_t, log_snr, labels)
            twice = torch.cat((z_t, z_t)), torch.cat((log_snr, log_snr))
            both = self._evaluate("base", *twice, torch.cat((labels, null)))
            conditional, unconditional = both.chunk(2)
            return guide(conditional, unconditional, scales)

        return denoise


def _shared(body: Body) -> tuple[int, int, bool] | None:
    """What requests of one pass have in common; None for an encode."""
    if body["kind"] == "encode":
        return None
    return body["steps"]["base"], body["steps"]["decode"], body["guidance"] != 1


def _rows(bodies: list[Body]) -> list[tuple[int, int, int, float]]:
    return [
        (body["seed"], i, body["label"], float(body["guidance"]))
        for body in bodies
        for i in range(body["n"])
    ]


def _png(pixels: Tensor) -> str:
    image = pixels.permute(1, 2, 0).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
