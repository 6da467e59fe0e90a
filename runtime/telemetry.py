"""Logs with trace ids, and traces that go from process to process in the headers of messages.

Spans are made everywhere and cost about 30 us; they leave the process only where OTEL_EXPORTER_OTLP_ENDPOINT says so.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import time_ns
from types import TracebackType
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode

from tars.schemas.errors import TarsError

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
Headers = Mapping[str, str] | None

EXPORT_SECONDS: Final = 2
"""How long a collector may take: it delays nobody's work, only a process's end."""

SELDOM_SECONDS: Final = 600


class NoExporter(TarsError):
    """Spans are to be exported, and the packages for it are missing."""


def start_telemetry(service: str, level: str = "INFO", *, version: str = "", collector: str | None = None) -> None:
    """Set up logging and tracing of this process, once, at its start.

    On a terminal a log line is for people; elsewhere it is one JSON object. collector: where spans go by OTLP over
    HTTP; None: nowhere. Raises NoExporter.
    """
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        resource = Resource.create({"service.name": service, "service.namespace": "tars", "service.version": version})
        provider = TracerProvider(resource=resource)
        if collector is not None:
            provider.add_span_processor(_exporting(f"{collector.rstrip('/')}/v1/traces"))
        trace.set_tracer_provider(provider)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_SeldomFrom("opentelemetry."))  # a collector that is away would be told of with every batch
    handler.setFormatter(_Plain() if sys.stderr.isatty() else _Json(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)  # noqa: FBT003 - the library's signature
    for noisy in ("nats", "uvicorn", "faststream"):
        logging.getLogger(noisy).setLevel("WARNING")
    sys.excepthook = _log_the_end


def _exporting(endpoint: str) -> BatchSpanProcessor:
    """Collect spans and send them from a thread of its own: what it cannot send in time it drops."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra
            OTLPSpanExporter,
        )
    except ModuleNotFoundError as error:
        raise NoExporter(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and there is no {error.name}: pip install 'tars-rl[tracing]'"
        ) from error
    return BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_SECONDS))  # it reads OTEL_EXPORTER_OTLP_HEADERS


def _log_the_end(kind: type[BaseException], error: BaseException, tracing: TracebackType | None) -> None:
    """Log what ends this process, on one line like everything else."""
    logging.getLogger("tars").critical("ended by an error", exc_info=(kind, error, tracing))


class _SeldomFrom(logging.Filter):
    """Lets each message of some loggers through once in SELDOM_SECONDS."""

    def __init__(self, loggers: str) -> None:
        super().__init__()
        self._loggers = loggers
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._loggers):
            return True
        said = self._said.get(str(record.msg))
        if said is not None and record.created - said < SELDOM_SECONDS:
            return False
        self._said[str(record.msg)] = record.created
        return True


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
            "logger": record.name,
            "event": record.getMessage(),
            **extra_of(record),
        }
        if context.is_valid:
            line["trace_id"] = format(context.trace_id, "032x")
            line["span_id"] = format(context.span_id, "016x")
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
def sending(kind: str) -> Iterator[None]:
    """Send a command and wait for its answer inside a span: the beginning of a trace, where this process keeps any."""
    with trace.get_tracer("tars").start_as_current_span(f"send {kind}", kind=SpanKind.PRODUCER):
        yield


@contextmanager
def span(name: str, headers: Headers = None, *, beside: Sequence[Headers] = ()) -> Iterator[None]:
    """Work on a message inside a span that continues its sender's trace.

    name: with nothing in it that is different each time, as a collector groups by it. beside: headers of other messages
    that the same work is for; their spans are linked.
    """
    context = propagate.extract(dict(headers)) if headers else None
    links = [link for other in beside if (link := _link(other)) is not None]
    with trace.get_tracer("tars").start_as_current_span(name, context=context, kind=SpanKind.CONSUMER, links=links):
        yield


def link_to(traceparent: str | None) -> None:
    """Link the current span to what went before it in another trace: a person took their time in between."""
    link = _link({"traceparent": traceparent} if traceparent else None)
    current = trace.get_current_span()
    if link is not None and link.context.trace_id != current.get_span_context().trace_id:
        current.add_link(link.context)


@contextmanager
def elapsed_span(name: str, seconds: float) -> Iterator[None]:
    """Stand inside a span that began so many seconds ago, in the current trace, and ends with the block."""
    began = time_ns() - int(seconds * 1e9)
    found = trace.get_tracer("tars").start_span(name, start_time=began)
    with trace.use_span(found, end_on_exit=True):
        yield


def mark_span(outcome: str, error: BaseException | None) -> None:
    """Say on the current span what became of its work."""
    current = trace.get_current_span()
    current.set_attribute("tars.outcome", outcome)
    if error is not None:
        current.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:300])


def _link(headers: Headers) -> Link | None:
    if not headers:
        return None
    context = trace.get_current_span(propagate.extract(dict(headers))).get_span_context()
    return Link(context) if context.is_valid else None
