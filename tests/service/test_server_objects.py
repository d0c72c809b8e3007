"""The service with its objects in a bucket: a job from its request to its answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.bucket import Bucket
from tests.service.conftest import LiveServer
from unified_latents.service.client import Client


def test_a_job_and_its_engine_s_death_with_all_in_a_bucket(
    start_server: Callable[..., LiveServer],
    tiny: Path,
    tmp_path: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the interpreter ends in peace."""
    url = bucket.empty(monkeypatch)
    home = {"UL_HOME": str(tmp_path), "UL_OBJECTS": url, **bucket.environment}
    server = start_server("--model", f"tiny={tiny}", **home)
    server.wait_for(r"(ready): torch")
    with Client(server.url) as ul:
        [picture] = ul.generate("square", seed=1)
        latent = ul.encode(picture.data)
        asked = {"latent": latent.data, "seed": 2, "steps": 300}
        job = ul.submit("decode", asked, accept="application/json")
        while ul.job(job).done < 30:
            pass
        server.engine().kill()
        done = ul.wait(job, timeout=120)
        assert (done.state, done.attempts) == ("succeeded", 1)
        assert ul.result(job) == ul.decode(latent, seed=2, steps=300)
        whole = server.http.get(f"/jobs/{job.id}/result")
        part = server.http.get(f"/jobs/{job.id}/result", headers={"range": "bytes=5-20"})
        assert (part.status_code, part.content) == (206, whole.content[5:21])
        rooms = {name.partition("/")[0] for name in bucket.names()}
        assert rooms == {"answers", "done"}
        assert not (tmp_path / "objects").exists()
    assert server.stop() == 0
