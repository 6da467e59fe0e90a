"""What TARS costs in somebody else's loop: the link's callbacks in an SB3 run, and a change without a server.

Run by benchmarks/reload.py. A callback's CPU time is read around each call of the training thread, less what reading
the clock costs just before it; the whole is the training thread's CPU time in the same run.
"""

import time
from collections.abc import Callable
from typing import Any

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

import tars
from report import Figure, percentile
from tars.agents.adapters.sb3_callback import LinkCallback
from tars.agents.attach import Link

HOOKS = ("on_step", "on_rollout_start", "on_rollout_end", "on_training_start", "on_training_end")


def models() -> dict[str, BaseAlgorithm]:
    """SB3's defaults on CartPole, but for what makes a short run learn as a long one does."""
    return {
        "ppo": PPO("MlpPolicy", "CartPole-v1", device="cpu", seed=0, n_steps=256),
        "dqn": DQN("MlpPolicy", "CartPole-v1", device="cpu", seed=0, learning_starts=100, buffer_size=50_000),
    }


class Timed:
    """CPU nanoseconds inside a callback's hooks."""

    def __init__(self, callback: LinkCallback) -> None:
        self.spent = 0
        for name in HOOKS:
            setattr(callback, name, self._timed(getattr(callback, name)))

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            before = time.thread_time_ns()
            began = time.thread_time_ns()
            found = hook(*args)
            self.spent += time.thread_time_ns() - began - (began - before)
            return found

        return timed


def overhead(url: str, *, quick: bool) -> Figure:
    """CPU time in the link's callbacks, in percent of the run's, while on the bus; the worse of two algorithms."""
    found = {}
    for name, model in models().items():
        with tars.attach(model, agent_id=f"bench-{name}", broker=url) as link:
            callback = link.callback()
            timed = Timed(callback)
            began = time.thread_time_ns()
            model.learn(3000 if quick else 30_000, callback=callback)
            whole = time.thread_time_ns() - began
        found[name] = 100 * timed.spent / whole
    note = ", ".join(f"{name} {share:.3f} %" for name, share in found.items())
    return Figure("attach_overhead_percent", max(found.values()), 1, 0.2, note=f"on CartPole, SB3's nets: {note}")


class Applies(BaseCallback):
    """At every step, changes the learning rate; notes the milliseconds in TARS until it is read back."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self.took: list[float] = []
        """CPU time of the thread."""
        self.waited: list[float] = []
        """Wall time, which on a shared machine holds what others do."""

    def _on_step(self) -> bool:
        rate = 1e-3 + 1e-6 * (len(self.took) % 100)
        began, cpu = time.perf_counter(), time.thread_time_ns()
        attempt = self._link.apply({"learning_rate": rate})
        self._link.callback().on_step()  # the next hook; what the run does until then is the run's own
        self.took.append((time.thread_time_ns() - cpu) / 1e6)
        self.waited.append((time.perf_counter() - began) * 1e3)
        return attempt.state == "applied"


def local_apply(*, quick: bool) -> Figure:
    """CPU milliseconds of a change without a broker: checked, written, read back, weights hashed twice."""
    worst, notes, count = 0.0, [], 500 if quick else 4000
    for name, model in models().items():
        with tars.attach(model, agent_id="bench", broker=None) as link:
            applies = Applies(link)
            model.learn(count, callback=[link.callback(), applies])
        took = applies.took[50:]
        worst = max(worst, percentile(took, 0.99))
        wall = percentile(applies.waited[50:], 0.99)
        notes.append(f"{name} p50 {percentile(took, 0.5):.3f}, p99 {percentile(took, 0.99):.3f} (wall {wall:.3f})")
    return Figure("local_apply_p99_ms", worst, 1, 0.1, note=f"{'; '.join(notes)}; n {count - 50} each")
