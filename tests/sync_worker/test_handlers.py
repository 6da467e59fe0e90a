"""Commands and champions through a real sync worker on a real server."""

import asyncio

import pytest
from working import at_work

from story import ADA, BOB, CHANGE, VALUES, evidence
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.schemas.agent import AgentReported, AgentStarted
from tars.schemas.evidence import Evidence, Verdict
from tars.schemas.message import Answer, By
from tars.schemas.study import StudyFinished, StudyStarted
from tars.schemas.update import (
    ApproveUpdate,
    ProposeUpdate,
    RejectUpdate,
    UpdateCommand,
    UpdateEvent,
    UpdateProposed,
)
from tars.sync_worker.app import worker
from tars.sync_worker.findings import update_id_of

pytestmark = pytest.mark.anyio
PROPOSE = ProposeUpdate(update_id="u", agents=("a",), values=CHANGE)
UNPROVEN = {
    "not better": evidence(Verdict.NOT_BETTER),
    "surrogate": evidence(Verdict.BETTER, training="surrogate"),
    "none": None,
}


@pytest.fixture
async def agent(bus: Bus) -> None:
    """A live agent, as its own event tells."""
    started = AgentStarted(
        agent_id="a", run_id="r", role="policy", algorithm="dqn", world=None, values=VALUES, heard_version=0,
        applied_version=0,
    )  # fmt: skip
    await bus.publish(started, id="a-started")


def report(*, episode: int, run_id: str = "r") -> AgentReported:
    return AgentReported(agent_id="a", run_id=run_id, episode=episode, step=1, score=0.5, version=0)


async def ask(bus: Bus, command: UpdateCommand, command_id: str, by: By = ADA) -> Answer:
    reply = f"tars.reply.test.{command_id}"
    replies = await bus.client.subscribe(reply)
    await bus.publish(command, id=command_id, by=by, reply=reply)
    return Answer.model_validate_json((await replies.next_msg(timeout=10)).data)


async def events_of(bus: Bus, update_id: str) -> tuple[UpdateEvent, ...]:
    history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
    return history.events


async def finish_study(bus: Bus, study_id: str, found: Evidence | None, *, target: bool = True) -> None:
    """Put a study that BOB started, and its end, into the ledger."""
    started = StudyStarted(
        study_id=study_id, by=BOB, algorithm="dqn", environment="policy", base={"a": 0} if target else {},
        incumbent=VALUES, searched=("learning_rate",), trials=1, quick=True, search_episodes=(1, 1),
        full_episodes=(1, 1), sampler="tpe", seed=0, structural=False, threshold=0.03,
    )  # fmt: skip
    champion = {**VALUES, **CHANGE}
    finished = StudyFinished(study_id=study_id, completed=1, failed=0, champion=champion, evidence=found)
    await Journal(bus).append([started, finished], History("study", study_id), cause=f"study-{study_id}")


async def nothing_waits(bus: Bus) -> None:
    """Wait until every study's end was considered."""
    async with asyncio.timeout(10):
        while True:
            info = await bus.jetstream.consumer_info("EVENTS", "propose-champion")
            if info.num_pending == 0 and info.num_ack_pending == 0:
                return
            await asyncio.sleep(0.02)


async def test_of_an_approval_and_a_rejection_at_once_one_is_done_and_one_refused(
    bus: Bus, settings: Settings, agent: None
) -> None:
    async with at_work(worker(settings).serve(0)), at_work(worker(settings).serve(0)):
        assert (await ask(bus, PROPOSE, "c1")).done
        answers = await asyncio.gather(
            ask(bus, ApproveUpdate(update_id="u"), "c2"), ask(bus, RejectUpdate(update_id="u"), "c3", BOB)
        )
    kinds = [event.kind for event in await events_of(bus, "u")]
    assert sorted(answer.done for answer in answers) == [False, True]
    assert kinds.count("update.approved.v1") + kinds.count("update.rejected.v1") == 1
    assert kinds.count("update.command-refused.v1") == 1


async def test_an_unknown_update_is_answered_and_leaves_no_history(bus: Bus, settings: Settings) -> None:
    async with at_work(worker(settings).serve(0)):
        answer = await ask(bus, ApproveUpdate(update_id="ghost"), "c1")
    assert answer.reasons == ("there is no update ghost",)
    assert await events_of(bus, "ghost") == ()


async def test_an_approval_that_finds_the_agent_moved_on_is_told_why(bus: Bus, settings: Settings, agent: None) -> None:
    async with at_work(worker(settings).serve(0)):
        await ask(bus, PROPOSE, "c1")
        moved = AgentStarted(
            agent_id="a", run_id="r2", role="policy", algorithm="dqn", world=None, values=VALUES, heard_version=7,
            applied_version=7,
        )  # fmt: skip
        await bus.publish(moved, id="a-moved")
        answer = await ask(bus, ApproveUpdate(update_id="u"), "c2")
    assert answer.reasons == ("a has moved on: it is at version 7, this was made for 0",)
    assert (await events_of(bus, "u"))[-1].kind == "update.superseded.v1"


