"""What an agent lets nobody talk it into: it checks for itself that its new values were approved, whoever sends them.

Only where there is a trust file. The agent needs nothing from the sync worker but the bytes that the approver signed:
they name a content by its sha256, and the content names the values, the agents, and the version of each.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from tars.runtime.settings import Settings
from tars.runtime.signing import BadTrust, TrustFile, four_eyes, verify
from tars.schemas.agent import AgentEvent, AgentRefused, AgentReloaded, AgentStarted, ConfigureAgent
from tars.schemas.hyperparameters import Values, all_same, same
from tars.schemas.message import Signed
from tars.schemas.running import in_use
from tars.schemas.trust import Trust, lacking_right, sender_of
from tars.schemas.update import ApproveUpdate, Content

THERE_AND_BACK: Final = 2
NEVER_RUN: Final = "going back needs no approval, but only to values it has run, and these it never ran"


@dataclass(frozen=True)
class Standing:
    """Where an agent stands when a configuration comes."""

    heard: int
    """The newest version it had heard of."""
    values: Values
    """The whole set it runs."""
    at: datetime | None
    """When the server stored the configuration; None: not known."""


class Guard:
    """An agent's own judgement of who may change it, by its own settings and trust file."""

    def __init__(self, settings: Settings, trust: TrustFile | None = None) -> None:
        self._settings = settings
        self._trust = trust or TrustFile(settings.trust)

    def objections(self, command: ConfigureAgent, now: Standing, past: Sequence[AgentEvent]) -> list[str]:
        """Every reason why `command` was not approved; past: the agent's own events, where they are asked for."""
        try:
            trust = self._trust.current()
        except BadTrust as error:
            return [str(error)]
        if trust is None:
            return []
        if command.purpose == "rollback":
            return _unknown_past(command, past)
        content = _content_of(command)
        if isinstance(content, str):
            return [content]
        reasons = _unlike(command, content, now, past)
        if command.approval is not None:
            return reasons + self._unapproved(command.approval, command, content, trust, now)
        return reasons + self._unsigned(content)

    def asks_for_past(self, command: ConfigureAgent, now: Standing) -> bool:
        """Whether judging it takes the agent's own history."""
        content = _content_of(command)
        moved = isinstance(content, Content) and content.base.get(command.agent_id) != now.heard
        return command.purpose == "rollback" or moved

    def _unsigned(self, content: Content) -> list[str]:
        """What this agent accepts without a person's signature, by its own APPROVAL_MODE."""
        mode = self._settings.approval_mode
        if mode == "manual":
            return ["nobody signed an approval, and this agent's APPROVAL_MODE is manual"]
        if mode == "autonomous_threshold" and content.evidence is None:
            return ["nobody signed an approval, and it has no evidence: this agent's mode is autonomous_threshold"]
        return []

    def _unapproved(
        self, approval: Signed, command: ConfigureAgent, content: Content, trust: Trust, now: Standing
    ) -> list[str]:
        """Why the signed bytes are no approval of this content, by somebody who may give it, at this time."""
        key = verify(approval, trust)
        by = key if isinstance(key, str) else sender_of(approval, key)
        if isinstance(by, str):
            return [f"its approval does not count: {by}"]
        try:
            said = ApproveUpdate.model_validate_json(approval.body)
        except ValidationError:
            return [f"what {by.name} signed is no approval"]
        if approval.subject != said.subject or said.update_id != command.update_id:
            return [f"what {by.name} approved is another update: {said.update_id}"]
        reasons = [text] if (text := lacking_right(said, by)) else []
        if said.content != _digest(command):
            reasons.append(f"{by.name} approved another content: {said.content}")
        if said.apply_until is None or now.at is None or now.at > said.apply_until:
            until = f"{said.apply_until:%Y-%m-%d %H:%M} UTC" if said.apply_until else "no moment"
            reasons.append(f"{by.name}'s approval was for applying it until {until}")
        if four_eyes(self._settings, self._trust) and by.name == content.proposer:
            reasons.append(f"four eyes: {by.name} proposed it, and may not approve it")
        return reasons


def _content_of(command: ConfigureAgent) -> Content | str:
    if command.content is None:
        return "it does not say what was approved"
    try:
        return Content.model_validate_json(command.content)
    except ValidationError:
        return "what it says was approved cannot be read"


def _digest(command: ConfigureAgent) -> str:
    return hashlib.sha256((command.content or "").encode()).hexdigest()


def _unlike(command: ConfigureAgent, content: Content, now: Standing, past: Sequence[AgentEvent]) -> list[str]:
    """How the whole set differs from what runs, with the approved changes laid over; and whether the base moved."""
    reasons = []
    base = content.base.get(command.agent_id)
    if base is None:
        reasons.append(f"{command.agent_id} is none of the agents it was approved for")
    elif base != now.heard and not _starts_anew(command, base, past):
        reasons.append(f"its base moved: it was approved for version {base}, this agent is at {now.heard}")
    expected = {**now.values, **content.values}
    strange = [
        key
        for key in dict.fromkeys((*command.values, *content.values))
        if key not in command.values or key not in expected or not same(command.values[key], expected[key])
    ]
    if strange:
        reasons.append(f"these values were not approved: {', '.join(strange)}")
    return reasons


def _starts_anew(command: ConfigureAgent, base: int, past: Sequence[AgentEvent]) -> bool:
    """Whether all that came since the base is these values and the way back: a watch may start anew, once."""
    since = [event for event in past if isinstance(event, AgentReloaded | AgentRefused) and event.version > base]
    reloads = [event for event in since if isinstance(event, AgentReloaded) and event.update_id == command.update_id]
    return len(since) == len(reloads) == THERE_AND_BACK and all_same(reloads[0].requested, command.values)


def _unknown_past(command: ConfigureAgent, past: Iterable[AgentEvent]) -> list[str]:
    """Why a way back leads to where the agent never was."""
    events = list(past)
    ran = [event.values for event in events if isinstance(event, AgentStarted)]
    ran += [in_use(event) for event in events if isinstance(event, AgentReloaded)]
    reasons = [] if any(all_same(command.values, values) for values in ran) else [NEVER_RUN]
    taken = {event.snapshot.sha256 for event in events if isinstance(event, AgentReloaded) and event.snapshot}
    if command.restore is not None and command.restore.sha256 not in taken:
        reasons.append(f"it never said that it took the snapshot {command.restore.sha256}")
    return reasons
