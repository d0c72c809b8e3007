"""The loop without the service: a process that times what it is asked to, line by line.

`python -P -m unified_latents.service.bench.direct FOLDER THREADS` reads JSON tasks from its
standard input and answers each with the seconds it took. It runs in the environment it is given,
so one with MKL's reproducible mode and one without can be compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unified_latents.models.base import BaseModel, guided
from unified_latents.models.config import UnifiedConfig
from unified_latents.models.pixels import from_unit
from unified_latents.models.sampling import Denoiser, NoiseKeys, Prediction, Stage, plan, sample
from unified_latents.service.bench.rival import Rival, flops
from unified_latents.service.engine.messages import Checkpoint
from unified_latents.service.stepper.catalogue import Model, load
from unified_latents.service.stepper.networks.compiled import NetworkName, networks
from unified_latents.service.stepper.networks.numerics import arithmetic


def within(strict: bool, denoise: Denoiser) -> Denoiser:
    """The denoiser under the arithmetic of a mode."""

    def run(x_t: Tensor, log_snr: Tensor) -> Tensor | Prediction:
        with arithmetic(strict):
            return denoise(x_t, log_snr)

    return run


def generate(model: Model, n: int, steps: int, guidance: float, seed: int, strict: bool) -> Tensor:
    """n images of label 0, as the paper's two loops."""
    if model.base is None:
        raise ValueError("the bench needs a model with a base model")
    config = model.unified.config
    samples = torch.arange(n)
    seeds = torch.full_like(samples, seed)
    z_0 = sample(
        within(strict, guided(model.base, torch.zeros_like(samples), guidance)),
        NoiseKeys(seeds, samples, Stage.BASE),
        config.latent_shape,
        plan(config.latent_schedule, steps, "dpmpp-2m", to_mean=False),
        clip=False,
    )
    x = sample(
        within(strict, lambda x_t, log_snr: model.unified.decoder(x_t, log_snr, z_0)),
        NoiseKeys(seeds, samples, Stage.DECODE),
        config.image_shape,
        plan(config.image_schedule, steps, "ancestral", to_mean=True),
        clip=True,
    )
    return from_unit(x)


def latents(base: BaseModel, config: UnifiedConfig, n: int, steps: int, guidance: float) -> Tensor:
    """n latents by a base model, ours or the rival, in the same loop."""
    samples = torch.arange(n)
    return sample(
        guided(base, torch.zeros_like(samples), guidance),
        NoiseKeys(torch.zeros_like(samples), samples, Stage.BASE),
        config.latent_shape,
        plan(config.latent_schedule, steps, "dpmpp-2m", to_mean=False),
        clip=False,
    )


class Contest:
    """The base model and the rival of its shape, by name; the rival is built when first asked."""

    def __init__(self, model: Model) -> None:
        if model.base is None:
            raise ValueError("the bench needs a model with a base model")
        self.base, self.config = model.base, model.unified.config
        self._rival: Rival | None = None

    def network(self, name: str) -> BaseModel:
        """`base`, or the `rival`, which can be called like it."""
        if name == "base":
            return self.base
        if self._rival is None:
            self._rival = Rival(self.base.config).eval().requires_grad_(False)
        return self._rival

    def answer(self, task: dict[str, Any]) -> float:
        """Seconds of sampling, or the FLOPs of one row where `stage` says so."""
        network = self.network(task["who"])
        if task["stage"] == "flops":
            return flops(network, self.config.latent_shape)
        began = time.perf_counter()
        latents(network, self.config, task["n"], task["steps"], task["guidance"])
        return time.perf_counter() - began


def forward(model: Model, stage: NetworkName, n: int) -> Callable[[], Tensor]:
    """One evaluation of one network on n rows."""
    network = networks(model.unified, model.base, n)[stage]
    return lambda: network.module(*network.inputs)


def timed(model: Model, task: dict[str, Any]) -> float:
    """Seconds of a task, after one unmeasured run where it is a single pass."""
    strict = bool(task["strict"])
    if task["stage"] == "all":
        began = time.perf_counter()
        generate(model, task["n"], task["steps"], task["guidance"], task["seed"], strict)
        return time.perf_counter() - began
    run = forward(model, task["stage"], task["n"])
    with arithmetic(strict):
        run()
        began = time.perf_counter()
        for _ in range(task["repeats"]):
            run()
        return (time.perf_counter() - began) / float(task["repeats"])


@torch.inference_mode()
def main(folder: str, threads: int) -> None:
    """Answer tasks until the input ends."""
    torch.set_num_threads(threads)
    model = load(Checkpoint("bench", folder), "cpu")
    contest = Contest(model)
    for line in sys.stdin:
        task = json.loads(line)
        figure = contest.answer(task) if "who" in task else timed(model, task)
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
