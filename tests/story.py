"""given(events).when(command).then(events): a test in the words of the domain."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import pytest

from tars.schemas.errors import Refused
from tars.schemas.evidence import Evidence, PairedScore, Start, Verdict
from tars.schemas.hyperparameters import DQN, Value
from tars.schemas.message import By
from tars.schemas.running import RunningAgent
from tars.schemas.update import UpdateCommand, UpdateEvent
from tars.sync_worker.lifecycle import Facts, decide, replay

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ADA, BOB = By(principal="ada"), By(principal="bob")
VALUES: dict[str, Value] = dict(DQN.demo_start())
CHANGE: dict[str, Value] = {"learning_rate": 1e-3}


def agent(agent_id: str, *, heard: int = 0, **changes: Value) -> RunningAgent:
    """A live DQN agent that runs the demo's values, but for some."""
    return RunningAgent(
        agent_id=agent_id,
        run_id="r",
        role="policy",
        algorithm="dqn",
        alive=True,
        heard=heard,
        values={**VALUES, **changes},
    )


AGENTS = {name: agent(name) for name in ("a", "b")}


def evidence(
    verdict: Verdict, gain: float = 0.2, training: Literal["real", "surrogate"] = "real", start: Start = "scratch"
) -> Evidence:
    """Evidence for CHANGE; its trials train 50 episodes."""
    return Evidence(
        verdict=verdict, algorithm="dqn", environment="policy", start=start, training=training, code_version="t",
        train_episodes=50, eval_episodes=10, incumbent=VALUES, candidate={**VALUES, **CHANGE},
        scores=(PairedScore(seed=1, incumbent=0.1, candidate=0.3),), gain=gain, gain_low=0.1, gain_high=0.3,
        p_value=1e-6, threshold=0.03, look=2, search_gain=0.5,
    )  # fmt: skip


@dataclass(frozen=True)
class Story:
    """What happened, and what a decision is told."""

    history: tuple[UpdateEvent, ...]
    facts: Facts = field(default_factory=lambda: Facts(id="c", time=NOW, by=ADA, agents=AGENTS))
    command: UpdateCommand | None = None

    def where(self, **facts: object) -> "Story":
        """Change what the decision is told."""
        return replace(self, facts=replace(self.facts, **facts))  # type: ignore[arg-type] # names are checked by dataclass

    def when(self, command: UpdateCommand) -> "Story":
        """The command that comes."""
        return replace(self, command=command)

    def events(self) -> list[UpdateEvent]:
        """What is decided."""
        assert self.command is not None
        return decide(replay(self.history), self.command, self.facts)

    def then(self, *expected: UpdateEvent) -> None:
        """Exactly these events."""
        assert self.events() == list(expected)

    def then_kinds(self, *verbs: str) -> None:
        """Events of these kinds."""
        assert [event.kind.split(".")[1] for event in self.events()] == list(verbs)

    def then_refused(self, *parts: str) -> None:
        """One refusal that stands in the history, with these words."""
        (event,) = self.events()
        assert event.kind in {"update.refused.v1", "update.command-refused.v1"}
        text = "; ".join(getattr(event, "reasons", ()))
        for part in parts:
            assert part in text

    def then_answered(self, words: str) -> None:
        """An answer alone, which leaves no event."""
        with pytest.raises(Refused, match=words):
            self.events()


def given(*history: UpdateEvent) -> Story:
    """What happened before."""
    return Story(history)