async def test_a_sender_over_its_rate_is_told_so(bus: Bus, settings: Settings, agent: None) -> None:
    async with at_work(worker(settings.model_copy(update={"rate_limit_per_minute": 1})).serve(0)):
        assert (await ask(bus, PROPOSE, "c1")).done
        answer = await ask(bus, RejectUpdate(update_id="u"), "c2")
        assert (await ask(bus, RejectUpdate(update_id="u"), "c3", BOB)).done
        kinds = [event.kind for event in await events_of(bus, "u")]
    assert "ada sends more than 1 commands a minute" in answer.reasons[0]
    assert answer.retry_after is not None
    assert 0 < answer.retry_after <= 60
    assert kinds == ["update.proposed.v1", "update.rejected.v1"]  # one too many leaves no event


@pytest.mark.parametrize(
    ("mode", "verbs"),
    [
        ("manual", ["proposed"]),
        ("autonomous_threshold", ["proposed", "approved", "released"]),
        ("autonomous_all", ["proposed", "approved", "released"]),
    ],
)
async def test_a_champion_is_proposed_by_who_started_its_study(
    bus: Bus, settings: Settings, agent: None, mode: str, verbs: list[str]
) -> None:
    await finish_study(bus, "s", evidence(Verdict.BETTER))
    await bus.publish(report(episode=49), id="report")
    async with at_work(worker(settings.model_copy(update={"approval_mode": mode})).serve(0)):
        await nothing_waits(bus)
        events = await events_of(bus, "u-s")
    proposed = events[0]
    assert isinstance(proposed, UpdateProposed)
    assert (proposed.by, proposed.values, proposed.base, proposed.study_id) == (BOB, CHANGE, {"a": 0}, "s")
    assert [event.kind.split(".")[1] for event in events][: len(verbs)] == verbs
    assert len(events) >= len(verbs)
    assert (len(events) == 1) == (mode == "manual")


@pytest.mark.parametrize(
    ("episode", "run_id", "why"),
    [(50, "r", "a has run 51 episodes"), (3, "r-0", "nobody knows how many"), (None, "r", "nobody knows")],
)
async def test_a_champion_from_scratch_waits_for_a_person_where_its_agent_has_run_longer_than_a_trial(
    bus: Bus, settings: Settings, agent: None, episode: int | None, run_id: str, why: str
) -> None:
    if episode is not None:
        await bus.publish(report(episode=episode, run_id=run_id), id="report")
    else:
        await bus.jetstream.publish("tars.report.agent.reported.v1.a", b"{", stream="REPORTS")
    await finish_study(bus, "s", evidence(Verdict.BETTER))
    async with at_work(worker(settings.model_copy(update={"approval_mode": "autonomous_threshold"})).serve(0)):
        await nothing_waits(bus)
    (proposed,) = await events_of(bus, "u-s")
    assert isinstance(proposed, UpdateProposed)
    assert why in proposed.doubt


@pytest.mark.parametrize("study_id", ["s", None, "ghost"])
async def test_evidence_approves_itself_only_where_its_study_stands_in_the_ledger(
    bus: Bus, settings: Settings, agent: None, study_id: str | None
) -> None:
    """A script proposes with evidence of its own writing, or with a study's."""
    found = evidence(Verdict.BETTER)
    await bus.publish(report(episode=1), id="report")
    await finish_study(bus, "s", found)
    command = PROPOSE.model_copy(update={"evidence": found, "study_id": study_id})
    mode = {"approval_mode": "autonomous_threshold", "hyperparam_sync_enabled": False}
    async with at_work(worker(settings.model_copy(update=mode)).serve(0)):
        assert (await ask(bus, command, "c1")).done
        proposed, *others = await events_of(bus, "u")
    assert isinstance(proposed, UpdateProposed)
    assert (proposed.doubt == "", bool(others)) == (study_id == "s", study_id == "s")


async def test_nothing_is_proposed_without_proof_or_target_or_when_it_is_switched_off(
    bus: Bus, settings: Settings, agent: None
) -> None:
    for number, found in enumerate(UNPROVEN.values()):
        await finish_study(bus, f"s{number}", found)
    await finish_study(bus, "aimless", evidence(Verdict.BETTER), target=False)
    async with at_work(worker(settings.model_copy(update={"approval_mode": "autonomous_all"})).serve(0)):
        await nothing_waits(bus)
    await finish_study(bus, "off", evidence(Verdict.BETTER))
    async with at_work(worker(settings.model_copy(update={"hyperparam_sync_enabled": False})).serve(0)):
        await nothing_waits(bus)
    for study_id in ("s0", "s1", "s2", "aimless", "off"):
        assert await events_of(bus, f"u-{study_id}") == ()


def test_long_study_ids_that_differ_at_the_end_become_different_updates() -> None:
    one, other = update_id_of("s" * 63 + "1"), update_id_of("s" * 63 + "2")
    assert one != other
    assert len(one) == len(other) == 64
    assert update_id_of("s" * 62) == "u-" + "s" * 62
