from __future__ import annotations

from pathlib import Path

import pytest

from unified_latents.service.engine.spawn import (
    EngineOptions,
    conditional_bitwise_reproducibility,
    environment,
)


def test_threads_are_pinned_and_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    said = environment(EngineOptions((), threads=2))
    assert (said["OMP_NUM_THREADS"], said["MKL_NUM_THREADS"]) == ("2", "2")
    assert said["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert environment(EngineOptions(()))["OMP_WAIT_POLICY"] == "active"


def test_an_engine_keeps_its_memory_unless_the_operator_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert {environment(EngineOptions(()))[name] for name in names} == {str(2**30)}
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    assert environment(EngineOptions(()))["MALLOC_TRIM_THRESHOLD_"] == "0"


@pytest.mark.parametrize(
    ("flags", "mode"),
    [("sse2 avx2 avx512f", "AVX512,STRICT"), ("sse2 avx2", "AVX2,STRICT"), ("neon", "COMPATIBLE")],
)
def test_reproducible_products_follow_the_processor(flags: str, mode: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"flags : {flags}")
    assert conditional_bitwise_reproducibility(file) == mode
    assert conditional_bitwise_reproducibility(tmp_path / "none") == "COMPATIBLE"
