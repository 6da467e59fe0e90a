"""A model that Stable-Baselines3 has saved, described without loading it.

SB3's own loading unpickles, which runs whatever the file's author put there. Here the archive's JSON is read, which has
every plain value and prints what it pickles; the one pickled value that is needed is taken from its opcodes as data.
"""

import base64
import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tars.agents.adapters.sb3_facts import Facts, NoiseKind, ScheduleKind
from tars.schemas.errors import TarsError
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Value

LARGEST: Final = 64 << 20
"""Bytes of an archive's description that are read; one that unpacks to more is not believed."""
NUMBER: Final = r"([-+0-9.e]+)"
"""As SB3's schedules and numpy's arrays print them."""


class NoModel(TarsError):
    """A file that is no saved model of SB3 that TARS knows; the message says why."""


def archive_facts(path: Path) -> Facts:
    """Describe a saved model without loading it; raises NoModel."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("data").file_size > LARGEST:
                raise NoModel(f"{path}: its description unpacks to more than {LARGEST >> 20} MiB")
            data = json.loads(archive.read("data"))
    except OSError as error:
        raise NoModel(f"{path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise NoModel(f"{path} is no model that Stable-Baselines3 saved: {type(error).__name__}: {error}") from error
    if not isinstance(data, dict):
        raise NoModel(f"{path}: its description is no table of attributes")
    return _described(data, _algorithm(data, path))


def _algorithm(data: Mapping[str, Any], path: Path) -> AlgorithmName:
    """The archive names no class, but each one's attributes are its own."""
    if "clip_range" in data and "n_epochs" in data:
        return "ppo"
    if "exploration_schedule" in data:
        return "dqn"
    if {"normalize_advantage", "gae_lambda"} <= set(data):
        return "a2c"
    if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0:
        return "ddpg"
    raise NoModel(f"{path} is a model that TARS has no adapter for: DQN, A2C, PPO and DDPG have one")


def _described(data: Mapping[str, Any], algorithm: AlgorithmName) -> Facts:
    values, unreadable = dict[str, Value](), dict[str, str]()
    for name in ALGORITHMS[algorithm].names:
        found = _value(data, name)
        if isinstance(found, str):
            unreadable[name] = found
        else:
            values[name] = found
    replay = re.search(r"<function (\w+)\.__init__", str(data.get("replay_buffer_class"))) if "tau" in data else None
    kind = replay[1] if replay else "ReplayBuffer"
    noise = data.get("action_noise")
    return Facts(
        algorithm=algorithm,
        values=values,
        unreadable=unreadable,
        n_envs=int(data.get("n_envs", 1)),
        rates=_schedule(data.get("lr_schedule"))[0],
        clips=_schedule(data.get("clip_range"))[0] if algorithm == "ppo" else "constant",
        buffer={"ReplayBuffer": "plain", "NStepReplayBuffer": "n-step"}.get(kind, "other"),  # type: ignore[arg-type]
        buffer_class=kind,
        saves_memory=bool(data.get("optimize_memory_usage")),
        noise=_noise(noise)[0],
        many_noises="VectorizedActionNoise" in _type(noise),
        normalizes=bool(data.get("normalize_advantage")),
        num_timesteps=int(data.get("num_timesteps", 0)),
    )


def _value(data: Mapping[str, Any], name: str) -> Value | str:
    """A key's value, or why it cannot be read."""
    if (reads := READS.get(name)) is not None:
        return reads(data)
    found = data.get(name)
    return found if found is None or type(found) in {int, float} else f"it is saved as a {_type(found) or type(found)}"


def _buffer_size(data: Mapping[str, Any]) -> Value | str:
    environments = int(data.get("n_envs", 1))
    return max(int(data["buffer_size"]) // environments, 1) * environments


def _gradient_steps(data: Mapping[str, Any]) -> Value | str:
    found = int(data["gradient_steps"])
    return found if found >= 1 else "gradient_steps = -1 (as many as steps were collected) is no number to go back to"


def _type(saved: object) -> str:
    return str(saved.get(":type:", "")) if isinstance(saved, dict) else ""


def _schedule(saved: object) -> tuple[ScheduleKind, Value | str]:
    """Kind and start of a saved schedule, from what SB3 prints beside the pickle."""
    text = str(saved.get("value_schedule", saved)) if isinstance(saved, dict) else str(saved)
    if (constant := re.search(rf"ConstantSchedule\(val={NUMBER}\)", text)) or type(saved) in {int, float}:
        return "constant", float(constant[1]) if constant else float(text)
    if linear := re.search(rf"LinearSchedule\(start={NUMBER}", text):
        return "linear", float(linear[1])
    return "other", "a schedule of one's own shows its values only when it is run"


def _noise(saved: object) -> tuple[NoiseKind, Value | str]:
    if saved is None:
        return "none", 0.0
    text = json.dumps(saved)
    arrays = re.findall(r'sigma(?:=|": ")\[([^\]]*)\]', text)
    found = {float(number) for array in arrays for number in array.replace(",", " ").split()}
    known = "NormalActionNoise" in text or "OrnsteinUhlenbeckActionNoise" in text
    if not known:
        return "other", f"the action noise is a {_type(saved)}: only SB3's have a known sigma"
    return "normal", found.pop() if len(found) == 1 else "the action noise has several sigmas"


def _train_freq(data: Mapping[str, Any]) -> Value | str:
    """SB3 pickles it: a whole number and a unit, which stand in the opcodes in the clear."""
    saved = data.get("train_freq")
    if isinstance(saved, int):
        return saved
    try:
        told = list(pickletools.genops(base64.b64decode(saved[":serialized:"])))  # type: ignore[index]
    except (ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {type(error).__name__}: {error}"
    numbers = [argument for opcode, argument, _ in told if opcode.name in {"BININT", "BININT1", "BININT2"}]
    if any(argument == "episode" for _, argument, _ in told):
        return "train_freq counts episodes in this model, and steps in TARS"
    return numbers[0] if len(numbers) == 1 else "it cannot be read"


READS: Final[Mapping[str, Callable[[Mapping[str, Any]], Value | str]]] = {
    "learning_rate": lambda data: _schedule(data.get("lr_schedule"))[1],
    "actor_learning_rate": lambda _: None,
    "critic_learning_rate": lambda _: None,
    "clip_range": lambda data: _schedule(data.get("clip_range"))[1],
    "noise_sigma": lambda data: _noise(data.get("action_noise"))[1],
    "train_freq": _train_freq,
    "buffer_size": _buffer_size,
    "gradient_steps": _gradient_steps,
}
"""Every other key is saved as a plain number. A rate of one network alone is a hook, which is never saved."""
