"""A hosted world: four agents that play the coordination game jointly and learn on-line, in a thread of their own.

Each role learns by its own algorithm, against what the other three do at the moment. The training thread is apart from
the event loop: a reload waits at most for the gradient step in progress.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

import torch

from tars.agents import checkpoint, training_thread
from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import RoleEnvironment, capacity
from tars.agents.game import ROLES, JointPlay, Role, coordination_game
from tars.agents.host import Applied, Reload
from tars.agents.joint_game import JointGame
from tars.agents.keeper import Taken, is_due
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, AlgorithmName, Moment, Value, Values

log = logging.getLogger(__name__)

EPISODES_PER_SECOND: Final = 2.0
"""Pace of a hosted world: its agents serve a process in real time; they are no benchmark of the machine."""
ASSESSED_EVERY: Final = 25
"""Episodes between two exact assessments of the joint play (a dynamic program of about 40 ms)."""
TWIN_SEED: Final = 0x7717
"""Added to a world's seed for its copies, whose chance is their own."""
ORDER: Final[tuple[Moment, ...]] = ("live", "boundary", "rebuild")


@dataclass(frozen=True)
class Start:
    """What one agent begins with."""

    values: Mapping[str, Value]
    """The whole set."""
    version: int = 0
    """The configuration that they are; 0: those in the code."""


@dataclass(frozen=True)
class Spell:
    """What one agent did in an episode."""

    agent_id: str
    step: int
    """Gradient steps done."""
    score: float
    """Behaviour score."""
    version: int
    """The configuration it ran."""
    finite: bool
    """None of its parameters is NaN or infinite."""
    twin: bool = False
    """It is the agent's copy that did so."""


@dataclass(frozen=True)
class Episode:
    """What a world tells of an episode."""

    number: int
    agents: tuple[Spell, ...]
    conflicts: dict[str, float]
    latency: float
    joint: JointPlay | None
    """Of the greedy policies, exactly: every ASSESSED_EVERY episodes."""


@dataclass
class Waiting:
    """A reload that the training thread has heard of, and what was done for it between two episodes."""

    player: "Player"
    reload: Reload
    applied: Callable[[Applied], None]
    heard_at: float = field(default_factory=time.perf_counter)
    taken: Taken | None = None
    restored: str | None = None
    twin: bool = False


class Player:
    """One agent of a world, as the host sees it."""

    def __init__(
        self, world_id: str, role: Role, start: Start, seed: int, inbox: "queue.SimpleQueue[Waiting | None]"
    ) -> None:
        self.agent_id, self.role, self.world = f"{role}-{world_id}", role, world_id
        self.algorithm: AlgorithmName = GAME_ROLES[role]
        lane = Lane(seed, dict(start.values))
        self.population: Population = ALGORITHMS[self.algorithm](RoleEnvironment(role), [lane])
        self.version, self._values, self._inbox = start.version, dict(start.values), inbox

    def values(self) -> dict[str, Value]:
        """Return the whole set in use, as last read back."""
        return dict(self._values)

    def takes_effect(self, names: Sequence[str]) -> Moment:
        """Say when a change of these keys is in use: the latest of them."""
        return max((self.population.takes_effect(name) for name in names), key=ORDER.index, default="live")

    def objections(self, values: Values) -> list[str]:  # noqa: ARG002 - the protocol's
        """Nothing beyond its algorithm's rules: every declared key of our own engine can be written."""
        return []

    def reload(self, reload: Reload, done: Callable[[Applied], None]) -> None:
        """Hand a reload to the training thread."""
        self._inbox.put(Waiting(self, reload, done))

    def changed(self, reload: Reload) -> list[str]:
        """What a reload changes."""
        return [
            name for name, value in reload.values.items() if name not in self._values or self._values[name] != value
        ]

    def taken(
        self, episodes: int, partners: Mapping[Role, torch.Tensor] | None = None, before: int | None = None
    ) -> Taken:
        """Copy the lane with its transitions, and with what all roles of its world do now."""
        data = checkpoint.dump(self.population, 0, transitions=True, partners=partners)
        return Taken(self.agent_id, episodes, self.population.gradient_steps(0), self.version, data, before)

    def restore(self, data: bytes) -> str | None:
        """Be again what was taken, between two episodes; the hash of the parameters, or None: it does not fit."""
        try:
            checkpoint.restore(self.population, 0, data)
        except checkpoint.BadSnapshot as error:
            log.warning("a snapshot does not fit", extra={"agent": self.agent_id, "error": str(error)})
            return None
        return self.population.weights_hash(0)

    def apply(self, waiting: Waiting, state: torch.Tensor | None) -> None:
        """Write what changes, let it come into use, and read every key back from where it is used.

        `state`: where an episode begins, for what changes there; None: in the middle of one.
        """
        learner, reload = self.population, waiting.reload
        weights_before, buffer_before = learner.weights_hash(0), learner.stored(0)
        for name in self.changed(reload):
            learner.write(0, name, reload.values[name])
        if state is not None:
            learner.begin(state)
        effective = {name: learner.read(0, name) for name in reload.values}
        self._values, self.version = dict(reload.values), reload.version
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
                taken=waiting.taken,
                restored=waiting.restored,
                twin=waiting.twin,
            )
        )


