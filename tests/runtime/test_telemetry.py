"""One trace from a command to what it led to in other processes, a link over a person's wait, and logs that name it."""

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from working import at_work

from examples import AGENT, RUNNING
from tars.agents.host import Applied, LiveAgent, Reload, last_run
from tars.automl_worker.app import worker as coordinator
from tars.producers.async_client import AsyncClient
from tars.runtime.bus import Bus
from tars.runtime.settings import Settings
from tars.runtime.telemetry import span
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value
from tars.schemas.study import StartStudy
from tars.schemas.trial import TrialCompleted
from tars.schemas.update import ApproveUpdate, ProposeUpdate
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio


class Learner:
    """A learner that applies in a thread of its own, as all do."""

    agent_id, role, world = AGENT, "policy", "0"
    algorithm: AlgorithmName | None = "dqn"

    def __init__(self) -> None:
        self._values = dict(RUNNING)

    def values(self) -> dict[str, Value]:
        return dict(self._values)

    def objections(self, values: Mapping[str, Value]) -> list[str]:
        return []

    def takes_effect(self, names: Sequence[str]) -> Moment:
        return "live"

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        self._values = dict(reload.values)
        done = Applied(reload, self.values(), 1, "w", "w", 5, 5, 0.1)
        threading.Thread(target=applied, args=(done,)).start()


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Keeps the spans of this process."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    found = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(found))
    return found


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[str], ReadableSpan]:
    """Find the newest span of a name."""
    exporter.clear()
    return lambda name: next(found for found in reversed(exporter.get_finished_spans()) if found.name == name)


def trace_of(found: ReadableSpan) -> int:
    assert found.context is not None
    return int(found.context.trace_id)


async def ended(exporter: InMemorySpanExporter, *names: str) -> None:
    async with asyncio.timeout(40):
        while not set(names) <= {found.name for found in exporter.get_finished_spans()}:
            await asyncio.sleep(0.05)


async def test_a_reload_is_in_the_trace_of_its_approval_which_is_linked_to_the_proposal(
    bus: Bus, settings: Settings, exporter: InMemorySpanExporter, spans: Callable[[str], ReadableSpan]
) -> None:
    later = ("run run-rollout", "hear a configuration", "reload", "say agent.reloaded.v1")
    agent = LiveAgent(bus, Learner())
    await agent.start(await last_run(bus, AGENT))
    speaking = asyncio.create_task(agent.run())
    async with at_work(sync(settings).serve(0)), AsyncClient.connect(settings.nats) as client:
        with span("a study"):
            await client.send(ProposeUpdate(update_id="u", agents=(AGENT,), values={"gamma": 0.95}))
        await client.send(ApproveUpdate(update_id="u"))  # somebody else, later
        await ended(exporter, *later)
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    proposal, approval = spans("handle update.propose.v1"), spans("handle update.approve.v1")
    assert trace_of(proposal) == trace_of(spans("a study"))
    assert trace_of(approval) == trace_of(spans("send update.approve.v1")) != trace_of(proposal)
    assert trace_of(proposal) in {link.context.trace_id for link in approval.links}
    assert {name: trace_of(spans(name)) for name in later} == dict.fromkeys(later, trace_of(approval))


@pytest.mark.slow
async def test_trials_are_in_the_trace_of_the_study_that_asked_for_them(
    bus: Bus, settings: Settings, spans: Callable[[str], ReadableSpan]
) -> None:
    from tars.automl_worker.trainer_app import worker as trainer  # noqa: PLC0415 - torch, for this test alone

    quick = settings.model_copy(update={"use_real_training": False})
    async with (
        at_work(coordinator(quick).serve(0), trainer(quick).serve(0)),
        AsyncClient.connect(settings.nats) as client,
    ):
        await client.send(StartStudy(study_id="s", algorithm="dqn", trials=2, quick=True))
        async with asyncio.timeout(30):
            while await bus.last("TRIALS", "tars.event.trial.completed.v1.s.*") is None:
                await asyncio.sleep(0.05)
        message = await bus.jetstream.get_last_msg("TRIALS", "tars.event.trial.completed.v1.s.*")
    study = spans("handle study.start.v1")
    assert trace_of(study) == trace_of(spans("send study.start.v1"))
    assert TrialCompleted.model_validate_json(message.data or b"").study_id == "s"
    assert (message.headers or {})["traceparent"].split("-")[1] == format(trace_of(study), "032x")


