from __future__ import annotations

import msgspec
from prometheus_client import generate_latest

from unified_latents.service.engine.fake import fake_card
from unified_latents.service.engine.messages import Ready
from unified_latents.service.engine.seam import Death, Status
from unified_latents.service.engine.telemetry import GraphCounts, Tick
from unified_latents.service.metrics import Metrics


def test_a_tick_is_counted_by_stage_and_kind() -> None:
    metrics = Metrics()
    metrics.on_tick(
        Tick(
            "base",
            3,
            3,
            2,
            0.01,
            {"high": (0.5,)},
            1,
            {"base": 7},
            {"base": {"high": 4, "normal": 0}},
            drain=1.5,
            preview_rows=3,
            out_of_memory={"split": 2},
            bisected={"culprit": 1},
            graphs=GraphCounts(replays=2, padding_rows=3, not_recordable=1),
        )
    )
    value = metrics.registry.get_sample_value
    stage = {"stage": "base"}
    assert value("ul_denoise_row_steps_total", {**stage, "kind": "conditional"}) == 3
    assert value("ul_denoise_row_steps_total", {**stage, "kind": "unconditional"}) == 2
    assert value("ul_denoise_row_steps_total", {**stage, "kind": "preview"}) == 3
    assert value("ul_batch_rows_sum", stage) == 8
    assert value("ul_oom_total", {**stage, "action": "split"}) == 2
    assert value("ul_bisect_total", {"outcome": "culprit"}) == 1
    assert value("ul_graph_replays_total", stage) == 2
    assert value("ul_denoise_row_steps_total", {**stage, "kind": "padding"}) == 3
    assert value("ul_graph_fallbacks_total", {**stage, "reason": "not_recordable"}) == 1
    assert value("ul_step_duration_seconds_count", {**stage, "bucket": "8"}) == 1
    assert value("ul_nonfinite_rows_total", stage) == 1
    assert value("ul_queue_wait_seconds_sum", {**stage, "priority": "high"}) == 0.5
    assert value("ul_queue_depth", {**stage, "priority": "high"}) == 4
    assert value("ul_queue_depth", {**stage, "priority": "normal"}) == 0
    assert value("ul_inflight_rows", stage) == 7


def test_padding_is_counted_where_nothing_is_replayed() -> None:
    metrics, graphs = Metrics(), GraphCounts(padding_rows=5)
    metrics.on_tick(Tick("base", 3, 3, 0, 0.01, {}, 0, {}, {}, drain=0.0, graphs=graphs))
    value = metrics.registry.get_sample_value
    assert value("ul_denoise_row_steps_total", {"stage": "base", "kind": "padding"}) == 5
    assert value("ul_graph_replays_total", {"stage": "base"}) is None


def test_passes_through_the_reference_on_a_gpu_are_counted() -> None:
    metrics, tick = Metrics(), Tick("decode", 1, 1, 0, 0.01, {}, 0, {}, {})
    ready = Ready(1, (), "triton 3.7.1", "s", "f", "2", "cuda")
    metrics.on_ready(ready)
    metrics.on_tick(tick)
    value = metrics.registry.get_sample_value
    labels = {"stage": "decode", "reason": "no_triton"}
    assert value("ul_kernel_fallbacks_total", labels) is None
    replaced = msgspec.structs.replace(ready, kernel_set="reference", kernel_fallback="no_triton")
    metrics.on_ready(replaced)
    metrics.on_tick(tick)
    metrics.on_tick(tick)
    assert value("ul_kernel_fallbacks_total", labels) == 2
    assert 'kernel_fallback="no_triton",kernel_set="reference"' in metrics.exposition().decode()


def test_ready_and_restart_show() -> None:
    metrics = Metrics()
    metrics.on_ready(Ready(1, (fake_card("m"),), "reference", "s", "f", "2", "cpu"))
    metrics.on_death(Death("hang", 3, 1, 2))
    metrics.follow(lambda: Status("ready", in_flight=1, step_age=2.5, drain=1.5))
    text = generate_latest(metrics.registry).decode()
    assert 'ul_canary_ok{model="m"} 1.0' in text
    assert 'ul_build_info{device="cpu"' in text
    assert 'ul_engine_restarts_total{reason="hang"} 1.0' in text
    assert "ul_engine_replays_total 3.0" in text
    assert "ul_engine_lost_total 1.0" in text
    assert "ul_engine_quarantined_total 2.0" in text
    assert "ul_last_step_age_seconds 2.5" in text
    assert "ul_drain_seconds 1.5" in text


def test_no_gauge_claims_work_that_is_gone() -> None:
    metrics, in_flight = Metrics(), 1
    metrics.follow(lambda: Status("ready", in_flight=in_flight))
    metrics.on_tick(
        Tick("base", 3, 3, 2, 0.01, {}, 1, {"base": 7}, {"base": {"high": 4}}, drain=1.5)
    )
    assert b'ul_inflight_rows{stage="base"} 7.0' in metrics.exposition()
    in_flight = 0
    text = metrics.exposition()
    assert b'ul_inflight_rows{stage="base"} 0.0' in text
    assert b'ul_queue_depth{priority="high",stage="base"} 0.0' in text
