"""A process of small agents, for benchmarks/fleet.py: each a torch loop of its own under `tars.attach`.

    python benchmarks/small_agents.py NOTES AGENT...

All loops take turns in one thread, TURNS_PER_SECOND times. What each learner applies is noted as it does it, at its own
door and not by its messages: a line `agent version learning_rate seconds` in NOTES, in the monotonic clock's seconds.
"""

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

import torch

import tars
from tars.agents.attach import Link
from tars.agents.host import Applied, Outcome, Reload

TURNS_PER_SECOND: Final = 40
VALUES: Final = {
    "learning_rate": 1e-3, "gamma": 0.99, "gae_lambda": 0.95, "num_steps": 8, "num_envs": 1, "ent_coef": 0.01,
    "vf_coef": 0.5, "max_grad_norm": 0.5,
}  # fmt: skip
"""What the code of an agent says: A2C's keys."""


class SmallAgent:
    """A linear policy that learns from drawn numbers; it adopts what TARS wants of it when it starts."""

    def __init__(self, agent_id: str, notes: TextIO) -> None:
        self._values, self._net = Namespace(**VALUES), torch.nn.Linear(4, 3)
        self._optimiser = torch.optim.RMSprop(self._net.parameters(), lr=self._values.learning_rate)
        self.link: Link = tars.attach(
            optimizer=self._optimiser, hyperparameters=self._values, algorithm="a2c", agent_id=agent_id, adopt=True
        )
        self._note(notes)

    def _note(self, notes: TextIO) -> None:
        learner: Any = self.link._learner  # noqa: SLF001 - measured at the learner's own door
        reload: Callable[[Reload, Callable[[Outcome], None]], None] = learner.reload

        def noted(change: Reload, done: Callable[[Outcome], None]) -> None:
            def applied(found: Outcome) -> None:
                if isinstance(found, Applied):
                    rate = self._optimiser.param_groups[0]["lr"]
                    notes.write(f"{self.link.agent_id} {change.version} {rate!r} {time.perf_counter()!r}\n")
                done(found)

            reload(change, applied)

        learner.reload = noted

    def turn(self) -> None:
        """An iteration: a gradient step."""
        values, out = self._values, self._net(torch.randn(8, 4))
        advantage = torch.randn(8) * values.gamma * values.gae_lambda
        policy: Any = torch.distributions.Categorical(logits=out[:, :2])  # untyped in torch
        loss: Any = -(policy.log_prob(policy.sample()) * advantage).mean() - values.ent_coef * policy.entropy().mean()
        loss = loss + values.vf_coef * (out[:, 2] ** 2).mean()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._net.parameters(), values.max_grad_norm)
        self._optimiser.step()
        self.link.step()


def main() -> None:
    """Learn until killed."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # what cannot be reached in these loops is known
    with Path(sys.argv[1]).open("a", buffering=1) as notes:
        agents = [SmallAgent(agent_id, notes) for agent_id in sys.argv[2:]]
        while True:
            began = time.perf_counter()
            for agent in agents:
                agent.turn()
            time.sleep(max(0.0, began + 1 / TURNS_PER_SECOND - time.perf_counter()))


if __name__ == "__main__":
    main()