class World:
    """One world and its thread."""

    def __init__(
        self,
        world_id: str,
        starts: Mapping[Role, Start],
        *,
        seed: int,
        tell: Callable[[str, Episode], None],
        keep: Callable[[Taken], None] | None = None,
        pace: float | None = EPISODES_PER_SECOND,
    ) -> None:
        self.world_id = world_id
        self._inbox: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self.players = [
            Player(world_id, role, starts[role], seed * len(ROLES) + number, self._inbox)
            for number, role in enumerate(ROLES)
        ]
        for player in self.players:
            player.population.between = self._look
        self._game = JointGame()
        self._game.open([seed])
        self._tell, self._keep, self._pace = tell, keep, pace
        self._waiting: list[Waiting] = []
        self._twins: dict[str, World] = {}
        """Agent -> a copy of this world in which it goes on with the values it had before its last reload."""
        self._seed, self._episodes, self._until, self._warm_up = seed, 0, inf, 0
        self._stopping = False
        self.looks = 0
        """How often it looked for a reload: as often as one can take effect."""
        self._thread = threading.Thread(target=self._run, name=f"world-{world_id}", daemon=True)
        self.error: BaseException | None = None

    def go_on_at(self, episode: int) -> None:
        """Count episodes from here, before it starts: its agents go on from snapshots."""
        self._episodes = episode

    def warm_up(self, episodes: int) -> None:
        """Play so many as fast as it can, before it keeps its pace."""
        self._warm_up = episodes

    def start(self) -> None:
        """Begin to play and learn."""
        self._thread.start()

    def stop(self) -> None:
        """End at the next step."""
        self._stopping = True
        for twin in list(self._twins.values()):
            twin.stop()
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """The training thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        training_thread.prepare()
        try:
            while not self._stopping and self._episodes < self._until:
                began = time.perf_counter()
                self._play(self._episodes)
                self._episodes += 1
                self._take(self._episodes)
                self._rest(began)
        except BaseException as error:
            self.error = error
            log.exception("a world broke", extra={"world": self.world_id})

    def _play(self, number: int) -> None:
        waiting, self._waiting = self._waiting, []
        for reload in waiting:
            self._prepare(reload)
        state = self._game.begin()
        for player in self.players:
            player.population.begin(state)
        for reload in waiting:  # an episode's boundary: everything may change here
            reload.player.apply(reload, state)
            if reload.restored is not None:  # else a restart, or a fork, goes on from what was harmed
                self._hand_over(reload.player, self._greedy())
        going = True
        while going and not self._stopping:
            going = self._step()
        if not going:
            self._report(number)

    def _prepare(self, waiting: Waiting) -> None:
        """Between two episodes: remember what the agent is, set its twin going, return it to what it was."""
        player, reload = waiting.player, waiting.reload
        if reload.snapshot_first:
            waiting.taken = player.taken(self._episodes, self._greedy(), before=reload.version)
        self._end_twin(player)
        if reload.twin:
            self._twins[player.agent_id] = self._twin(player, reload.twin)
            waiting.twin = True
        if reload.restore is not None:
            waiting.restored = player.restore(reload.restore)

    def _end_twin(self, player: Player) -> None:
        """What the agent ran before its next reload is of no use to compare with."""
        if (twin := self._twins.pop(player.agent_id, None)) is not None:
            twin.stop()

    def _twin(self, player: Player, episodes: int) -> "World":
        """Let a copy of this world go on from here with chance of its own; it reports for this agent alone."""
        starts = {other.role: Start(other.values(), other.version) for other in self.players}

        def tell(_: str, episode: Episode) -> None:
            spell = next(spell for spell in episode.agents if spell.agent_id == player.agent_id)
            alone = replace(spell, twin=True)
            self._tell(self.world_id, replace(episode, agents=(alone,), joint=None))

        twin = World(self.world_id, starts, seed=self._seed + TWIN_SEED + self._episodes, tell=tell, pace=self._pace)
        for copy, other in zip(twin.players, self.players, strict=True):
            copy.restore(checkpoint.dump(other.population, 0, transitions=True))
        twin.go_on_at(self._episodes)
        twin._until = self._episodes + episodes
        twin.start()
        return twin

    def _step(self) -> bool:
        """One joint step; every agent learns from what all did."""
        with torch.no_grad():
            transitions = self._game.step({player.role: player.population.act() for player in self.players})
        going = [player.population.receive(transitions[player.role]) for player in self.players]
        self._look()
        return all(going)

    def _rest(self, began: float) -> None:
        """Wait for the next episode's turn; a reload that comes meanwhile is applied at once, or begins the episode."""
        while self._pace and self._episodes >= self._warm_up and not self._stopping and not self._waiting:
            left = began + 1 / self._pace - time.perf_counter()
            if left <= 0:
                return
            self._look(wait=left)

    def _look(self, wait: float = 0.0) -> None:
        """Apply a reload that has come, here between two gradient steps; or keep it for the episode's boundary."""
        self.looks += 1
        try:
            waiting = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
        except queue.Empty:
            return
        if waiting is None:
            return
        player = waiting.player
        if self._waits_for_boundary(waiting):
            self._waiting.append(waiting)
            return
        self._end_twin(player)
        if waiting.reload.snapshot_first:  # in the middle of an episode: parameters and optimisers are what counts
            waiting.taken = player.taken(self._episodes, self._greedy(), before=waiting.reload.version)
        player.apply(waiting, None)

    def _waits_for_boundary(self, waiting: Waiting) -> bool:
        player, reload = waiting.player, waiting.reload
        behind = any(other.player is player for other in self._waiting)  # in their order, and all keys of one together
        whole = reload.restore is not None or reload.twin > 0  # between two episodes only
        return behind or whole or player.takes_effect(player.changed(reload)) != "live"

    def _report(self, number: int) -> None:
        played = self._game.played()
        spells = tuple(
            Spell(
                player.agent_id,
                player.population.gradient_steps(0),
                played.scores[player.role],
                player.version,
                bool(player.population.finite()[0]),
            )
            for player in self.players
        )
        joint = self._assess() if (number + 1) % ASSESSED_EVERY == 0 else None
        self._tell(self.world_id, Episode(number, spells, played.conflicts, played.latency, joint))

    def _take(self, episodes: int) -> None:
        """Hand over a copy of every agent now and then; a reload waits for the copy of one at most."""
        if self._keep is None or self._stopping or not is_due(episodes):
            return
        partners = self._greedy()
        for player in self.players:
            self._look()
            self._hand_over(player, partners)

    def _hand_over(self, player: Player, partners: Mapping[Role, torch.Tensor]) -> None:
        """Hand over a copy of an agent.

        A diverged one is left out: nobody can go on from it, and it would push the last sound ones out of the store.
        """
        if self._keep is not None and bool(player.population.finite()[0]):
            self._keep(player.taken(self._episodes, partners))

    def _assess(self) -> JointPlay:
        """Value, gains and conflicts of the four greedy policies together."""
        game = coordination_game()
        return game.assess(game.joint(self._greedy()))

    @torch.no_grad()
    def _greedy(self) -> dict[Role, torch.Tensor]:
        """What each role does in every state [S] when it does not explore: its action, of resource the capacity."""
        actions = dict[Role, torch.Tensor]()
        for player in self.players:
            environment = player.population.environment
            assert isinstance(environment, RoleEnvironment)  # noqa: S101 - made so above
            chosen = player.population.greedy(environment.every_state())[0]
            actions[player.role] = capacity(chosen).nan_to_num(0.0) if player.role == "resource" else chosen
        return actions


def starts() -> dict[Role, Start]:
    """What the agents of a new world begin with: SB3's values where a study of the game searches, else the game's."""
    return {role: Start(DECLARED[GAME_ROLES[role]].demo_start()) for role in ROLES}
