"""An agent judges for itself who sends a configuration: also of a sync worker that was stolen, with all its rights."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from people import ADA, GRACE, MALLORY, PAGE, signed, soon, trusted
from story import VALUES
from tars.agents.guard import Guard
from tars.agents.host import Applied, LiveAgent, Reload, last_run
from tars.runtime.bus import Bus, connect_bus, fresh_id
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.runtime.signing import Gateway, Signer, Signs
from tars.schemas.agent import AgentEvent, AgentRefused, AgentReloaded, ConfigureAgent
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value
from tars.schemas.message import By, Login, Role, Signed
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.update import ApproveUpdate, Content, RejectUpdate

pytestmark = pytest.mark.anyio
CHANGE: dict[str, Value] = {"learning_rate": 1e-3}
EVIL: dict[str, Value] = {"learning_rate": 0.05}
THIEF = By(principal="grace", signed=True)
"""A stolen sync worker writes into By whatever it likes."""


class Learner:
    """A learner that applies at once."""

    world: str | None = None
    algorithm: AlgorithmName | None = "dqn"
    role, agent_id = "policy", "a"

    def __init__(self) -> None:
        self._values = dict(VALUES)

    def values(self) -> dict[str, Value]:
        return dict(self._values)

    def objections(self, values: Mapping[str, Value]) -> list[str]:
        return []

    def takes_effect(self, names: Sequence[str]) -> Moment:
        return "live"

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        self._values = dict(reload.values)
        applied(Applied(reload, dict(self._values), 1, "w", "w", 5, 5, 0.1))


class Stolen:
    """Somebody with the sync worker's rights on the bus, and an agent that they want to change."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.bus, self.settings = bus, settings
        self.learner = Learner()
        self.version = 0

    async def start(self) -> None:
        """Let the agent run."""
        self._own = await connect_bus(self.settings.nats, "agents", patience=5)
        agent = LiveAgent(self._own, self.learner, guard=Guard(self.settings))
        await agent.start(await last_run(self._own, "a"))
        self._running = asyncio.create_task(agent.run())

    async def stop(self) -> None:
        """End it without a word."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._own.close()

    async def restart(self, **changes: object) -> None:
        """End it, and let it run with other settings."""
        await self.stop()
        self.settings = self.settings.model_copy(update=changes)
        await self.start()

    def content(self, values: dict[str, Value] | None = None, **change: object) -> Content:
        """What somebody proposed."""
        fixed = Content(
            values=values or CHANGE, base={"a": self.version}, evidence=None, proposer="ada",
            expires_at=datetime.now(UTC) + timedelta(days=7),
        )  # fmt: skip
        return fixed.model_copy(update=change)

    def configuration(
        self, content: Content | None, approval: Signed | None, values: dict[str, Value] | None = None, **change: object
    ) -> ConfigureAgent:
        """A configuration of these values, with this for its proof."""
        command = ConfigureAgent(
            agent_id="a", update_id="u", purpose="update", base=self.version, by=THIEF, approval=approval,
            values={**self.learner.values(), **(CHANGE if values is None else values)},
            content=content.canonical().decode() if content else None,
        )  # fmt: skip
        return command.model_copy(update=change)

    async def send(self, command: ConfigureAgent) -> AgentReloaded | AgentRefused:
        """Store it, and wait for what the agent says of it."""
        self.version = await self.bus.publish(command, id=fresh_id("x"))
        async with asyncio.timeout(10):
            while True:
                history: History[AgentEvent] = await Journal(self.bus).read("agent", "a")
                for event in history.events:
                    if isinstance(event, AgentReloaded | AgentRefused) and event.version == self.version:
                        return event
                await asyncio.sleep(0.01)

    async def refused(self, command: ConfigureAgent, *words: str) -> None:
        """The agent refuses, says why in its history, and runs what it ran."""
        before = self.learner.values()
        answer = await self.send(command)
        assert isinstance(answer, AgentRefused), answer
        for part in words:
            assert part in "; ".join(answer.reasons)
        assert self.learner.values() == before

    async def ran(self, command: ConfigureAgent) -> None:
        """The agent takes it."""
        answer = await self.send(command)
        assert isinstance(answer, AgentReloaded), answer


def approval(content: Content, signer: Signs = GRACE, **change: object) -> Signed:
    """An approval of this content."""
    until = datetime.now(UTC) + timedelta(days=14)
    command = ApproveUpdate(update_id="u", content=content.digest(), apply_until=until)
    return signed(signer, soon(command).model_copy(update=change), "c1")


@pytest.fixture
async def stolen(bus: Bus, settings: Settings, tmp_path: Path) -> AsyncIterator[Stolen]:
    """An agent that trusts GRACE to approve."""
    trusted(tmp_path / "keys")
    found = Stolen(bus, settings.model_copy(update={"tars_data": tmp_path / "keys"}))
    await found.start()
    yield found
    await found.stop()


async def test_an_approved_change_is_taken(stolen: Stolen) -> None:
    content = stolen.content()
    await stolen.ran(stolen.configuration(content, approval(content)))
    assert stolen.learner.values()["learning_rate"] == CHANGE["learning_rate"]


async def test_values_that_nobody_approved_are_refused(stolen: Stolen) -> None:
    await stolen.refused(stolen.configuration(None, None, EVIL), "does not say what was approved")
    await stolen.refused(stolen.configuration(stolen.content(EVIL), None, EVIL), "APPROVAL_MODE is manual")


async def test_a_true_approval_carries_no_other_values(stolen: Stolen) -> None:
    content = stolen.content()
    await stolen.refused(stolen.configuration(content, approval(content), EVIL), "not approved: learning_rate")
    beside = {**CHANGE, "gamma": 0.5}
    content = stolen.content()
    await stolen.refused(stolen.configuration(content, approval(content), beside), "not approved: gamma")
    other = stolen.content(EVIL)
    await stolen.refused(stolen.configuration(other, approval(stolen.content()), EVIL), "approved another content")


async def test_a_forged_approval_is_refused(stolen: Stolen) -> None:
    content = stolen.content(EVIL)
    await stolen.refused(stolen.configuration(content, approval(content, MALLORY), EVIL), "nobody's in the trust file")
    content = stolen.content(EVIL)
    posing = approval(content, MALLORY).model_copy(update={"key": approval(content).key})
    await stolen.refused(stolen.configuration(content, posing, EVIL), "not grace's")


async def test_an_altered_approval_is_refused(stolen: Stolen) -> None:
    mine, theirs = stolen.content(EVIL), stolen.content()
    body = approval(theirs).body.replace(theirs.digest(), mine.digest())
    altered = approval(theirs).model_copy(update={"body": body})
    await stolen.refused(stolen.configuration(mine, altered, EVIL), "altered")


async def test_another_command_of_an_approver_s_is_no_approval(stolen: Stolen) -> None:
    content = stolen.content(EVIL)
    rejection = signed(GRACE, soon(RejectUpdate(update_id="u")), "c1")
    await stolen.refused(stolen.configuration(content, rejection, EVIL), "is no approval")
    elsewhere = approval(stolen.content(EVIL), update_id="u2")
    await stolen.refused(stolen.configuration(stolen.content(EVIL), elsewhere, EVIL), "another update: u2")


async def test_an_approval_by_who_may_only_propose_is_refused(stolen: Stolen) -> None:
    content = stolen.content(proposer="grace")
    await stolen.refused(stolen.configuration(content, approval(content, ADA)), "needs the role approver")


async def test_an_approval_is_over_at_its_time_by_the_server_s_clock(stolen: Stolen) -> None:
    content = stolen.content()
    over = approval(content, apply_until=datetime.now(UTC) - timedelta(seconds=1))
    await stolen.refused(stolen.configuration(content, over), "applying it until")
    content = stolen.content()
    never = approval(content, apply_until=None)
    await stolen.refused(stolen.configuration(content, never), "applying it until")


async def test_an_approval_is_good_once(stolen: Stolen) -> None:
    content = stolen.content()
    first = stolen.configuration(content, approval(content))
    await stolen.ran(first)
    again = first.model_copy(update={"base": stolen.version})
    await stolen.refused(again, "its base moved")


async def test_an_approval_is_good_once_more_when_the_watch_starts_anew_and_no_third_time(stolen: Stolen) -> None:
    content = stolen.content()
    there = stolen.configuration(content, approval(content))
    back = stolen.configuration(None, None, dict(VALUES), purpose="rollback")
    await stolen.ran(there)
    await stolen.ran(back)
    await stolen.ran(there)
    await stolen.ran(back)
    await stolen.refused(there, "its base moved")


async def test_an_approval_for_other_agents_is_refused(stolen: Stolen) -> None:
    content = stolen.content(base={"b": 0})
    await stolen.refused(stolen.configuration(content, approval(content)), "none of the agents it was approved for")


async def test_four_eyes_hold_at_the_agent_too(stolen: Stolen) -> None:
    trusted(stolen.settings.tars_data, MALLORY)  # a second approver: four eyes
    content = stolen.content(proposer="grace")
    await stolen.refused(stolen.configuration(content, approval(content)), "four eyes")
    content = stolen.content(proposer="grace")
    await stolen.ran(stolen.configuration(content, approval(content, MALLORY)))


async def test_an_approver_who_is_trusted_no_more_approves_no_more(stolen: Stolen) -> None:
    content = stolen.content()
    sent = approval(content)
    trusted(stolen.settings.tars_data / "new", MALLORY)
    (stolen.settings.tars_data / "new" / "trust.toml").replace(stolen.settings.trust)
    await stolen.refused(stolen.configuration(content, sent), "nobody's in the trust file")


async def test_going_back_leads_only_to_what_the_agent_has_run(stolen: Stolen) -> None:
    content = stolen.content()
    await stolen.ran(stolen.configuration(content, approval(content)))
    evil = stolen.configuration(None, None, EVIL, purpose="rollback")
    await stolen.refused(evil, "these it never ran")
    await stolen.ran(stolen.configuration(None, None, dict(VALUES), purpose="rollback"))
    assert stolen.learner.values() == VALUES


async def test_going_back_loads_no_foreign_weights(stolen: Stolen) -> None:
    content = stolen.content()
    await stolen.ran(stolen.configuration(content, approval(content)))
    foreign = SnapshotRef(name="a.r.5", agent_id="a", sha256="0" * 64, episode=5, step=5, version=1)
    back = stolen.configuration(None, None, dict(VALUES), purpose="rollback", restore=foreign)
    await stolen.refused(back, "never said that it took the snapshot")


async def test_after_a_restart_the_agent_judges_as_before(stolen: Stolen) -> None:
    content = stolen.content()
    first = stolen.configuration(content, approval(content))
    await stolen.ran(first)
    await stolen.restart()
    await stolen.refused(first.model_copy(update={"base": stolen.version}), "its base moved")
    await stolen.refused(stolen.configuration(None, None, EVIL, purpose="rollback"), "these it never ran")
    await stolen.ran(stolen.configuration(None, None, dict(VALUES), purpose="rollback"))


@pytest.mark.parametrize(
    ("mode", "evidence", "taken"),
    [("autonomous_all", None, True), ("autonomous_threshold", "0" * 64, True), ("autonomous_threshold", None, False)],
)
async def test_an_agent_in_an_autonomous_mode_needs_nobody_s_signature(
    stolen: Stolen, mode: str, evidence: str | None, taken: bool
) -> None:
    await stolen.restart(approval_mode=mode)
    answer = await stolen.send(stolen.configuration(stolen.content(evidence=evidence), None))
    assert isinstance(answer, AgentReloaded) is taken


async def test_without_a_trust_file_an_agent_takes_what_it_is_sent(stolen: Stolen, tmp_path: Path) -> None:
    await stolen.restart(tars_data=tmp_path / "none")
    await stolen.ran(stolen.configuration(None, None))


def speaking_for(subject: str, *roles: Role, page: Signer = PAGE) -> Gateway:
    """A page's key that says of somebody that they logged in; whether that is so, the sync worker has looked."""
    now = datetime.now(UTC)
    login = Login(
        issuer="https://idp.example.org", subject=subject, groups=("g",), roles=roles, issued_at=now,
        expires_at=now + timedelta(hours=1), token="0" * 64,
    )  # fmt: skip
    return Gateway(page, login, "not looked at here")


