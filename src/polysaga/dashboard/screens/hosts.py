"""Servers' addresses for people."""

from urllib.parse import urlsplit


def host(url: str) -> str:
    """Return the host of *url* for people, or the file of SQLite."""
    try:
        parts = urlsplit(url)
        name = parts.hostname or parts.path.rpartition("/")[2] or "in memory"
        return name if parts.port is None else f"{name}:{parts.port}"
    except ValueError:  # several hosts with ports
        return url.rpartition("@")[2].partition("/")[0] or url
