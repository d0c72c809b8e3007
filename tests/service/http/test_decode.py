"""POST /decode, around an engine in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from unified_latents.service.engine.fake import fake_card
from unified_latents.service.engine.messages import Array
from unified_latents.service.http.latents import write
from unified_latents.service.http.negotiation import LATENT

Ok = Callable[[Any], Any]
CheckProblem = Callable[..., dict[str, Any]]
Z = Array((1, 4, 2, 2), "float32", np.zeros(16, "<f4").tobytes())
SAMPLERS = "'ancestral', 'ddim' or 'dpmpp-2m'"


def test_decode_forms(client: TestClient, ok: Ok) -> None:
    latent = write(Z, "z_clean", fake_card())
    headers = {"content-type": LATENT}
    assert (
        client.post("/decode", content=latent, headers=headers).headers["content-type"]
        == "image/png"
    )
    webp = client.post("/decode?format=webp", content=latent, headers=headers)
    assert webp.headers["content-type"] == "image/webp"
    body = ok(
        client.post(
            "/decode?seed=2", content=latent, headers={**headers, "accept": "application/json"}
        )
    )
    receipt = body["data"][0]["receipt"]
    assert receipt["steps"] == {"decode": 4}
    assert receipt["guidance"] is receipt["label"] is None


@pytest.mark.parametrize(
    ("query", "field", "limit"),
    [("steps=0", "steps", 1), ("sampler=euler", "sampler", SAMPLERS),
     ("seed=-1", "seed", 0), ("sample=-1", "sample", 0),
     ("format=latents", "format", "'png', 'webp', 'jpeg', 'mp4', 'webm', 'gif' or 'apng'")],
)  # fmt: skip
def test_bad_decode_queries(
    client: TestClient, query: str, field: str, limit: object, check_problem: CheckProblem
) -> None:
    latent = write(Z, "z_0", fake_card())
    response = client.post(f"/decode?{query}", content=latent, headers={"content-type": LATENT})
    assert check_problem(response, 422, field)["limit"] == limit


def test_latents_of_another_space_conflict(client: TestClient, check_problem: CheckProblem) -> None:
    latent = write(Z, "z_0", fake_card("plain"))
    response = client.post("/decode", content=latent, headers={"content-type": LATENT})
    assert check_problem(response, 409, "latent_space")["limit"] == fake_card().latent_space