async def test_an_approval_of_who_logged_in_counts_by_its_gateway_s_key(stolen: Stolen) -> None:
    trusted(stolen.settings.tars_data, PAGE)
    content = stolen.content()
    await stolen.ran(stolen.configuration(content, approval(content, speaking_for("bo", "approver", "viewer"))))


async def test_a_gateway_that_this_agent_does_not_trust_speaks_for_nobody(stolen: Stolen) -> None:
    content = stolen.content(EVIL)
    sent = approval(content, speaking_for("bo", "approver"))
    await stolen.refused(stolen.configuration(content, sent, EVIL), "nobody's in the trust file")
    content = stolen.content(EVIL)
    posing = approval(content, speaking_for("bo", "approver", page=GRACE))
    await stolen.refused(stolen.configuration(content, posing, EVIL), "grace is no gateway")


async def test_who_logged_in_without_the_role_or_under_a_changed_name_approves_nothing(stolen: Stolen) -> None:
    trusted(stolen.settings.tars_data, PAGE)
    content = stolen.content(EVIL)
    viewer = approval(content, speaking_for("vic", "viewer"))
    await stolen.refused(stolen.configuration(content, viewer, EVIL), "needs the role approver")
    content = stolen.content(EVIL)
    viewer = approval(content, speaking_for("vic", "viewer"))
    raised = viewer.model_copy(update={"on_behalf": (viewer.on_behalf or "").replace('["viewer"]', '["approver"]')})
    await stolen.refused(stolen.configuration(content, raised, EVIL), "altered")
    content = stolen.content(EVIL)
    bare = viewer.model_copy(update={"on_behalf": None})
    await stolen.refused(stolen.configuration(content, bare, EVIL), "altered")
    content = stolen.content(EVIL)
    silent = approval(content, PAGE)
    await stolen.refused(stolen.configuration(content, silent, EVIL), "sent nobody's id token")


async def test_four_eyes_hold_at_the_agent_for_who_logged_in(stolen: Stolen) -> None:
    trusted(stolen.settings.tars_data, PAGE)  # people log in: four eyes
    content = stolen.content(proposer="https://idp.example.org#bo")
    own = approval(content, speaking_for("bo", "approver"))
    await stolen.refused(stolen.configuration(content, own), "four eyes: https://idp.example.org#bo proposed it")
    content = stolen.content(proposer="https://idp.example.org#ann")
    await stolen.ran(stolen.configuration(content, approval(content, speaking_for("bo", "approver"))))
