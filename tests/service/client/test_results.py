from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.service.client.test_calls import view
from unified_latents.service.client.results import Job, Picture


def test_a_job_is_read() -> None:
    job = Job.of(view("succeeded", 4, answer={"media_type": "image/png"}))
    assert job.ended
    assert (job.media_type, job.created) == ("image/png", datetime(2026, 1, 1, tzinfo=UTC))


def test_a_picture_is_saved(tmp_path: Path) -> None:
    item = {"b64": "AAE=", "media_type": "image/png", "seed": 1, "receipt": {}}
    Picture.of(item).save(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == b"\0\1"
