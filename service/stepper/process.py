"""The engine process from its first breath to its last.

A thread reads commands and answers pings; the main thread steps. When the parent's end of the pipe
closes the process ends at once, in the middle of a pass if need be: nobody is left to hear of it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import msgspec
import torch

from unified_latents.kernels.dispatch import fallback, forced, kernel_set
from unified_latents.service.engine import frames
from unified_latents.service.engine.messages import (
    PROTOCOL,
    Ready,
)
from unified_latents.service.engine.protocol import (
    Command,
    Failed,
    Hello,
    Load,
    Message,
    Ping,
    Pong,
)
from unified_latents.service.stepper.catalogue import Model, give_back, load
from unified_latents.service.stepper.costs import CostModel
from unified_latents.service.stepper.loop import Loop
from unified_latents.service.stepper.networks.compiled import Library
from unified_latents.service.stepper.networks.numerics import numerics_id
from unified_latents.service.stepper.swap import Loader, Swap

_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent's thread ends: a guard behind the pipe's EOF."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Pipe:
    """The engine's end: commands from a thread through a queue, messages out."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._commands: queue.SimpleQueue[Command | Swap] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._turn_began: float | None = None

    def hello(self) -> Hello | None:
        """The parent's first message, and the thread for the rest; None where it has none."""
        decoder = msgspec.msgpack.Decoder(Command)
        first = frames.receive(self._stream, decoder)
        if not isinstance(first, Hello):
            return None
        threading.Thread(target=self._read, args=(decoder,), daemon=True).start()
        return first

    def _read(self, decoder: msgspec.msgpack.Decoder[Command]) -> None:
        try:
            while (command := frames.receive(self._stream, decoder)) is not None:
                if isinstance(command, Ping):
                    began = self._turn_began
                    self.send(Pong(time.monotonic() - began if began is not None else 0.0))
                else:
                    self._commands.put(command)
        finally:
            os._exit(0)

    def put(self, swap: Swap) -> None:
        """From another thread: a model has been loaded, or not."""
        self._commands.put(swap)

    def commands(self, *, wait: bool) -> list[Command | Swap]:
        """All that has arrived; with `wait`, at least one. A turn of the loop begins here."""
        self._turn_began = None
        arrived = [self._commands.get()] if wait else []
        while not self._commands.empty():
            arrived.append(self._commands.get())
        self._turn_began = time.monotonic()
        return arrived

    def send(self, message: Message) -> None:
        """One message; a parent that is gone ends the process."""
        try:
            with self._writing:
                self._stream.sendall(frames.pack(message))
        except OSError:
            os._exit(0)


def describe(hello: Hello, models: dict[str, Model], library: Library) -> Ready:
    """What was loaded, and under which ids equal bytes are promised."""
    kernels = kernel_set(hello.device)
    ids = partial(numerics_id, hello.device, kernels, library.digest, graphs=recorded(hello))
    return Ready(
        protocol=PROTOCOL,
        models=tuple(model.card for model in models.values()),
        kernel_set=kernels,
        numerics_strict=ids(strict=True),
        numerics_fast=ids(strict=False),
        torch=str(torch.__version__),
        device=hello.device,
        kernel_fallback=fallback(hello.device),
        graphs=recorded(hello),
    )


def recorded(hello: Hello) -> bool:
    """Whether passes are recorded and replayed."""
    return hello.graphs and torch.device(hello.device).type == "cuda"


def costs_file(hello: Hello) -> Path | None:
    """Where the costs of passes outlive this engine."""
    return None if hello.cache is None else Path(hello.cache) / "costs.json"


def main(descriptor: int) -> int:
    """Serve the parent on the other end of `descriptor`; 1 where it cannot."""
    logging.basicConfig(level=logging.WARNING, format="engine: %(levelname)s %(message)s")
    die_with_parent()
    pipe = Pipe(socket.socket(fileno=descriptor))
    hello = pipe.hello()
    if hello is None:
        return 1
    if hello.protocol != PROTOCOL:
        pipe.send(Failed(f"the parent speaks protocol {hello.protocol}, this engine {PROTOCOL}"))
        return 1
    torch.set_num_threads(hello.threads)
    with forced(fused=False if hello.kernels == "reference" else None):
        return serve(pipe, hello)


def serve(pipe: Pipe, hello: Hello) -> int:
    """Load, say so, and step for as long as there is a parent; 1 where the models do not load.

    Modules and what they made are left out of collections, which come between two passes.
    """
    gc.freeze()
    try:
        library = Library(hello.compiled)
        loading = partial(load, device=hello.device, library=library, graphs=recorded(hello))
        models = {wanted.name: loading(wanted) for wanted in hello.checkpoints}
    except Exception as error:  # another engine would meet the same
        log.exception("the models do not load")
        pipe.send(Failed(str(error)))
        return 1
    ready = describe(hello, models, library)
    if ready.kernel_fallback:
        log.warning("%s runs the reference kernels: %s", hello.device, ready.kernel_fallback)
    for folder in library.unused:
        log.warning("%s was compiled for another model than these", folder)
    costs = CostModel(ready.numerics_strict, costs_file(hello))
    pipe.send(ready)
    pipe.send(costs.message)
    loop = Loop(models, hello.max_rows, pipe.send, costs=costs, numerics=ready.numerics)
    del models  # the loop's: one that is replaced shall go
    loader = Loader(loading, pipe.put)
    while True:
        for command in pipe.commands(wait=not loop.busy):
            obey(command, loop, loader)
        loop.tick()


def obey(command: Command | Swap, loop: Loop, loader: Loader) -> None:
    """A command of the parent, or the end of a loading."""
    if isinstance(command, Swap):
        loop.swap(command)
        gc.collect()  # modules hold each other
        give_back()
    elif isinstance(command, Load):
        loader.start(command, loop.card(command.checkpoint.name))
    else:
        loop.take(command)
