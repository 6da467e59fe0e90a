"""The page: how old is what people see, and what an open page costs.

Eight agents report an episode about once a second to a real NATS server; a consumers process folds them into Redis; a
Streamlit process serves the wall of agents to 20 sessions, which speak its websocket protocol. In a real Chromium
beside these, an observer notes when each agent's episode number appears in the page's text: age is that moment less the
one when the report was published. Processor time is that of the Streamlit process alone, without the browser's session.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
from selenium.webdriver.remote.webdriver import WebDriver

from chromium import HOW_TO_GET, find, opened
from page_sessions import Sessions
from report import Figure, arguments, percentile, show
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import start_nats, start_valkey
from tars.runtime.stack import answers, free_port
from tars.runtime.telemetry import start_telemetry
from tars.schemas.agent import AgentReported, AgentStarted
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES
from tars.schemas.message import By

SESSIONS: Final = 20
AGENTS: Final = tuple(f"{role}-{number}" for number in range(2) for role in GAME_ROLES)
HISTORY: Final = 300
"""Episodes that each agent has behind it: more than a card shows."""
WATCHED: Final = AGENTS[0]
CARD: Final = '[class*="st-key-card-"]'
OBSERVER: Final = """
window.seen = {};
const look = () => {
  for (const card of document.querySelectorAll('[class*="st-key-card-"]')) {
    const found = card.textContent.match(/episode ([0-9,]+)/);
    const name = [...card.classList].find(c => c.startsWith('st-key-card-')).slice(12);
    if (found) { const key = name + ' ' + found[1].replaceAll(',', ''); window.seen[key] ??= Date.now(); }
  }
};
new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
look();
"""
"""Notes when each number was first there, in milliseconds since 1970."""


class Reporting:
    """Agents that report, and when each report was published (seconds since 1970)."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.published: dict[str, list[tuple[int, float]]] = {name: [] for name in AGENTS}

    async def begin(self) -> None:
        """Let them start, with some history."""
        for place, name in enumerate(AGENTS):
            role = name.rpartition("-")[0]
            algorithm = GAME_ROLES[role]
            started = AgentStarted(
                agent_id=name, run_id="r-1", role=role, algorithm=algorithm, world=f"world-{place // 4}",
                values=dict(ALGORITHMS[algorithm].demo_start()), heard_version=0, applied_version=0,
            )  # fmt: skip
            await self._bus.publish(started, id=f"started-{name}", by=By(principal="bench"))
        for episode in range(HISTORY):
            for name in AGENTS:
                await self._report(name, episode)
        await self._bus.client.flush()

    async def go_on(self) -> None:
        """An episode of each about once a second, never all at once, until cancelled."""
        await asyncio.gather(*(self._live(name) for name in AGENTS))

    async def _live(self, name: str) -> None:
        dice, episode = random.Random(name), HISTORY  # noqa: S311 - repeatable
        while True:
            await asyncio.sleep(dice.uniform(0.7, 1.3))
            self.published[name].append((episode, time.time()))
            await self._report(name, episode)
            episode += 1

    async def _report(self, name: str, episode: int) -> None:
        score = 0.6 + 0.2 * random.random()  # noqa: S311 - a curve to look at
        report = AgentReported(agent_id=name, run_id="r-1", episode=episode, step=32 * episode, score=score, version=0)
        await self._bus.report(report)