PROGRAM = """
import logging, time
from tars.runtime.telemetry import span, start_telemetry
start_telemetry("demo", version="1", collector={collector!r})
began = time.perf_counter()
for number in range(2000):
    with span("work"):
        pass
took = time.perf_counter() - began
with span("work"):
    logging.getLogger("tars.demo").info("counted\\ntwice", extra={{"took": took, "it": object}})
{then}
"""


def run(collector: str | None, then: str = "") -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(collector=collector, then=then)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def lines(done: "subprocess.CompletedProcess[str]") -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_off_a_terminal_each_log_call_is_one_json_line_that_names_its_trace() -> None:
    done = run(None, "logging.getLogger('urllib3').warning('from elsewhere'); 1 / 0")
    counted, elsewhere, last = lines(done)
    assert counted["event"] == "counted\ntwice"
    assert (counted["level"], counted["service"], counted["logger"]) == ("info", "demo", "tars.demo")
    assert [len(str(counted[name])) for name in ("trace_id", "span_id")] == [32, 16]
    assert elsewhere["event"] == "from elsewhere"
    assert "trace_id" not in elsewhere
    assert last["level"] == "critical"
    assert "ZeroDivisionError" in str(last["exception"])
    assert done.returncode == 1


def test_on_a_terminal_a_log_line_is_words() -> None:
    leader, follower = os.openpty()
    program = PROGRAM.format(collector=None, then="")
    done = subprocess.run([sys.executable, "-c", program], stderr=follower, check=True, timeout=60)
    os.close(follower)
    told = os.read(leader, 10_000).decode()
    os.close(leader)
    assert done.returncode == 0
    assert "info    counted" in told
    assert "took=" in told
    assert "{" not in told


@pytest.mark.slow
def test_a_collector_that_is_away_delays_no_work_and_is_told_of_once() -> None:
    """The end waits for it a little; the work does not."""
    began = time.monotonic()
    done = run("http://127.0.0.1:9")
    ended = time.monotonic() - began
    counted = next(line for line in lines(done) if line["event"] == "counted\ntwice")
    assert float(str(counted["took"])) < ended
    assert done.returncode == 0
    complaints = [line for line in lines(done) if str(line["logger"]).startswith("opentelemetry")]
    assert len(complaints) == len({line["event"] for line in complaints})


class Collector:
    """Takes what is exported, as an OTLP collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, str]] = []
        """Service, name, trace id."""
        collector = self

        class Door(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans += [(service, found.name, found.trace_id.hex()) for found in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_spans_reach_a_collector_with_the_name_of_their_service() -> None:
    with collecting() as collector:
        assert run(collector.url).returncode == 0
        assert ("demo", "work") in {(service, name) for service, name, _ in collector.spans}


def test_a_missing_exporter_is_said_in_one_line_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "tars", "run", "sync", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'tars-rl[tracing]'" in done.stderr


@pytest.mark.slow
async def test_a_trace_goes_from_the_sync_worker_to_a_live_agent_in_another_process(
    bus: Bus, settings: Settings
) -> None:
    with collecting() as collector:
        told = {"NATS_URL": settings.nats, "USE_REDIS": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        programs = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tars", "run", role, "--port", "0",
                env=os.environ | told | {"OTEL_BSP_SCHEDULE_DELAY": "200"}, stderr=subprocess.DEVNULL,
            )
            for role in ("sync", "agents")
        ]  # fmt: skip
        async with asyncio.timeout(60), AsyncClient.connect(settings.nats) as client:
            while await bus.last("EVENTS", "tars.event.agent.started.v1.policy-0") is None:
                await asyncio.sleep(0.1)
            await client.send(ProposeUpdate(update_id="u", agents=("policy-0",), values={"gamma": 0.95}))
            await client.send(ApproveUpdate(update_id="u"))
            while not any(name == "say agent.reloaded.v1" for _, name, _ in collector.spans):
                await asyncio.sleep(0.1)
        for program in programs:
            program.terminate()
            await program.wait()
        [approval] = [found for service, name, found in collector.spans if name == "handle update.approve.v1"]
        same = {(service, name) for service, name, found in collector.spans if found == approval}
    assert {("sync", "run run-rollout"), ("agents", "hear a configuration"), ("agents", "reload")} <= same
