"""Subscribers to events: the log."""

from polysaga.telemetry.logs import LogSubscriber

__all__ = ["LogSubscriber"]
