"""`tars check`: what is said of naive edits is what they do, and a saved model is described without being loaded."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule

import tars
from sb3_models import model_of
from tars.agents.adapters.sb3_archive import NoModel
from tars.agents.attach import Link
from tars.schemas.hyperparameters import ALGORITHMS

torch.set_num_threads(1)
OTHER: dict[str, Any] = {
    "learning_rate": 5e-3, "gamma": 0.9, "gae_lambda": 0.8, "ent_coef": 0.05, "vf_coef": 0.9, "max_grad_norm": 0.1,
    "n_steps": 24, "clip_range": 0.05, "target_kl": 0.1, "n_epochs": 3, "batch_size": 8, "tau": 0.3,
    "exploration_initial_eps": 0.9, "exploration_final_eps": 0.3, "exploration_fraction": 0.9, "buffer_size": 500,
    "learning_starts": 20, "target_update_interval": 10, "train_freq": 8, "gradient_steps": 2,
}  # fmt: skip
"""Of every key that is an attribute of some model, another value than tests/sb3_models.py has."""
EDITS = [
    (a, n, m)
    for a in ALGORITHMS
    for n in ALGORITHMS[a].names
    if n in OTHER
    for m in ((1, 3) if (a, n) == ("dqn", "gamma") else (1,))
]


@pytest.mark.parametrize(("algorithm", "name", "n_steps"), EDITS, ids=[f"{a}-{n}-{m}" for a, n, m in EDITS])
def test_a_naive_edit_does_what_is_said_of_it(algorithm: str, name: str, n_steps: int) -> None:
    """Works: TARS's own read-back sees it. Silent, partial: it does not. Crash: training breaks."""
    model = model_of(algorithm, **({"n_steps": n_steps} if n_steps > 1 else {}))
    said = next(key for key in tars.check(model).keys if key.key == name)
    assert said.edit == f"model.{name} = v"
    setattr(model, name, OTHER[name])
    if said.naive == "crash":
        with pytest.raises((TypeError, AttributeError, AssertionError, IndexError)):
            model.learn(128)
        return
    model.learn(128)
    assert (said.naive == "works") == (read(model)[name] == OTHER[name])
    assert said.tars == "effective"


def read(model: Any) -> dict[str, Any]:
    link: Link = tars.attach(model, broker=None)
    return link.values


MODELS: list[tuple[str, dict[str, Any]]] = [
    ("dqn", {}),
    ("dqn", {"n_steps": 3, "buffer_size": 1001, "train_freq": (2, "episode")}),
    ("dqn", {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}),
    ("a2c", {"normalize_advantage": True, "learning_rate": LinearSchedule(2e-3, 1e-4, 0.5)}),
    ("ppo", {"clip_range": LinearSchedule(0.3, 0.1, 1.0), "target_kl": 0.02}),
    ("ddpg", {"gradient_steps": -1, "action_noise": None}),
    ("ddpg", {"action_noise": NormalActionNoise(np.zeros(1), np.array([0.25])), "n_envs": 2}),
    ("ddpg", {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.array([0.25])), "train_freq": 300}),
    (
        "ddpg",
        {"action_noise": NormalActionNoise(np.zeros(1), np.array([0.1])), "replay_buffer_class": ReplayBuffer},
    ),
]


@pytest.mark.parametrize(("algorithm", "given"), MODELS, ids=[str(n) for n in range(len(MODELS))])
def test_a_saved_model_is_described_as_it_is_in_memory(algorithm: str, given: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(algorithm, **given)
    model.learn(8 if algorithm != "ppo" else 32)
    model.save(tmp_path / "model.zip")
    assert tars.check(tmp_path / "model.zip") == tars.check(model)


def test_a_schedule_of_ones_own_is_not_run_to_read_it(tmp_path: Path) -> None:
    model_of("ppo", learning_rate=lambda progress: 1e-3 * progress).save(tmp_path / "model")
    found = {key.key: key for key in tars.check(tmp_path / "model.zip").keys}
    assert found["learning_rate"].tars == "refused"
    assert "only when it is run" in found["learning_rate"].how
    assert found["gamma"].value == 0.99


class Trap:
    """A file that does harm when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a file that tells on whoever runs it."""
        return Path.touch, (Path(self.path),)  # type: ignore[attr-defined]


def test_nothing_that_a_file_contains_is_run(tmp_path: Path) -> None:
    model = model_of("dqn")
    trap, sprung = Trap(), tmp_path / "sprung"
    trap.path = str(sprung)  # type: ignore[attr-defined]
    model.harmless, model.train_freq = trap, trap
    model.save(tmp_path / "model")
    found = tars.check(tmp_path / "model.zip")
    assert not sprung.exists()
    assert next(key for key in found.keys if key.key == "train_freq").tars == "refused"
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        body = json.loads(archive.read("data"))["harmless"][":serialized:"]
    import base64  # noqa: PLC0415 - the trap is a real one

    pickle.loads(base64.b64decode(body))  # noqa: S301
    assert sprung.exists()


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with pytest.raises(NoModel, match="x.zip cannot be read: No such file"):
        tars.check(path)
    path.write_bytes(b"text")
    with pytest.raises(NoModel, match="BadZipFile"):
        tars.check(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "[]")
    with pytest.raises(NoModel, match="no table of attributes"):
        tars.check(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b" " * (65 << 20))
    with pytest.raises(NoModel, match="more than 64 MiB"):
        tars.check(path)
    buffer = io.BytesIO()
    TD3("MlpPolicy", "Pendulum-v1", device="cpu").save(buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(NoModel, match="no adapter for: DQN, A2C, PPO and DDPG"):
        tars.check(path)


def test_the_table_shows_every_key_for_a_terminal() -> None:
    lines = str(tars.check(model_of("ppo"))).splitlines()
    assert len(lines) == len(ALGORITHMS["ppo"].names)
    (line,) = [line for line in lines if line.startswith("clip_range")]
    assert line.split() == ["clip_range", "0.2", "crash", "effective", "live", "a", "constant", "schedule"]
