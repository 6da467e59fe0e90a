"""Did the agents of this update run what was approved, and what they ran before it once it was taken back? Pure.

Checks as in audit.py: each answers with every fault, or in a sentence with what it found in order.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from tars.schemas.agent import AgentReloaded, AgentRestored, ConfigureAgent
from tars.schemas.audit import Case, NotCheckable, Told
from tars.schemas.counting import counted
from tars.schemas.hyperparameters import all_same
from tars.schemas.update import (
    ROLLOUT,
    ReadBack,
    UpdateConfirmed,
    UpdateEvent,
    UpdateJudged,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)
from tars.sync_worker.audit import agents_at
from tars.sync_worker.lifecycle import replay
from tars.sync_worker.reload import is_ours, read_back_of, rollback_command, update_command
from tars.sync_worker.stages import Conclude, Observe, Switch, canaries, next_step

WATCHED: Final = (UpdateReloaded, UpdateJudged, UpdateConfirmed, UpdateRollBackRequested)


def configurations(case: Case) -> list[str] | str:
    """Each agent was told to run what was approved, with the proof of it, over the version that it was made for."""
    sent = [(name, told) for name in case.proposal.base for told in _ours(case, name)]
    if not sent:
        raise NotCheckable("its agents were told nothing, or it is no longer kept: AGENTS holds the last 64 of each")
    faults = [f"{name} at version {told.sequence}: {text}" for name, told in sent for text in _wrong(case, name, told)]
    faults += [f"{name}: {text}" for name in case.proposal.base for text in _answers(case, name)]
    return faults or f"{len(sent)} configurations are what was approved, or what ran before"


def _ours(case: Case, agent_id: str) -> list[Told]:
    return [told for told in case.configurations(agent_id) if told.message.update_id == case.update_id]


def _wrong(case: Case, name: str, told: Told) -> Iterator[str]:
    """Why a configuration is not what this update may tell its agent."""
    command, proposed = told.message, case.proposal
    if not is_ours(told.id, case.update_id, name):
        yield f"its id {told.id} is another update's"
    if told.expected is not None and told.expected != command.base:
        yield f"it says that it follows version {command.base}, and was stored over version {told.expected}"
    started = [one for one in case.update if isinstance(one.message, UpdateStarted)]
    if not started or told.time < started[0].time:
        yield "it was sent before the rollout started"
    state = replay(case.events)
    if command.purpose == "update":
        begun = started[0].message if started else UpdateStarted(update_id=case.update_id, agents=())
        twin = 2 * begun.slots if begun.twins else 0
        yield from _unequal(command, update_command(proposed, name, command.base, state.approval, twin))
    else:
        yield from _unequal(command, rollback_command(proposed, name, command.base, command.by, command.restore))
        if command.by not in {ROLLOUT, *(e.by for e in case.events if isinstance(e, UpdateRollBackRequested))}:
            yield f"it goes back in the name of {command.by}, who did not ask for it"


def _unequal(command: ConfigureAgent, due: ConfigureAgent) -> Iterator[str]:
    """Where an agent was told something else than what was approved, or what it ran before."""
    fields = [name for name in ConfigureAgent.model_fields if getattr(command, name) != getattr(due, name)]
    if fields:
        yield f"not what is due: {', '.join(fields)}"


def _answers(case: Case, name: str) -> Iterator[str]:
    """What an agent says of this update's versions, and of no other's."""
    ours = {told.sequence for told in _ours(case, name)}
    kept = {told.sequence for told in case.configurations(name)}
    for told in case.of("agent", name):
        version, about = getattr(told.message, "version", 0), getattr(told.message, "update_id", None)
        if version and ((version in ours) != (about == case.update_id)) and (version in kept or not kept):
            yield f"{told.message.kind} ({told.id}) is about version {version}, which is not {about}'s"


def read_backs(case: Case) -> list[str] | str:
    """What the rollout read back is what the agents said, equals what they were told, and changed no weight."""
    found = [back for event in case.events if isinstance(event, UpdateReloaded) for back in event.read_backs]
    if not found:
        raise NotCheckable("no agent was reloaded")
    faults = [f"{back.agent_id} at version {back.version}: {text}" for back in found for text in _differs(case, back)]
    return faults or f"what was asked for runs on {counted(len(found), 'agent')}, as read back; no weight changed"


def _differs(case: Case, back: ReadBack) -> Iterator[str]:
    """How a read-back of the way out is not proven, or is not what was asked for."""
    yield from _unproven(case, back)
    if not back.equal:
        yield "what was read back is not what was asked for"
    if not back.weights_kept:
        yield "its weights changed during the reload"


def _unproven(case: Case, back: ReadBack) -> Iterator[str]:
    """How a read-back differs from the agent's own event, or from what the agent was told."""
    told, said = _configuration(case, back), _reloaded(case, back)
    if said is None:
        yield "the agent never said that it reloaded this version"
        return
    if read_back_of(said, told.message if told else _told_so(case, back)) != back:
        yield "it is not what the agent said, or not what the agent was told"
    if not all_same(said.requested, back.requested):
        yield "the agent was asked for something else than the rollout says"


def _told_so(case: Case, back: ReadBack) -> ConfigureAgent:
    """The configuration as the read-back has it, where it is no longer kept."""
    return ConfigureAgent(
        agent_id=back.agent_id, update_id=case.update_id, purpose="update", base=0, values=back.requested, by=ROLLOUT
    )


