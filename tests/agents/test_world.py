"""A world of four learners: each learns, is reloaded by itself, and does not pull the others down."""

import queue
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tars.agents.game import ROLES, Role
from tars.agents.host import Applied, Reload
from tars.agents.world import ASSESSED_EVERY, Episode, Player, Start, World, starts
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Moment, Value, same

SECONDS = 30.0
CHANGES: dict[Role, dict[Moment, dict[str, Value]]] = {
    "policy": {
        "live": {"learning_rate": 5e-4, "gamma": 0.9},
        "boundary": {"exploration_final_eps": 0.1, "batch_size": 32, "train_freq": 2},
        "rebuild": {"buffer_size": 1000},
    },
    "consensus": {
        "live": {"ent_coef": 0.02, "vf_coef": 0.4},
        "boundary": {"gae_lambda": 0.9, "gamma": 0.9},
        "rebuild": {"n_steps": 8},
    },
    "ethical": {
        "live": {"clip_range": 0.3, "target_kl": 0.05},
        "boundary": {"batch_size": 64, "n_epochs": 3},
        "rebuild": {"n_steps": 48},
    },
    "resource": {
        "live": {"actor_learning_rate": 1e-4, "tau": 0.05},
        "boundary": {"noise_sigma": 0.4, "gradient_steps": 2},
        "rebuild": {"buffer_size": 1000},
    },
}


class Hosted:
    """A world, and what it told."""

    def __init__(self, **values: Value) -> None:
        self.episodes: queue.Queue[Episode] = queue.Queue()
        begin = {role: Start(dict(DECLARED[GAME_ROLES[role]].game_defaults)) for role in ROLES}
        begin["consensus"] = Start({**begin["consensus"].values, **values})
        self.world = World("7", begin, seed=1, tell=lambda _, episode: self.episodes.put(episode), pace=None)
        self.world.start()

    def player(self, role: Role) -> Player:
        return next(player for player in self.world.players if player.role == role)

    def reload(self, role: Role, version: int, change: dict[str, Value]) -> Applied:
        """Ask for a change, and wait until it is in use."""
        player, done = self.player(role), queue.Queue[Applied]()
        player.reload(Reload(version, f"u{version}", {**player.values(), **change}), done.put)
        return done.get(timeout=SECONDS)

    def episode(self, wanted: Callable[[Episode], bool] = lambda _: True) -> Episode:
        while not wanted(found := self.episodes.get(timeout=SECONDS)):
            continue
        return found


def runs(version: int, episode: Episode) -> bool:
    return version in {spell.version for spell in episode.agents}


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    found = Hosted()
    yield found
    found.world.stop()
    assert found.world.error is None


@pytest.mark.parametrize("role", ROLES)
def test_a_reload_of_every_class_is_in_use_as_asked_and_keeps_weights_and_transitions(
    role: Role, hosted: Hosted
) -> None:
    hosted.episode()
    for version, (moment, change) in enumerate(CHANGES[role].items(), 1):
        player = hosted.player(role)
        assert player.takes_effect(list(change)) == moment
        applied = hosted.reload(role, version, change)
        assert all(same(applied.effective[name], value) for name, value in change.items())
        assert applied.effective.keys() == player.values().keys()
        assert applied.weights_before == applied.weights_after
        kept = 1000 if "buffer_size" in change else applied.buffer_before
        assert applied.buffer_after == min(applied.buffer_before, kept)
        told = hosted.episode(partial(runs, version))
        versions = {spell.agent_id: spell.version for spell in told.agents}
        assert versions.pop(f"{role}-7") == version
        assert set(versions.values()) == {0}


def test_all_four_roles_learn(hosted: Hosted) -> None:
    first = hosted.episode()
    later = hosted.episode(lambda episode: episode.number >= 3)
    for before, after in zip(first.agents, later.agents, strict=True):
        assert after.step > before.step
        assert after.finite
    assert [spell.agent_id for spell in later.agents] == [f"{role}-7" for role in ROLES]
    assert set(later.conflicts) == {"veto", "starved"}


@pytest.mark.slow
def test_the_joint_play_is_assessed_now_and_then_and_gets_better(hosted: Hosted) -> None:
    assessed = [hosted.episode(lambda episode: episode.joint is not None) for _ in range(2)]
    assert [episode.number for episode in assessed] == [ASSESSED_EVERY - 1, 2 * ASSESSED_EVERY - 1]
    first, second = (episode.joint for episode in assessed)
    assert first is not None
    assert second is not None
    assert second.nash_conv < first.nash_conv


def test_a_diverged_agent_is_told_from_its_parameters_and_spoils_no_other() -> None:
    hosted = Hosted(learning_rate=1e30)
    told = hosted.episode(lambda episode: episode.number >= 2)
    hosted.world.stop()
    assert hosted.world.error is None
    finite = {spell.agent_id: spell.finite for spell in told.agents}
    assert finite == {"policy-7": True, "consensus-7": False, "ethical-7": True, "resource-7": True}


def test_reloads_of_one_agent_are_applied_in_their_order(hosted: Hosted) -> None:
    player, done = hosted.player("policy"), queue.Queue[Applied]()
    whole = player.values()
    changes: list[dict[str, Value]] = [{"batch_size": 32}, {"gamma": 0.9}, {"buffer_size": 2000}, {"tau": 0.1}]
    for version, change in enumerate(changes, 1):
        whole = {**whole, **change}
        player.reload(Reload(version, "u", whole), done.put)
    assert [done.get(timeout=SECONDS).reload.version for _ in range(4)] == [1, 2, 3, 4]
    assert player.values() == whole


def test_a_paced_world_applies_a_reload_while_it_rests() -> None:
    begin = starts()
    world = World("8", begin, seed=1, tell=lambda *_: None, pace=0.05)
    world.start()
    time.sleep(1.0)  # its first episode is over, the next one is 19 seconds away
    done = queue.Queue[Applied]()
    player = world.players[0]
    player.reload(Reload(1, "u", {**player.values(), "learning_rate": 2e-4}), done.put)
    assert done.get(timeout=5).reload.version == 1
    world.stop()


def test_a_world_that_never_began_can_be_stopped() -> None:
    world = World("9", starts(), seed=1, tell=lambda *_: None)
    world.stop()
    assert not world.alive
