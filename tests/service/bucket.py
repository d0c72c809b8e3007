"""A bucket of a server that speaks S3, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import httpx
import pytest

_NAME = "jobs"
_SIGNED = "AWS4-HMAC-SHA256 Credential=me/20260101/us-east-1/s3/aws4_request"
"""Enough of a signature to be taken for a call of S3's."""


class Bucket:
    """moto's server, with one bucket."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        found = None
        while found is None:
            line = self._process.stderr.readline()
            assert line, "the server ended"
            found = re.search(r"Running on (http://\S+)", line)
        self._http = httpx.Client(base_url=found[1], headers={"authorization": _SIGNED})
        self.environment = {
            "AWS_ENDPOINT": found[1],
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "mine",
        }

    def empty(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """The URL of the bucket, which holds nothing and can be reached from this process."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        self._http.post("/moto-api/reset").raise_for_status()
        self._http.put(f"/{_NAME}").raise_for_status()
        return f"s3://{_NAME}/service"

    def names(self) -> set[str]:
        """What lies in it, without the prefix."""
        answer = self._http.get(f"/{_NAME}", params={"list-type": "2"}).raise_for_status()
        keys = ElementTree.fromstring(answer.text).findall(".//{*}Key")
        return {(key.text or "").removeprefix("service/") for key in keys}

    def close(self) -> None:
        """Gone."""
        self._http.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
