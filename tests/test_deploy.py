"""The files of deploy/ say what the code says: ports, paths, users, variables."""

from __future__ import annotations

import inspect
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from unified_latents.service.__main__ import worker
from unified_latents.service.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PORT = Settings.model_fields["port"].default


def read(name: str) -> dict[str, Any]:
    """A YAML file of deploy/."""
    content = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def dockerfile() -> str:
    """The Dockerfile with its continued lines joined."""
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def environment() -> dict[str, str]:
    """The variables that the image sets."""
    lines = re.findall(r"^ENV (.*)$", dockerfile(), flags=re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def settings(**variables: str) -> Settings:
    """The settings that a container's UL_ variables and PORT give."""
    known = {name: value for name, value in variables.items() if name.startswith("UL_")}
    values = {name.removeprefix("UL_").lower(): value for name, value in known.items()}
    return Settings.model_validate({**values, "port": variables["PORT"]})


def worker_port() -> int:
    """Where a worker answers for itself if nobody says."""
    port = inspect.signature(worker).parameters["port"].default
    assert isinstance(port, int)
    return port


def test_jobs_have_one_store_and_a_worker() -> None:
    services = read("compose.yaml")["services"]
    urls = {services[name]["environment"]["REDIS_URL"] for name in ("ul", "worker")}
    assert urls == {"redis://redis:6379/0"}
    assert services["worker"]["command"] == ["worker"]
    assert services["worker"]["volumes"] == services["ul"]["volumes"]
    store = services["redis"]["command"]
    assert store[store.index("--maxmemory-policy") + 1] == "noeviction"
    assert store[store.index("--appendonly") + 1] == "yes"
    assert f"127.0.0.1:{worker_port()}/readyz" in str(services["worker"]["healthcheck"]["test"])


def test_prometheus_scrapes_the_service_of_the_compose_file() -> None:
    services = read("compose.yaml")["services"]
    (job,) = read("prometheus.yml")["scrape_configs"]
    targets = dict(target.split(":") for target in job["static_configs"][0]["targets"])
    assert targets == {"ul": str(PORT), "worker": str(worker_port())}
    assert set(targets) <= set(services)
    assert job["metrics_path"] == "/metrics"


def test_the_image_listens_where_the_compose_file_looks() -> None:
    (published,) = read("compose.yaml")["services"]["ul"]["ports"]
    address, outside, inside = published.split(":")
    assert address == "127.0.0.1"
    assert int(outside) == int(inside) == PORT == int(environment()["PORT"])
    assert f"EXPOSE {PORT}" in dockerfile()


def test_the_image_alone_refuses_and_the_compose_file_says_why_not() -> None:
    """Anonymous calls are allowed where the published port is this host's own."""
    image = environment()
    chosen = read("compose.yaml")["services"]["ul"]["environment"]
    assert not settings(**image).allowed_address
    assert settings(**image, **chosen).allowed_address


def test_containers_are_read_only_and_unprivileged() -> None:
    for service in read("compose.yaml")["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    assert re.search(r"^USER [1-9]\d*$", dockerfile(), flags=re.MULTILINE)


def test_state_lies_on_the_volume() -> None:
    home = environment()["UL_HOME"]
    volumes = read("compose.yaml")["services"]["ul"]["volumes"]
    assert [volume.split(":")[1] for volume in volumes] == [home]
    assert f"VOLUME {home}" in dockerfile()


def test_a_stop_waits_for_open_requests() -> None:
    wait = read("compose.yaml")["services"]["ul"]["stop_grace_period"].removesuffix("s")
    assert timedelta(seconds=int(wait)) > timedelta(seconds=Settings.model_fields["grace"].default)


def test_the_image_copies_what_the_package_is_made_of() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", dockerfile(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]
    assert copied == {package.split(".")[1] for package in packages}
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {f"!{folder}" for folder in copied} <= set(kept)
    assert "serve" in project["project"]["optional-dependencies"]
