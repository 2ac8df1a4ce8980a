"""Limits on what one client may ask of a server that others use too: options of serve.py."""

from dataclasses import dataclass

from runtime.settings import positive, positive_int, setting


@dataclass(frozen=True)
class Limits:
    max_texts: int = setting(256, "most texts or pairs of a request", positive_int, metavar="N")
    max_bytes: int = setting(1_000_000, "most bytes of a request", positive_int, metavar="N")
    max_requests: int = setting(256, "most requests at once", positive_int, metavar="N")
    max_seconds: float = setting(30, "for a request to come, and then for its answer", positive, metavar="SECONDS")
