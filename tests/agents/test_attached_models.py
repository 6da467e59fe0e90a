"""Models of Stable-Baselines3 that somebody else trains: what is refused and why, schedules, saving, noise, buffers."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.utils import LinearSchedule

import tars
from sb3_models import KINDS, At, Uses, model_of, recorded
from tars.agents.adapters.adapter import CannotAttach
from tars.agents.attach import Link
from tars.agents.host import Applied
from tars.schemas.hyperparameters import Value

torch.set_num_threads(1)
Change = dict[str, Value]


def attached(model: Any) -> Link:
    return tars.attach(model, broker=None)


def train(model: Any, link: Link, steps: int, at: int = 0, then: Callable[[], object] = lambda: None) -> Any:
    return model.learn(steps, callback=[At(at, then), link.callback()], reset_num_timesteps=False)


def marked(uses: Uses, link: Link, change: Change) -> Callable[[], None]:
    def change_it() -> None:
        link.apply(change)
        uses.mark()

    return change_it


class OwnBuffer(ReplayBuffer):
    """Somebody's own."""


class OwnNoise(NormalActionNoise):
    """Somebody's own, with SB3's sigma."""


class OwnTraining(PPO):
    """Somebody's own."""

    def train(self) -> None:
        super().train()


def sigmas(*values: float) -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), np.array(values))


REFUSED: list[tuple[str, dict[str, Any], Change, str]] = [
    ("dqn", {"replay_buffer_class": OwnBuffer}, {"buffer_size": 500}, "a OwnBuffer: only SB3's own"),
    (
        "dqn",
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"buffer_size": 500},
        "keeps no next observations",
    ),
    ("dqn", {"train_freq": (1, "episode")}, {"train_freq": 8}, "counts episodes in this model"),
    ("ddpg", {"gradient_steps": -1}, {"gradient_steps": 2}, "no number to go back to"),
    ("dqn", {}, {"learning_starts": 5000}, "not below the 0 steps done: the agent would stop learning"),
    ("dqn", {"n_envs": 4}, {"target_update_interval": 2}, "below the 4 environments"),
    ("dqn", {"n_envs": 4}, {"buffer_size": 1001}, "no multiple of the 4 environments"),
    ("dqn", {}, {"batch_size": 512, "buffer_size": 500}, "larger than buffer_size"),
    (
        "dqn",
        {},
        {"exploration_final_eps": 0.9, "exploration_initial_eps": 0.5},
        "must lie in 0..exploration_initial_eps",
    ),
    ("ppo", {}, {"batch_size": 20}, "does not divide the rollout of 32 steps"),
    ("ppo", {}, {"n_steps": 40}, "does not divide the rollout of 40 steps"),
    ("a2c", {"normalize_advantage": True}, {"n_steps": 1}, "a single advantage cannot be normalised"),
    ("a2c", {}, {"gamma": float("nan"), "vf_coef": -1.0}, "must be a finite number"),
    ("a2c", {}, {"tau": 0.5}, "tau is no hyperparameter of a2c"),
    ("ppo", {}, {"clip_range": 0}, "clip_range = 0 must be above 0"),
]


