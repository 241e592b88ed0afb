"""What the service counts, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one service, of which a process may have several.

    Attributes:
        requests: answered requests, by path and code.
        latency: seconds from the headers to the end of the answer, by path.
        batches: photographs that shared a call of the model.
        model: seconds of such calls.
        queued: photographs that wait for the model.
        active: requests that are being answered.
    """

    def __init__(self) -> None:
        """Starts all at zero."""
        of = self._registry = CollectorRegistry()
        self.requests = Counter("webmemory_requests", "Answered requests.", ["path", "code"], registry=of)
        self.latency = Histogram(
            "webmemory_request_seconds", "Seconds of a request.", ["path"], buckets=_SECS, registry=of
        )
        self.batches = Histogram("webmemory_batch_images", "Photographs of a call.", buckets=_IMAGES, registry=of)
        self.model = Histogram("webmemory_batch_seconds", "Seconds of a call of the model.", buckets=_SECS, registry=of)
        self.queued = Gauge("webmemory_queued_images", "Photographs that wait for the model.", registry=of)
        self.active = Gauge("webmemory_active_requests", "Requests that are being answered.", registry=of)

    def text(self) -> bytes:
        """Returns all of them."""
        return generate_latest(self._registry)
