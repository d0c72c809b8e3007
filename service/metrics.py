"""Every metric of the service, declared once. Base units; no label that a client can choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from unified_latents.service.engine.messages import Ready
from unified_latents.service.engine.seam import Death, Status
from unified_latents.service.engine.telemetry import PRIORITIES, StageName, Tick, bucket

_REQUEST_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5),
    *(1, 2, 5, 10, 30, 60, 120, 300),
)
_WAIT_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
_STEP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The instruments of one process, and an engine's observer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._status: Callable[[], Status] | None = None
        self._fallback: str | None = None
        self._declare_http()
        self._declare_passes()
        self._declare_faults()
        self._declare_deaths()
        self._declare_state()
        self._declare_jobs()

    def _declare_http(self) -> None:
        self.http_requests = Counter(
            "ul_http_requests_total", "Answers sent.", ["route", "code"], registry=self.registry
        )
        self.request_duration = Histogram(
            "ul_request_duration_seconds",
            "Time to answer; refused: one that may be asked again later.",
            ["route", "outcome"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.rejected = Counter(
            "ul_admission_rejected_total",
            "Requests refused before they were queued.",
            ["reason"],
            registry=self.registry,
        )
        self.cache = Counter(
            "ul_result_cache_total",
            "What became of results in the cache; one `off` is its end.",
            ["outcome"],
            registry=self.registry,
        )

        self.rpc_requests = Counter(
            "ul_grpc_requests_total", "Calls ended.", ["method", "code"], registry=self.registry
        )

    def _declare_passes(self) -> None:
        registry = self.registry
        self.queue_wait = Histogram(
            "ul_queue_wait_seconds",
            "Time from a request's arrival in the engine to its first step.",
            ["stage", "priority"],
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "ul_queue_depth",
            "Samples of requests that have not had their first step.",
            ["stage", "priority"],
            registry=registry,
        )
        self.inflight_rows = Gauge(
            "ul_inflight_rows", "Samples with steps to go.", ["stage"], registry=registry
        )
        self.batch_rows = Histogram(
            "ul_batch_rows", "Rows a pass.", ["stage"], buckets=_ROW_BUCKETS, registry=registry
        )
        self.step_duration = Histogram(
            "ul_step_duration_seconds",
            "Time of one pass and its step, by the power of two that holds its rows.",
            ["stage", "bucket"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.row_steps = Counter(
            "ul_denoise_row_steps_total",
            "Network evaluations of one row; padding: of none, in a CUDA graph of more rows.",
            ["stage", "kind"],
            registry=registry,
        )
        self.nonfinite = Counter(
            "ul_nonfinite_rows_total", "Rows that were not finite.", ["stage"], registry=registry
        )

    def _declare_faults(self) -> None:
        registry = self.registry
        self.oom = Counter(
            "ul_oom_total",
            "Passes that memory did not hold, by what was done: split, retry, failed.",
            ["stage", "action"],
            registry=registry,
        )
        self.kernel_fallbacks = Counter(
            "ul_kernel_fallbacks_total",
            "Passes on a GPU through the reference kernels: forced by UL_KERNELS, or no_triton.",
            ["stage", "reason"],
            registry=registry,
        )
        self.graph_replays = Counter(
            "ul_graph_replays_total",
            "Passes replayed as CUDA graphs.",
            ["stage"],
            registry=registry,
        )
        self.graph_fallbacks = Counter(
            "ul_graph_fallbacks_total",
            "Passes on CUDA launched kernel by kernel: not_recordable.",
            ["stage", "reason"],
            registry=registry,
        )
        self.bisect = Counter(
            "ul_bisect_total",
            "Batches that raised: recovered, or a culprit failed alone.",
            ["outcome"],
            registry=registry,
        )

    def _declare_deaths(self) -> None:
        registry = self.registry
        self.restarts = Counter(
            "ul_engine_restarts_total",
            "Engines started after one died.",
            ["reason"],
            registry=registry,
        )
        self.replays = Counter(
            "ul_engine_replays_total", "Requests sent again after a death.", registry=registry
        )
        self.lost = Counter(
            "ul_engine_lost_total",
            "Requests that ended with engine_lost: three engines died under them.",
            registry=registry,
        )
        self.quarantined = Counter(
            "ul_engine_quarantined_total",
            "Requests that were tried alone, because two engines had died under them.",
            registry=registry,
        )

    def _declare_state(self) -> None:
        registry = self.registry
        self.cancelled = Counter(
            "ul_cancelled_total", "Requests left by their client.", ["phase"], registry=registry
        )
        self.canary = Gauge(
            "ul_canary_ok", "1 where the recorded run was reproduced.", ["model"], registry=registry
        )
        self.step_age = Gauge(
            "ul_last_step_age_seconds",
            "Time since the last pass while there is work; 0 when idle.",
            registry=registry,
        )
        self.drain = Gauge(
            "ul_drain_seconds",
            "Forecast of the time until all that the engine has is done.",
            registry=registry,
        )
        self.build = Info("ul_build", "What is running.", registry=registry)

    def on_refusal(self, reason: str) -> None:
        """A request that was not admitted."""
        self.rejected.labels(reason).inc()

    def on_cache(self, outcome: str) -> None:
        """A result looked for in the cache, kept there, or gone from it."""
        self.cache.labels(outcome).inc()

    def _declare_jobs(self) -> None:
        registry = self.registry
        self.jobs = Gauge("ul_jobs", "Jobs that are kept.", ["state"], registry=registry)
        self.job_store_up = Gauge(
            "ul_job_store_up", "1 while the job store answers.", registry=registry
        )
        self.job_redeliveries = Counter(
            "ul_job_redeliveries_total",
            "Jobs that went back into the queue.",
            ["reason"],
            registry=registry,
        )
        self.jobs_quarantined = Counter(
            "ul_jobs_quarantined_total",
            "Jobs that failed for good.",
            ["reason"],
            registry=registry,
        )
        self.job_resumed_step = Histogram(
            "ul_job_resumed_step",
            "Sample steps that another attempt had done when a job was taken up again.",
            buckets=(0, 1, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=registry,
        )
        self.webhook_deliveries = Counter(
            "ul_webhook_deliveries_total",
            "Tries to tell a URL of a job's end.",
            ["outcome"],
            registry=registry,
        )
        self.lease_lost = Counter(
            "ul_lease_lost_total", "Jobs that a worker had to let go.", registry=registry
        )

    def follow(self, status: Callable[[], Status]) -> None:
        """Read what an engine's status knows from it whenever the metrics are read."""
        self._status = status
        self.step_age.set_function(lambda: status().step_age)
        self.drain.set_function(lambda: status().drain)

    def exposition(self) -> bytes:
        """All of them as text. With nothing in flight, no gauge keeps the last pass's word."""
        if self._status is not None and not self._status().in_flight:
            for stage in get_args(StageName):
                self.inflight_rows.labels(stage).set(0)
                for priority in PRIORITIES:
                    self.queue_depth.labels(stage, priority).set(0)
        return generate_latest(self.registry)

    def on_rpc(self, method: str, code: str, seconds: float) -> None:
        """A gRPC call that has ended, by the name of its status."""
        self.rpc_requests.labels(method, code).inc()
        outcomes = {"OK": "ok", "CANCELLED": "disconnected", "UNAVAILABLE": "refused"}
        self.request_duration.labels(f"grpc:{method}", outcomes.get(code, "error")).observe(seconds)

    def on_tick(self, tick: Tick) -> None:
        """One pass of the engine."""
        rows = tick.conditional_rows + tick.unconditional_rows + tick.preview_rows
        stage = tick.stage
        self.batch_rows.labels(stage).observe(rows)
        self.step_duration.labels(stage, str(bucket(rows))).observe(tick.seconds)
        self.row_steps.labels(stage, "conditional").inc(tick.conditional_rows)
        self.row_steps.labels(stage, "unconditional").inc(tick.unconditional_rows)
        self.row_steps.labels(stage, "preview").inc(tick.preview_rows)
        self.nonfinite.labels(stage).inc(tick.nonfinite)
        for priority, waits in tick.waited.items():
            for wait in waits:
                self.queue_wait.labels(stage, priority).observe(wait)
        for name, depths in tick.queued.items():
            for priority, depth in depths.items():
                self.queue_depth.labels(name, priority).set(depth)
        for name, samples in tick.inflight.items():
            self.inflight_rows.labels(name).set(samples)
        self._on_faults(tick)

    def _on_faults(self, tick: Tick) -> None:
        if self._fallback:
            self.kernel_fallbacks.labels(tick.stage, self._fallback).inc()
        graphs = tick.graphs
        if graphs.replays:
            self.graph_replays.labels(tick.stage).inc(graphs.replays)
        if graphs.padding_rows:
            self.row_steps.labels(tick.stage, "padding").inc(graphs.padding_rows)
        if graphs.not_recordable:
            self.graph_fallbacks.labels(tick.stage, "not_recordable").inc(graphs.not_recordable)
        for action, count in tick.out_of_memory.items():
            self.oom.labels(tick.stage, action).inc(count)
        for outcome, count in tick.bisected.items():
            self.bisect.labels(outcome).inc(count)

    def on_ready(self, ready: Ready) -> None:
        """An engine that has loaded its models."""
        self._fallback = ready.kernel_fallback
        for card in ready.models:
            self.canary.labels(card.name).set(card.canary.ok)
        self.build.info(
            {
                "torch": ready.torch,
                "device": ready.device,
                "kernel_set": ready.kernel_set,
                "kernel_fallback": ready.kernel_fallback or "",
                "numerics": ready.numerics_strict,
            }
        )

    def on_death(self, death: Death) -> None:
        """An engine that died and is being replaced."""
        self.restarts.labels(death.reason).inc()
        self.replays.inc(death.replayed)
        self.lost.inc(death.lost)
        self.quarantined.inc(death.quarantined)
