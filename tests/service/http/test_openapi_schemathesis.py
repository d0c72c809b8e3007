"""Requests made from the OpenAPI document, good and bad, against the application it describes: over
a connection, with an engine in memory and a job store of its own. `make fuzz` asks ten times more.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from unified_latents.service.engine.fake import FakeEngine, fake_card
from unified_latents.service.http.app import create_app
from unified_latents.service.http.batches.drive import JSONL
from unified_latents.service.http.bodies import BINARY, IMAGES
from unified_latents.service.http.calls import answer_of
from unified_latents.service.http.negotiation import LATENT
from unified_latents.service.jobs.runtime import Jobs
from unified_latents.service.keys import SCOPES, KeyRing, create
from unified_latents.service.metrics import Metrics
from unified_latents.service.settings import Settings

FUZZ = int(os.environ.get("FUZZ", "0"))
EXAMPLES = settings(
    max_examples=FUZZ or 20,
    derandomize=not FUZZ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck) if FUZZ else (),
)
SECRET, KEY = create("everything", SCOPES)
AUTHORIZATION = {"Authorization": f"Bearer {SECRET}"}


@schemathesis.serializer(*IMAGES, LATENT, BINARY, JSONL)
def binary(context: schemathesis.SerializationContext, value: Any) -> bytes | None:
    """Bytes go out as they were made."""
    made = getattr(value, "data", value)  # a string that stands for bytes
    return made if isinstance(made, bytes) else str(made).encode()


def application(home: Path | None = None) -> FastAPI:
    """All routes, for one key that may do everything; with a home, jobs and batches work."""
    engine, metrics = FakeEngine(fake_card(), fake_card("plain", "autoencoder")), Metrics()
    limits = {"max_body": 64 * 1024, "max_pixels": 10_000, "max_samples": 4}
    models = {"fake": str(home), "plain": str(home)}
    folders = {"home": home, "models_root": home, "models": models} if home else {}
    settings = Settings.model_validate(limits | folders)
    jobs = Jobs(settings, engine, metrics, answer_of) if home else None
    return create_app(settings, engine, metrics, KeyRing([KEY]), jobs)


class Served(NamedTuple):
    """Where the application answers, and what there is to ask it for, by name of a parameter."""

    url: str
    known: dict[str, list[str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = uvicorn.Config(application(tmp_path_factory.mktemp("home")), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", headers=AUTHORIZATION) as client:
            names = ["fake", "plain"]
            known = {"identity": _jobs(client), "name": names, "model": names}
        yield Served(f"http://{host}:{port}", known)
    finally:
        server.should_exit = True
        thread.join(60)


def _jobs(client: httpx.Client) -> list[str]:
    """A job that ends well, one that does not, and a batch of both."""
    good = {"kind": "generate", "request": {"label": 0, "seed": 1}}
    bad = {"kind": "decode", "request": {"latent": ""}}
    lines = b'{"kind": "generate", "request": {"label": 0}}\n{"kind": "none"}\n'
    made = [
        client.post("/jobs", json=good),
        client.post("/jobs", json={**good, "deadline": 1e-3}),
        client.post("/batches", content=lines, headers={"content-type": JSONL}),
    ]
    assert [each.status_code for each in made] == [202] * 3, [each.text for each in made]
    assert client.post("/jobs", json=bad).status_code == 422
    return [each.json()["id"] for each in made]


def aimed(case: schemathesis.Case[Any], known: dict[str, list[str]]) -> None:
    """Half of the paths that could be lead to something that there is."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    for name, there in known.items():
        drawn = case.path_parameters.get(name)
        choice = zlib.crc32(str(drawn).encode()) % (2 * len(there))
        if drawn is not None and choice < len(there):
            case.path_parameters[name] = there[choice]


@schemathesis.openapi.from_dict(application().openapi()).parametrize()
@EXAMPLES
def test_every_answer_is_one_that_the_document_promises(
    case: schemathesis.Case[Any], served: Served
) -> None:
    """No 5xx, and only documented statuses, types and bodies.

    That what fits the schema is accepted cannot be asked: no schema makes a PNG, a latent of the
    right space, or a label that this model has. Of a batch neither can the contrary: a line that is
    wrong fails alone.
    """
    aimed(case, served.known)
    unasked: list[Any] = [positive_data_acceptance]
    if case.operation.label == "POST /batches":
        unasked.append(negative_data_rejection)
    case.call_and_validate(served.url, headers=AUTHORIZATION, excluded_checks=unasked)