@pytest.mark.parametrize(("algorithm", "given", "change", "why"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_would_do_harm_is_refused_with_the_reason_and_nothing_is_written(
    algorithm: str, given: dict[str, Any], change: Change, why: str
) -> None:
    model = model_of(algorithm, **given)
    link = attached(model)
    before = link.values
    attempt = link.apply(change)
    assert attempt.state.startswith("refused: ")
    assert why in attempt.state
    assert attached(model).values == before
    assert link.problems == ()


def test_every_broken_rule_is_named_at_once() -> None:
    attempt = attached(model_of("ppo")).apply({"batch_size": 20, "gamma": 2.0, "n_epochs": 2.5})
    assert all(text in attempt.state for text in ("gamma = 2", "n_epochs = 2.5", "batch_size = 20 does not divide"))


def test_a_group_is_written_whole_and_where_its_latest_key_may_be() -> None:
    model = model_of("ppo")
    link, found = attached(model), []
    train(model, link, 160, 40, lambda: found.append(link.apply({"n_steps": 48, "batch_size": 24, "gamma": 0.9})))
    (attempt,) = found
    assert attempt.state == "applied"
    assert (model.n_steps, model.batch_size, model.rollout_buffer.gamma) == (48, 24, 0.9)


def test_when_one_key_of_a_group_cannot_be_written_all_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("dqn")
    link, before = attached(model), attached(model).values
    monkeypatch.setattr("tars.agents.adapters.sb3_keys.resized", lambda *_: 1 / 0)
    attempt = link.apply({"gamma": 0.9, "exploration_final_eps": 0.2, "buffer_size": 500})
    keys = "gamma, exploration_final_eps, buffer_size"
    assert attempt.state == f"refused: writing {keys} failed: ZeroDivisionError: division by zero"
    assert attached(model).values == before == link.values


def test_between_runs_everything_can_be_changed_at_once() -> None:
    for algorithm, change in (("ppo", {"n_steps": 64}), ("dqn", {"buffer_size": 500})):
        model = model_of(algorithm)
        link = attached(model)
        train(model, link, 100)
        assert link.apply(change).state == "applied"
        train(model, link, 100)
        assert link.values.items() >= change.items()
        assert link.problems == ()


def test_a_rate_that_anneals_is_scaled_and_goes_on_annealing() -> None:
    model = model_of("ppo", learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    link = attached(model)
    assert any("learning_rate is annealed" in note for note in link.notes)
    with recorded(model) as uses:
        train(model, link, 160, 70, marked(uses, link, {"learning_rate": 2e-3}))
    assert uses.before("policy rate")[0] == pytest.approx(1e-3 * 0.8)
    assert sorted(set(uses.after("policy rate"))) == pytest.approx([0.0, 2e-3 * 0.2, 2e-3 * 0.4])
    assert link.values["learning_rate"] == 2e-3
    again = PPO.load(io.BytesIO(saved(model)))
    assert again.lr_schedule(0.5) == 1e-3


def test_a_schedule_of_ones_own_is_scaled_before_each_step_and_saved_as_it_was() -> None:
    model = model_of("a2c", learning_rate=lambda progress: 1e-3 * (1 + progress))
    link = attached(model)
    assert any("model.save() does not keep that" in note for note in link.notes)
    with recorded(model) as uses:
        train(model, link, 64, 20, marked(uses, link, {"learning_rate": 1e-3}))
    assert uses.after("policy rate")[0] == pytest.approx(0.5e-3 * 1.5)
    assert link.values["learning_rate"] == pytest.approx(1e-3)
    link.close()
    with recorded(model) as later:
        model.learn(32)
    assert later.after("policy rate") == pytest.approx([1e-3 * 1.5, 1e-3])


SCHEDULES: tuple[Any, ...] = (LinearSchedule(0.3, 0.1, 1.0), lambda progress: 0.1 + 0.2 * progress)
"""The same, as SB3's and as one's own."""


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "own"])
def test_a_clip_range_that_anneals_is_scaled_and_as_it_was_once_it_is_back(schedule: Any) -> None:
    model = model_of("ppo", clip_range=schedule)
    link = attached(model)
    assert any("clip_range is annealed" in note for note in link.notes)
    for start in (0.15, 0.2, 0.3):
        train(model, link, 96, 40, lambda start=start: link.apply({"clip_range": start}))  # type: ignore[misc]
        expected = [start, start * 2 / 3, start / 3]
        assert [model.clip_range(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx(expected)
        assert link.values["clip_range"] == pytest.approx(start)
        again: Any = PPO.load(io.BytesIO(saved(model)))
        assert [again.clip_range(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx(expected)
    assert link.problems == ()


def test_a_clip_schedule_of_ones_own_is_itself_again_once_it_is_back() -> None:
    model = model_of("ppo", clip_range=SCHEDULES[1])
    link = attached(model)
    for start in (0.15, 0.2, link.values["clip_range"]):
        assert link.apply({"clip_range": start}).state == "applied"
    assert model.clip_range.value_schedule is SCHEDULES[1]


def saved(model: Any) -> bytes:
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


class SaveAlways(BaseCallback):
    """Saves at every hook, as a checkpoint callback may."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[bytes] = []

    def _on_step(self) -> bool:
        self._save()
        return True

    def _on_rollout_end(self) -> None:
        self._save()

    def _save(self) -> None:
        self.saved.append(saved(self.model))


CHANGES: dict[str, Change] = {
    "dqn": {"learning_rate": 5e-3, "gamma": 0.9, "buffer_size": 500, "exploration_final_eps": 0.2, "train_freq": 2},
    "a2c": {"learning_rate": 5e-3, "gamma": 0.9, "gae_lambda": 0.9, "n_steps": 8},
    "ppo": {"learning_rate": 5e-3, "gamma": 0.9, "clip_range": 0.1, "n_steps": 16, "batch_size": 8},
    "ddpg": {"learning_rate": 5e-3, "gamma": 0.9, "noise_sigma": 0.3, "actor_learning_rate": 1e-4},
}


@pytest.mark.parametrize("algorithm", CHANGES)
def test_a_changed_model_saves_nothing_of_ours_at_any_moment_and_loads_with_the_new_values(algorithm: str) -> None:
    model, saver = model_of(algorithm), SaveAlways()
    link = attached(model)
    small = len(saved(model.learn(40)))
    model.learn(100, callback=[At(30, lambda: link.apply(CHANGES[algorithm])), link.callback(), saver])
    assert link.values.items() >= CHANGES[algorithm].items()
    assert type(model) is KINDS[algorithm]
    for data in saver.saved:
        assert b"tars" not in zipfile.ZipFile(io.BytesIO(data)).read("data")
        assert len(data) < small * 1.1
    again = attached(KINDS[algorithm].load(io.BytesIO(saver.saved[-1]), env=model.get_env()))
    hooked = {"actor_learning_rate": None}  # a hook, which no file can hold: adopt=True sets it again
    assert again.values.items() >= {**CHANGES[algorithm], **(hooked if algorithm == "ddpg" else {})}.items()


def test_returns_over_several_steps_are_discounted_as_set() -> None:
    model = model_of("dqn", n_steps=3)
    link = attached(model)
    train(model, link, 100, 50, lambda: link.apply({"gamma": 0.5}))
    assert float(model.replay_buffer.sample(64).discounts.max()) <= 0.5


@pytest.mark.parametrize("first", [None, "own", "wandering"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_noise_is_set_in_every_environment(n_envs: int, first: str | None) -> None:
    kinds = {None: None, "own": OwnNoise(np.zeros(1), np.ones(1)), "wandering": None}
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)) if first == "wandering" else kinds[first]
    model = model_of("ddpg", n_envs, action_noise=noise)
    link = attached(model)
    train(model, link, 240, 20, lambda: link.apply({"noise_sigma": 0.5}))
    drawing = model.action_noise.noises if n_envs > 1 else [model.action_noise]
    assert isinstance(model.action_noise, VectorizedActionNoise) == (n_envs > 1)
    assert [float(each._sigma[0]) for each in drawing] == [0.5] * n_envs  # noqa: SLF001
    assert link.problems == ()


def test_noise_that_has_no_one_width_is_left_alone() -> None:
    model = model_of("ddpg", action_noise=sigmas(0.1, 0.2))
    link = attached(model)
    assert "noise_sigma" not in link.values
    assert "several sigmas: 0.1, 0.2" in link.apply({"noise_sigma": 0.3}).state


def test_code_of_ones_own_is_said_and_what_hangs_on_it_refused() -> None:
    env = model_of("ppo").get_env()
    model = OwnTraining("MlpPolicy", env, n_steps=32, batch_size=16, device="cpu")
    link = attached(model)
    assert any("train() is not SB3's" in note for note in link.notes)
    assert "n_steps: train() is not SB3's" in link.apply({"n_steps": 64}).state
    model = model_of("ppo")
    setattr(model, "_update_learning_rate", lambda _: None)  # noqa: B010 - private, and somebody's own all the same
    assert "own _update_learning_rate" in attached(model).apply({"learning_rate": 1e-3}).state


def test_a_model_without_an_adapter_is_refused_and_told_which_have_one() -> None:
    for kind in (TD3, SAC):
        model: BaseAlgorithm = kind("MlpPolicy", "Pendulum-v1", device="cpu")
        with pytest.raises(CannotAttach, match=f"{kind.__name__} has no adapter: models of .* DQN, A2C, PPO, DDPG"):
            attached(model)
    with pytest.raises(CannotAttach, match="give a model .*, or optimizer="):
        tars.attach(broker=None)
    with pytest.raises(CannotAttach, match="1 to 64 letters"):
        tars.attach(model_of("ppo"), agent_id="a b", broker=None)


class Kept(KVWriter):
    """Keeps what the model logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_hyperparameters_stand_in_every_row_that_the_model_logs(algorithm: str) -> None:
    model, kept = model_of(algorithm), Kept()
    model.set_logger(Logger(None, [kept]))
    link = attached(model)
    callbacks = [At(150, lambda: link.apply({"gamma": 0.9})), link.callback()]
    model.learn(300, callback=callbacks, log_interval=2)
    assert len(kept.rows) > 3
    found = [row["hyperparameters/gamma"] for row in kept.rows]
    assert (found[0], found[-1]) == (0.99, 0.9)
    assert found == sorted(found, reverse=True)


def test_a_change_in_the_midst_of_a_rollout_leaves_that_rollout_whole() -> None:
    """Replay rows are neither lost nor doubled when the buffer is replaced in the midst of a rollout."""
    model = model_of("dqn", n_envs=2, train_freq=5)
    link = attached(model)
    train(model, link, 220, 7, lambda: link.apply({"buffer_size": 4000}))
    rows = model.replay_buffer
    assert (rows.size() * 2, rows.buffer_size * 2) == (220, 4000)
    followed = rows.next_observations[: rows.pos - 1] == rows.observations[1 : rows.pos]
    assert (followed.all(-1) | (rows.dones[: rows.pos - 1] == 1)).all()


def test_a_shrunk_buffer_keeps_the_newest_rows_in_order() -> None:
    model = model_of("dqn")
    link = attached(model)
    train(model, link, 200)
    newest = model.replay_buffer.observations[140:200].copy()
    assert link.apply({"buffer_size": 60}).state == "applied"
    assert np.array_equal(model.replay_buffer.observations, newest)


def test_a_run_that_breaks_off_leaves_the_model_its_class() -> None:
    model = model_of("ppo")
    link, found = attached(model), []

    class Breaks(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        model.learn(64, callback=[At(5, lambda: found.append(link.apply({"n_steps": 16}))), link.callback(), Breaks()])
    model.learn(96, callback=link.callback())
    assert found[0].state == "applied"
    assert type(model) is PPO
    assert link.problems == ()


def test_an_exception_of_ours_never_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("dqn")
    link = attached(model)
    monkeypatch.setattr("tars.agents.attached_learner.AttachedLearner._work", lambda *_: 1 / 0)
    found: list[Any] = []
    train(model, link, 100, 20, lambda: found.append(link.apply({"gamma": 0.9})))
    assert model.num_timesteps == 100
    assert len(link.problems) == len(set(link.problems)) > 0
    assert "ZeroDivisionError" in link.problems[0]


def test_what_was_read_back_can_be_looked_at() -> None:
    model = model_of("ddpg")
    attempt = attached(model).apply({"critic_learning_rate": 2e-3})
    assert isinstance(attempt.outcome, Applied)
    assert attempt.outcome.effective["critic_learning_rate"] == 2e-3
    assert attempt.outcome.effective["learning_rate"] == 1e-3
    assert repr(attempt) == "<Attempt {'critic_learning_rate': 0.002}: applied>"
    assert isinstance(model, DDPG)
