"""The hooks of a Stable-Baselines3 run: where TARS looks in, and what it must cost next to nothing at."""

import time
from typing import Any, Final

from stable_baselines3.common.callbacks import BaseCallback

from tars.agents.adapters.adapter import Hook
from tars.agents.adapters.sb3_facts import ON_POLICY
from tars.agents.attached_learner import AttachedLearner

TELL_SECONDS: Final = 0.1
"""Episodes that end within it are told together: a call after some hundred microseconds of torch is a cold one."""


class LinkCallback(BaseCallback):
    """Give it to `model.learn(callback=...)`, alone or in a list. It never ends training, and never raises."""

    def __init__(self, learner: AttachedLearner) -> None:
        super().__init__()
        self._learner, self._waiting, self._watchers = learner, learner.waiting, learner.on_hook
        self._untold: list[float] = []
        self._tell_at = 0.0
        self._rollouts, self._on_policy = 0, learner.algorithm in ON_POLICY
        self.learns = False
        """`model.learn` is running."""

    # The public methods are overridden: what BaseCallback counts in them costs more than all that is done here.

    def on_step(self) -> bool:
        """After each vector step."""
        if self._waiting:
            self._tell()
            self._learner.at(Hook.STEP)
        for info in self.locals["infos"]:
            if "episode" in info:
                self._ended()
                break
        return True

    def _on_step(self) -> bool:
        return True

    def _on_training_start(self) -> None:
        self.learns = True
        self._learner.at(Hook.BETWEEN)

    def on_rollout_start(self) -> None:
        """Before the first action of a rollout."""
        if self._waiting or self._watchers:
            self._tell()
            self._learner.at(Hook.ROLLOUT_START)

    def on_rollout_end(self) -> None:
        """Before the gradient steps on a rollout."""
        if self._waiting or self._watchers:
            self._tell()
            self._learner.at(Hook.ROLLOUT_END)
        self._rollouts += 1
        if self._on_policy and self._is_logged(self._rollouts):
            self._record()

    def _on_training_end(self) -> None:
        self._tell()
        self.learns = False

    def _ended(self) -> None:
        """Note the episodes that ended in this step; they are told together, a little later, unless one is watched."""
        returns = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self._untold += returns
        if self._watchers or time.monotonic() > self._tell_at:
            self._tell()
        if self._on_policy:
            return
        before: int = self.model._episode_num  # SB3 logs when it counts to a multiple of log_interval
        if any(self._is_logged(before + more) for more in range(1, len(returns) + 1)):
            self._record()

    def _tell(self) -> None:
        if self._untold:
            told, self._untold = self._untold, []
            for returned in told:
                self._learner.episode(returned)
            self._tell_at = time.monotonic() + TELL_SECONDS

    def _is_logged(self, number: int) -> bool:
        every: Any = self.locals.get("log_interval")
        return bool(every) and number % every == 0

    def _record(self) -> None:
        """Write `hyperparameters/<key>` where the model logs, just before it does."""
        try:
            for name, value in self._learner.values().items():
                if value is not None:
                    self.logger.record(f"hyperparameters/{name}", value)
        except Exception as error:  # noqa: BLE001 - a user's logger may refuse; training goes on
            self._learner.problems.add("logging hyperparameters", error)
