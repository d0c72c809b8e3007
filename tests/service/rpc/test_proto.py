from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from google import rpc as google_rpc

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "service" / "rpc" / "proto"
BELOW = Path("unified_latents") / "service" / "rpc" / "proto"


def test_what_is_committed_is_what_the_contract_generates(tmp_path: Path) -> None:
    """As `make proto` does."""
    outs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    google, named = Path(*google_rpc.__path__).parent, tmp_path / "google" / "longrunning"
    named.mkdir(parents=True)
    shutil.copy(google / "longrunning" / "operations_proto.proto", named / "operations.proto")
    roots = ["-I.import", f"-I{tmp_path}", f"-I{google.parent}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *roots, *outs]
    subprocess.run([*command, f".import/{BELOW / 'ul.proto'}"], cwd=ROOT, check=True, timeout=120)
    made = {path.name: path.read_text() for path in (tmp_path / BELOW).iterdir()}
    assert made == {path.name: path.read_text() for path in SOURCE.glob("*_pb2*.py*")}
    assert set(made) == {"ul_pb2.py", "ul_pb2.pyi", "ul_pb2_grpc.py"}