def _configuration(case: Case, back: ReadBack) -> Told | None:
    return next((told for told in case.configurations(back.agent_id) if told.sequence == back.version), None)


def _reloaded(case: Case, back: ReadBack) -> AgentReloaded | None:
    said = (told.message for told in case.of("agent", back.agent_id))
    return next((e for e in said if isinstance(e, AgentReloaded) and e.version == back.version), None)


def stages(case: Case) -> list[str] | str:
    """The agents switched in the order that the events before allow: canaries by lot, each stage after its verdict."""
    started = next((event for event in case.events if isinstance(event, UpdateStarted)), None)
    if started is None:
        raise NotCheckable("no rollout began")
    lot, faults = canaries(case.proposal.base), list[str]()
    if (started.agents, started.canary) != (tuple(sorted(case.proposal.base)), lot):
        faults.append(f"its canaries are {', '.join(started.canary)}: the lot says {', '.join(lot)}")
    steps = [told for told in case.update if isinstance(told.message, WATCHED)]
    faults += [f"{told.message.kind} ({told.id}): {why}" for told in steps if (why := _out_of_turn(case, told))]
    return faults or f"{', '.join(started.canary)} first; {_told(case.events)}"


def _told(events: Sequence[UpdateEvent]) -> str:
    verdicts = [f"{event.stage} {event.verdict}, {event.then}" for event in events if isinstance(event, UpdateJudged)]
    return "; ".join(verdicts) or "nothing was watched"


def _out_of_turn(case: Case, told: Told) -> str | None:
    """Why this is not the rollout's next step; agents may have finished up to it, some after they had read back."""
    if isinstance(told.message, UpdateRollBackRequested) and told.message.by != ROLLOUT:
        return None  # whoever asked for it may do so at any time
    before = [one.message for one in case.update if one.sequence < told.sequence]
    if not any(isinstance(event, UpdateStarted) for event in before):
        return "the rollout had not started"
    gone = {name for name, agent in agents_at(case, told.sequence).items() if agent.finished}
    stayed = {back.agent_id for back in told.message.read_backs} if isinstance(told.message, UpdateReloaded) else set()
    steps = [next_step(before, finished) for finished in (gone, gone - stayed, set())]
    return None if any(_is_step(told.message, step) for step in steps) else "it was not its turn"


def _is_step(event: UpdateEvent, step: Switch | Observe | Conclude) -> bool:
    match event, step:
        case UpdateReloaded(), Switch():
            same = (event.stage, event.attempt) == (step.stage, step.attempt)
            return same and {back.agent_id for back in event.read_backs} == set(step.agents)
        case UpdateJudged(), Observe():
            return event.stage == step.reloaded.stage and set(event.reloaded) <= set(step.agents)
        case UpdateRollBackRequested(), Conclude(UpdateRollBackRequested()):
            return event == step.event
        case UpdateRollBackRequested(), _:
            return True  # an agent failed, broke, was lost or runs something else: its reason says so
        case UpdateConfirmed(), Conclude():
            return event == step.event
        case _:
            return False


def way_back(case: Case) -> list[str] | str:
    """Once it was taken back, every agent runs what it ran before; where all went back, by the hash of its weights."""
    ended = next((event for event in reversed(case.events) if isinstance(event, UpdateRolledBack)), None)
    if ended is None:
        raise NotCheckable("it was not taken back")
    faults = [f"{back.agent_id}: {text}" for back in ended.read_backs for text in _not_back(case, back)]
    faults += [f"{name}: {text}" for name in ended.restored for text in _not_restored(case, ended, name)]
    told = {*(back.agent_id for back in ended.read_backs), *ended.unreached}
    switched = {b.agent_id for event in case.events if isinstance(event, UpdateReloaded) for b in event.read_backs}
    faults += [f"{name}: nothing says that it went back" for name in sorted(switched - told)]
    left = "".join(f"; {name} not: {why}" for name, why in ended.unreached.items())
    whole = f", {len(ended.restored)} of them with the weights of before, by their hash" if ended.restored else ""
    return faults or f"what ran before runs again on {counted(len(ended.read_backs), 'agent')}{whole}{left}"


def _not_back(case: Case, back: ReadBack) -> Iterator[str]:
    yield from _unproven(case, back)
    if not all_same(back.effective, case.proposal.before[back.agent_id]) and not back.equal:
        yield "it does not run what it ran before"
    if not all_same(back.requested, case.proposal.before[back.agent_id]):
        yield "it was not told to run what it ran before"


def _not_restored(case: Case, ended: UpdateRolledBack, name: str) -> Iterator[str]:
    """Where the chain of hashes breaks: weights before, the snapshot of them, the weights after loading it."""
    outs = [
        b for event in case.events if isinstance(event, UpdateReloaded) for b in event.read_backs if b.agent_id == name
    ]
    back = next((back for back in ended.read_backs if back.agent_id == name), None)
    if not outs or back is None:
        yield "it was never reloaded, or never read back on its way back"
        return
    out = outs[-1]
    said = (told.message for told in case.of("agent", name))
    restored = next((e for e in said if isinstance(e, AgentRestored) and e.version == back.version), None)
    told = _configuration(case, back)
    if restored is None:
        yield "it never said that it loaded the snapshot"
        return
    if not out.weights == restored.weights == back.weights:
        yield f"its weights were {out.weights}, after going back they are {restored.weights} and {back.weights}"
    asked = told.message.restore if told else restored.snapshot
    if not out.snapshot == restored.snapshot == asked:
        yield "it loaded another snapshot than was taken of it before the change"