@contextmanager
def serving(role: str, environment: dict[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """One process of the project, for the length of the block."""
    command = [sys.executable, "-m", "tars", "run", role, "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


async def until_it_answers(address: str) -> None:
    """Wait for a process's HTTP."""
    async with asyncio.timeout(60):
        while not await answers(address):
            await asyncio.sleep(0.1)


def ages(seen: dict[str, int], published: dict[str, list[tuple[int, float]]], since: float) -> list[float]:
    """Milliseconds from publishing a report to it, or a later one of its agent, being in the page."""
    found = []
    for name, reports in published.items():
        shown = sorted((int(key.rpartition(" ")[2]), at) for key, at in seen.items() if key.startswith(f"{name} "))
        for episode, at in reports:
            first = min((moment for number, moment in shown if number >= episode), default=None)
            if first is not None and at >= since:
                found.append(first - 1e3 * at)
    return found


async def look(driver: WebDriver, page: str, reporting: Reporting, seconds: float) -> list[float]:
    """Watch the page in a browser for so long; ages of all reports but the last second's."""
    await asyncio.to_thread(driver.get, page)
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(driver.execute_script, f"return document.querySelector({CARD!r})"):
            await asyncio.sleep(0.2)
    await asyncio.sleep(3)
    await asyncio.to_thread(driver.execute_script, OBSERVER)
    since = time.time() + 1
    await asyncio.sleep(seconds)
    return ages(await asyncio.to_thread(driver.execute_script, "return window.seen"), reporting.published, since)


async def idle(process: psutil.Process, sessions: Sessions, seconds: float) -> tuple[float, float]:
    """(percent of a core that the server takes, refreshes a second) of each session."""
    drawn, used, began = len(sessions.refreshed), sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    percent = 100 * (sum(process.cpu_times()[:2]) - used) / took
    return percent / SESSIONS, (len(sessions.refreshed) - drawn) / took / SESSIONS


async def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Both rows; without a Chromium only the second."""
    with ExitStack() as stack:
        nats, valkey = stack.enter_context(start_nats(folder / "n")), stack.enter_context(start_valkey(folder / "v"))
        bus = await connect_bus(nats.url, "bench", patience=5)
        await provision(bus.jetstream, ack_wait=30)
        reporting = Reporting(bus)
        await reporting.begin()
        environment = {"NATS_URL": nats.url, "REDIS_URL": valkey.url, "TARS_DATA": str(folder), "LOG_LEVEL": "ERROR"}
        consumers, page = free_port(0), free_port(0)
        stack.enter_context(serving("consumers", environment, consumers))
        await until_it_answers(f"http://127.0.0.1:{consumers}/ready")
        server = stack.enter_context(serving("dashboard", environment, page))
        address = f"http://127.0.0.1:{page}"
        await until_it_answers(f"{address}/_stcore/health")
        going = asyncio.create_task(reporting.go_on())
        try:
            return await _watched(address, psutil.Process(server.pid), reporting, quick=quick)
        finally:
            going.cancel()
            await bus.close()


async def _watched(address: str, server: psutil.Process, reporting: Reporting, *, quick: bool) -> list[Figure]:
    found, chromium, seconds = [], find(), 8.0 if quick else 60.0
    sessions = Sessions(address, SESSIONS)
    async with sessions.open():
        await asyncio.sleep(4 if quick else 10)
        if chromium is None:
            print(HOW_TO_GET, file=sys.stderr)
        else:
            with opened(chromium) as driver:
                took = await look(driver, address, reporting, seconds)
            note = f"median {percentile(took, 0.5):.0f}, longest {max(took):.0f}, of {len(took)} reports in Chromium"
            found.append(Figure("browser_age_p95_ms", percentile(took, 0.95), 1300, 700, note=note))
        percent, refreshes = await idle(server, sessions, seconds)
    if sessions.errors:
        raise RuntimeError(f"a page showed an exception: {sessions.errors[0]}")
    note = f"{SESSIONS} sessions, {refreshes:.2f} refreshes a second each; {server_memory(server):.0f} MB in all"
    return [*found, Figure("session_cpu_percent", percent, 3, 1.5, note=note)]


def server_memory(server: psutil.Process) -> float:
    """Resident megabytes."""
    return float(server.memory_info().rss) / 1e6


def main() -> None:
    """Measure, show, write."""
    options = arguments(__doc__ or "").parse_args()
    start_telemetry("bench", "ERROR")
    with tempfile.TemporaryDirectory(prefix="tars-bench-") as name:
        show("dashboard", asyncio.run(measure(Path(name), quick=options.quick)), options.json)


if __name__ == "__main__":
    main()
