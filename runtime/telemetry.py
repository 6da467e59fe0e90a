"""Logs with trace ids, and trace context in headers."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def start_telemetry(service: str, level: str = "INFO") -> None:
    """Set up logging and tracing of this process, once, at its start.

    On a terminal a log line is for people; elsewhere it is one JSON object.
    """
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider(resource=Resource.create({"service.name": service})))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain() if sys.stderr.isatty() else _Json(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("nats", "uvicorn", "faststream"):
        logging.getLogger(noisy).setLevel("WARNING")


def extra_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a log call passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        context = trace.get_current_span().get_span_context()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
            **extra_of(record),
        }
        if context.is_valid:
            line["trace_id"] = format(context.trace_id, "032x")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        facts = " ".join(f"{key}={value}" for key, value in extra_of(record).items())
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()}  {facts}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def trace_headers() -> dict[str, str]:
    """Return the W3C headers of the current span; empty outside any."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextmanager
def span(name: str, headers: Mapping[str, str] | None = None) -> Iterator[None]:
    """Work on a message inside a span that continues its sender's trace."""
    context = propagate.extract(dict(headers)) if headers else None
    with trace.get_tracer("tars").start_as_current_span(name, context=context, kind=SpanKind.CONSUMER):
        yield
