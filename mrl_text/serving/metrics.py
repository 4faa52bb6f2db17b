"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (16, 64, 256, 1024, 2048, 4096, 8192, 16_384, 65_536)


class Metrics:
    """Counters of one server in a registry of their own, so that two servers in a process do not mix."""

    def __init__(self, queued_tokens: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("mrl_text_requests", "Answered requests.", ["path", "status"], registry=registry)
        about = "From the headers of a POST to its answer."
        self.seconds = Histogram("mrl_text_request_seconds", about, buckets=_SECONDS, registry=registry)
        about = "Longest wait of a text before its pass."
        self.wait_seconds = Histogram("mrl_text_wait_seconds", about, buckets=_SECONDS, registry=registry)
        self.batch_texts = Histogram("mrl_text_batch_texts", "Texts per pass.", buckets=_TEXTS, registry=registry)
        about = "Tokens per pass, padding included."
        self.batch_tokens = Histogram("mrl_text_batch_tokens", about, buckets=_TOKENS, registry=registry)
        self.tokens = Counter("mrl_text_tokens", "Tokens that the model read.", registry=registry)
        about = "Connections ended without a request: too late, or too many."
        self.ended_connections = Counter("mrl_text_ended_connections", about, registry=registry)
        self.cut_texts = Counter("mrl_text_cut_texts", "Texts longer than the model reads.", registry=registry)
        self.compute_seconds = Counter("mrl_text_compute_seconds", "Time in the model.", registry=registry)
        queue = Gauge("mrl_text_queued_tokens", "Tokens that wait.", registry=registry)
        queue.set_function(queued_tokens)
        ProcessCollector(registry=registry)

    def render(self) -> bytes:
        """The counters in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
