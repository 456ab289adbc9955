"""Subscribers to events: the log; `prometheus` has metrics and `tracing` traces, each an extra."""

from polysaga.telemetry.logs import LogSubscriber

__all__ = ["LogSubscriber"]
