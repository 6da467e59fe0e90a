"""One update's whole life on a real server, with keys, evidence, agents that check for themselves, and the way back."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from identity_provider import IdentityProvider
from people import ADA, GRACE, PAGE, deliver, signed, soon, trusted
from played_studies import better_by, play, started
from reporting_fleet import Learner, ended
from story import CHANGE
from tars.agents.guard import Guard
from tars.agents.host import Applied, LiveAgent, Reload, last_run
from tars.agents.keeper import Keeper, Taken
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.export import collect, header, write_export
from tars.runtime.journal import History, Journal
from tars.runtime.provision import provision
from tars.runtime.settings import Settings
from tars.runtime.signing import Signs, TrustFile
from tars.schemas.message import By
from tars.schemas.study import StudyEvent, StudyFinished, StudyStarted
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RollBackUpdate, UpdateEvent, UpdateProposed, content_of
from tars.sync_worker.app import worker
from tars.sync_worker.lifecycle import Stage


class Remembering(Learner):
    """A learner that learns between reloads, and can go back to what it was."""

    learnt = 0

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        """Apply at once, and learn on."""
        before = self.version
        if reload.restore is not None:
            self.learnt = int(reload.restore)
        weights = f"{self.learnt:064x}"
        data = str(self.learnt).encode()
        taken = Taken(self.agent_id, 1, 1, before, data, before=reload.version) if reload.snapshot_first else None
        restored = weights if reload.restore is not None else None
        self.running, self.version = dict(reload.values), reload.version
        applied(Applied(reload, dict(reload.values), 1, weights, weights, 5, 5, 0.1, taken, restored))
        self.learnt += 1


async def study(bus: Bus) -> tuple[StudyStarted, StudyFinished]:
    """A study that weighed CHANGE, with every trial of it, in the streams."""
    begun = started(0, base={"a": 0, "b": 0}, candidates=(CHANGE,), by=By(principal="ada", signed=True), propose=False)
    finished, board = play(begun, better_by(0.2))
    journal, empty = Journal(bus), History[StudyEvent]("study", "s")
    await journal.append([begun], empty, cause="c-study")
    for number, trial in board.asked.items():
        await bus.publish(trial, id=f"{trial.key}.run", after=(f"tars.command.trial.*.*.{trial.key}", 0))
        await bus.publish(board.outcomes[number], id=f"{trial.key}.end")
    history: History[StudyEvent] = await journal.read("study", "s")
    await journal.append([finished], history, cause="c-study-end")
    return begun, finished


async def live_through(nats: str, folder: Path, *, back: bool = True, idp: IdentityProvider | None = None) -> None:
    """ADA proposes what her study found, GRACE approves, the agents switch; then ADA takes it back, whole.

    idp: where bo logs in, who then approves at the page instead of GRACE.
    """
    bus = await connect_bus(nats, "test", patience=5)
    await provision(bus.jetstream, ack_wait=2)
    trust = trusted(folder, ADA, GRACE, *((PAGE,) if idp else ()))
    settings = Settings(nats_url=nats, use_redis=False, ack_wait_seconds=2, tars_data=folder, four_eyes="on")
    if idp is not None:
        settings = settings.model_copy(update={"oidc_issuer": idp.issuer, "oidc_client_id": "tars"})
    keeper, tasks = Keeper(bus), [asyncio.create_task(worker(settings).serve(0))]
    for name in ("a", "b"):
        agent = LiveAgent(bus, Remembering(name, None), keeper, Guard(settings, trust))
        await agent.start(await last_run(bus, name))
        tasks.append(asyncio.create_task(agent.run()))
    token = idp.token("bo") if idp else ""
    await _decide(bus, idp.gateway(PAGE, token) if idp else GRACE, token, back=back)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await bus.close()


async def _decide(bus: Bus, approver: Signs, token: str, *, back: bool) -> None:
    _, finished = await study(bus)
    while not all([(await last_run(bus, name)).run_id for name in "ab"]):
        await asyncio.sleep(0.02)
    propose = ProposeUpdate(
        update_id="u", agents=("a", "b"), values=CHANGE, evidence=finished.evidence, study_id="s", reason="it is better"
    )
    assert (answer := await deliver(bus, signed(ADA, soon(propose), "c-propose"))).done, answer
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    proposed = history.events[0]
    assert isinstance(proposed, UpdateProposed)
    approve = ApproveUpdate(update_id="u", content=content_of(proposed).digest(), apply_until=proposed.expires_at)
    assert (answer := await deliver(bus, signed(approver, soon(approve), "c-approve"), token=token)).done, answer
    await ended(bus, Stage.CONFIRMED)
    if back:
        order = soon(RollBackUpdate(update_id="u", reason="second thoughts", what="all"))
        assert (answer := await deliver(bus, signed(ADA, order, "c-back"))).done, answer
        await ended(bus, Stage.ROLLED_BACK)


async def export(nats: str, folder: Path, file: Path, update_id: str | None = "u") -> None:
    """What `tars export` does, sealed by GRACE."""
    bus = await connect_bus(nats, "test", patience=5)
    trust = TrustFile(folder / "trust.toml").current()
    await write_export(file, header(update_id, trust), collect(bus, update_id), GRACE)
    await bus.close()
