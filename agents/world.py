"""A hosted world: four agents that play the coordination game; the one that learns does so in a thread of its own.

The policy agent learns on-line by DQN; the others follow their reference policies. The training thread is apart from
the event loop: a reload waits at most for the vector step in progress.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from tars.agents.algorithm import Lane
from tars.agents.dqn import DQN
from tars.agents.environments import RoleEnvironment
from tars.agents.game import ROLES, Role, coordination_game
from tars.agents.host import Applied, Learner, Reload
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value

LEARNER: Final[Role] = "policy"
EPISODES_PER_SECOND: Final = 4.0
"""Pace of a hosted world: its agents serve a process in real time; they are no benchmark of the machine."""
ASSESSED_EVERY: Final = 25
"""Episodes between two exact assessments of the joint play (a dynamic program of about 40 ms)."""
ORDER: Final[tuple[Moment, ...]] = ("live", "boundary", "rebuild")


@dataclass(frozen=True)
class Episode:
    """What a world tells of an episode."""

    number: int
    step: int
    """Gradient steps of the learning agent."""
    scores: dict[str, float]
    """Behaviour score of each role."""
    version: int
    """The configuration that the learning agent ran."""
    nash_conv: float | None
    """With gains and conflicts: every ASSESSED_EVERY episodes."""
    gains: dict[str, float]
    conflicts: dict[str, float]
    latency: float


@dataclass
class Waiting:
    """A reload that the training thread has heard of."""

    reload: Reload
    applied: Callable[[Applied], None]
    heard_at: float = field(default_factory=time.perf_counter)


class World:
    """One world and its thread."""

    def __init__(
        self,
        world_id: str,
        values: dict[str, Value],
        *,
        seed: int,
        version: int = 0,
        tell: Callable[[str, Episode], None],
        pace: float | None = EPISODES_PER_SECOND,
    ) -> None:
        self.world_id = world_id
        self.agents: list[Learner] = [self._agent(role) for role in ROLES]
        self._environment = RoleEnvironment(LEARNER)
        self._learner = DQN(self._environment, [Lane(seed, values)])
        self._values, self._version = dict(values), version
        self._tell, self._pace = tell, pace
        self._inbox: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._waiting: list[Waiting] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"world-{world_id}", daemon=True)
        self.error: BaseException | None = None

    def _agent(self, role: str) -> "PlayingAgent":
        return PlayingAgent(f"{role}-{self.world_id}", role, self)

    def start(self) -> None:
        """Begin to play and learn."""
        self._thread.start()

    def stop(self) -> None:
        """End at the next vector step."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """The training thread runs."""
        return self._thread.is_alive()

    def values(self) -> dict[str, Value]:
        """The learning agent's whole set, as last read back."""
        return dict(self._values)

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        """Hand a reload to the training thread."""
        self._inbox.put(Waiting(reload, applied))

    def _run(self) -> None:
        torch.set_flush_denormal(True)  # for each thread anew: Adam decays into denormal numbers
        torch.set_num_threads(1)
        try:
            number = 0
            while not self._stopping:
                began = time.perf_counter()
                self._play(number)
                number += 1
                self._rest(began)
        except BaseException as error:  # noqa: BLE001 - the host says why the agent ended
            self.error = error

    def _play(self, number: int) -> None:
        for waiting in self._waiting:  # an episode's boundary: everything may change here
            self._apply(waiting, at_boundary=True)
        if not self._waiting:
            self._learner.begin()
        self._waiting.clear()
        going = True
        while going and not self._stopping:
            going = self._learner.step()
            self._take_in()
        if not going:
            self._report(number)

    def _rest(self, began: float) -> None:
        """Wait for the next episode's turn; a reload that comes meanwhile is applied at once, or begins the episode."""
        while self._pace is not None and not self._stopping and not self._waiting:
            left = began + 1 / self._pace - time.perf_counter()
            if left <= 0:
                return
            self._take_in(wait=left)

    def _take_in(self, wait: float = 0.0) -> None:
        """Apply a reload that has come, here at a step boundary; or keep it for the episode's."""
        try:
            waiting = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
        except queue.Empty:
            return
        if waiting is None:
            return
        if self._waiting or self.takes_effect(self._changed(waiting.reload)) != "live":
            self._waiting.append(waiting)  # in their order, and all keys of one together
        else:
            self._apply(waiting)

    def _changed(self, reload: Reload) -> list[str]:
        return [name for name, value in reload.values.items() if self._values.get(name) != value]

    def _apply(self, waiting: Waiting, *, at_boundary: bool = False) -> None:
        """Write what changes, let it come into use, and read every key back from where it is used."""
        learner, reload = self._learner, waiting.reload
        weights_before, buffer_before = learner.weights_hash(0), learner.stored(0)
        for name in self._changed(reload):
            learner.write(0, name, reload.values[name])
        if at_boundary:
            learner.begin()
        effective = {name: learner.read(0, name) for name in reload.values}
        self._values, self._version = dict(reload.values), reload.version
        waiting.applied(
            Applied(
                reload=reload,
                effective=effective,
                step=learner.gradient_steps(0),
                weights_before=weights_before,
                weights_after=learner.weights_hash(0),
                buffer_before=buffer_before,
                buffer_after=learner.stored(0),
                milliseconds=(time.perf_counter() - waiting.heard_at) * 1000,
            )
        )

    def takes_effect(self, names: Sequence[str]) -> Moment:
        """The latest moment at which one of these keys is in use."""
        return max((self._learner.TAKES_EFFECT[name] for name in names), key=ORDER.index, default="live")

    def _report(self, number: int) -> None:
        played = self._environment.played(*self._learner.visited())
        scores = {f"{role}-{self.world_id}": score for role, score in played.scores.items()}
        nash_conv, gains = None, dict[str, float]()
        if (number + 1) % ASSESSED_EVERY == 0:
            game = coordination_game()
            greedy = self._learner.act(self._environment.every_state())[0]
            play = game.assess(game.joint({LEARNER: greedy}))
            nash_conv, gains = play.nash_conv, {str(role): gain for role, gain in play.gains.items()}
        steps = self._learner.gradient_steps(0)
        episode = Episode(number, steps, scores, self._version, nash_conv, gains, played.conflicts, played.latency)
        self._tell(self.world_id, episode)


class PlayingAgent:
    """One agent of a world, as the host sees it."""

    def __init__(self, agent_id: str, role: str, world: World) -> None:
        self.agent_id, self.role, self.world = agent_id, role, world.world_id
        self.algorithm: AlgorithmName | None = "dqn" if role == LEARNER else None
        self._world = world

    def values(self) -> dict[str, Value]:
        """Return the whole set in use; a reference policy has none."""
        return self._world.values() if self.algorithm else {}

    def takes_effect(self, names: Sequence[str]) -> Moment:
        """Say when a change of these keys is in use."""
        return self._world.takes_effect(names)

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        """Apply at the next boundary."""
        self._world.reload(reload, applied)
