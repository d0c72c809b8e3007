"""A model swapped under a running service, its engine a real one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unified_latents.service.keys import create

REQUEST = {"label": "circle", "seed": 1}


def test_a_checkpoint_is_swapped_and_a_damaged_one_is_not(
    start_server: Callable[..., Any], tiny: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for name, source in {"same": tiny, "broken": tiny, "other": tiny_autoencoder}.items():
        shutil.copytree(source, root / name)
    weights = next((root / "broken").glob("*.safetensors"))
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    secret, key = create("operator", ["admin", "generate"])
    server = start_server(
        *("--model", f"tiny={tiny}"),
        UL_HOME=str(tmp_path / "home"),
        UL_MODELS_ROOT=str(root),
        UL_API_KEYS=key.line(),
    )
    server.wait_for(r"(ready): torch")
    server.http.headers["authorization"] = f"Bearer {secret}"
    before = server.http.post("/generate", json=REQUEST).json()

    def reload(path: str, **more: Any) -> Any:
        return server.http.post("/admin/models/tiny/reload", json={"path": path, **more})

    assert reload("same").status_code == 200
    assert server.http.post("/generate", json=REQUEST).json() == before
    broken = reload("broken")
    assert (broken.status_code, broken.json()["code"]) == (409, "load_failed")
    assert weights.name in broken.json()["detail"]
    assert server.http.post("/generate", json=REQUEST).json() == before
    assert reload("other").json()["code"] == "latent_space_mismatch"
    other = reload("other", allow_new_space=True)
    assert (other.status_code, other.json()["kind"]) == (200, "autoencoder")
    assert server.http.post("/generate", json=REQUEST).json()["code"] == "no_base_model"
