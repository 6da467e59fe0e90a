"""What a rollout asks of a hosted world: remember an agent, return it to what it was, let a copy go on beside it."""

import queue
import time
from collections.abc import Iterator

import pytest

from tars.agents import checkpoint
from tars.agents.game import ROLES, Role
from tars.agents.host import Applied, Reload
from tars.agents.world import Episode, Player, Spell, Start, World
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value

SECONDS = 30.0


class Hosted:
    """A world at full speed, and what it told."""

    def __init__(self) -> None:
        self.episodes: queue.Queue[Episode] = queue.Queue()
        begin = {role: Start(dict(DECLARED[GAME_ROLES[role]].game_defaults)) for role in ROLES}
        self.world = World("7", begin, seed=1, tell=lambda _, episode: self.episodes.put(episode), pace=None)
        self.world.start()

    def player(self, role: Role) -> Player:
        return next(player for player in self.world.players if player.role == role)

    def reload(self, role: Role, version: int, change: dict[str, Value], **asked: object) -> Applied:
        """Ask for a change, and wait until it is in use."""
        player, done = self.player(role), queue.Queue[Applied]()
        reload = Reload(version, f"u{version}", {**player.values(), **change}, **asked)  # type: ignore[arg-type]
        player.reload(reload, done.put)
        return done.get(timeout=SECONDS)

    def wait(self, episodes: int) -> list[Episode]:
        return [self.episodes.get(timeout=SECONDS) for _ in range(episodes)]


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    hosted = Hosted()
    hosted.wait(2)
    yield hosted
    hosted.world.stop()
    assert hosted.world.error is None


@pytest.mark.parametrize("role", ROLES)
def test_an_agent_that_goes_back_has_the_parameters_of_before_its_reload(hosted: Hosted, role: Role) -> None:
    out = hosted.reload(role, 1, {"learning_rate": 3e-4}, snapshot_first=True)
    assert out.taken is not None
    assert (out.taken.version, out.taken.before) == (0, 1)
    hosted.wait(4)
    assert hosted.player(role).population.weights_hash(0) != out.weights_before
    back = hosted.reload(role, 2, {"learning_rate": 1e-3}, restore=out.taken.data)
    assert back.restored == out.weights_before == back.weights_before
    assert back.effective["learning_rate"] == pytest.approx(1e-3)
    hosted.wait(2)  # and it goes on learning
    assert hosted.player(role).population.weights_hash(0) != back.restored


def test_the_gradient_steps_of_before_are_counted_again(hosted: Hosted) -> None:
    out = hosted.reload("policy", 1, {"tau": 0.1}, snapshot_first=True, twin=1)
    assert out.taken is not None
    hosted.wait(4)
    back = hosted.reload("policy", 2, {"tau": 0.05}, restore=out.taken.data)
    assert back.step == out.taken.step


def test_what_is_no_snapshot_of_the_agent_changes_nothing_but_the_values(hosted: Hosted) -> None:
    taken = hosted.player("consensus").taken(1)
    back = hosted.reload("policy", 1, {"tau": 0.1}, restore=taken.data)
    assert back.restored is None
    assert back.effective["tau"] == pytest.approx(0.1)
    assert hosted.reload("policy", 2, {"tau": 0.05}, restore=b"rubbish").restored is None
    hosted.wait(2)


def test_a_snapshot_before_a_reload_waits_for_no_boundary_where_the_reload_does_not(hosted: Hosted) -> None:
    out = hosted.reload("policy", 1, {"learning_rate": 5e-4}, snapshot_first=True)
    assert out.taken is not None
    assert checkpoint.parse(out.taken.data).partners_of("policy") is not None


def test_a_twin_goes_on_with_the_old_values_and_reports_beside_the_agent(hosted: Hosted) -> None:
    out = hosted.reload("policy", 1, {"learning_rate": 5e-4}, twin=6)
    assert out.twin
    twin = hosted.world._twins["policy-7"]  # noqa: SLF001 - nobody else can see what it runs
    copy = next(player for player in twin.players if player.role == "policy")
    assert copy.population.read(0, "learning_rate") == pytest.approx(1e-3)
    end, spells = time.monotonic() + SECONDS, list[Spell]()
    while len(spells) < 6 and time.monotonic() < end:
        episode = hosted.episodes.get(timeout=SECONDS)
        spells += [spell for spell in episode.agents if spell.twin]
    assert [spell.agent_id for spell in spells] == ["policy-7"] * 6
    assert {spell.version for spell in spells} == {0}
    assert twin.error is None


def test_a_twin_begins_as_what_the_agent_is_at_that_moment(hosted: Hosted) -> None:
    """Its gradient steps go on counting from the agent's."""
    out = hosted.reload("policy", 1, {"learning_rate": 5e-4}, twin=3)
    twin = hosted.world._twins["policy-7"]  # noqa: SLF001
    twin._thread.join(SECONDS)  # noqa: SLF001
    copy = next(player for player in twin.players if player.role == "policy")
    assert copy.population.gradient_steps(0) == out.step + 3 * 32


def test_the_next_reload_of_the_agent_ends_its_twin(hosted: Hosted) -> None:
    hosted.reload("policy", 1, {"learning_rate": 5e-4}, twin=1000)
    twin = hosted.world._twins["policy-7"]  # noqa: SLF001
    hosted.reload("policy", 2, {"learning_rate": 1e-3})
    assert not twin.alive
    assert "policy-7" not in hosted.world._twins  # noqa: SLF001


def test_a_world_that_stops_takes_its_twins_with_it() -> None:
    hosted = Hosted()
    hosted.reload("ethical", 1, {"clip_range": 0.3}, twin=1000)
    twin = hosted.world._twins["ethical-7"]  # noqa: SLF001
    hosted.world.stop()
    assert not twin.alive
