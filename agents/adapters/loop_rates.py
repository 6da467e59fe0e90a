"""The learning rates of a plain torch loop: in its optimisers, under an annealing of its own, or under a scheduler."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, MultiStepLR, StepLR
from torch.utils.hooks import RemovableHandle

from tars.agents.learner_state import write_option

CHAINED: Final = (ExponentialLR, StepLR, MultiStepLR)
"""They multiply what stands in the optimiser, so writing there suffices."""


class Used(NamedTuple):
    """What a gradient step was made with."""

    rate: float
    wanted: tuple[float, ...]
    """What it should have been: as written, or as the scheduler has made of it by then."""


class LoopRates:
    """What the optimisers of a loop step with; counts gradient steps, and sees the rate of each."""

    def __init__(self, optimisers: Mapping[str, Optimizer], schedulers: Mapping[str, LRScheduler]) -> None:
        self._optimisers, self._schedulers = dict(optimisers), dict(schedulers)
        self.steps = 0
        self.used: dict[str, Used] = {}
        """By optimiser, its first step since `forget`."""
        self._written: dict[str, float] = {}
        self._handles: list[RemovableHandle] = [
            optimiser.register_step_post_hook(self._counter(name)) for name, optimiser in self._optimisers.items()
        ]

    def why_not(self) -> str | None:
        """Why rates cannot be written; None: they can."""
        for name, optimiser in self._optimisers.items():
            if any(group.get("capturable") for group in optimiser.param_groups):
                return f"the optimiser {name} is capturable: a captured CUDA graph keeps its rate"
            scheduler = self._schedulers.get(name)
            if scheduler is not None and not isinstance(scheduler, (LambdaLR, *CHAINED)):
                return f"how a {type(scheduler).__name__} takes a new rate is not known"
        return None

    def base(self, name: str) -> float:
        """The rate of an optimiser's first group; under a LambdaLR, what its lambda multiplies."""
        scheduler = self._schedulers.get(name)
        if isinstance(scheduler, LambdaLR):
            return float(scheduler.base_lrs[0])
        return self.current(name)

    def write(self, name: str, value: float) -> None:
        """Set an optimiser's rate; groups with other rates keep their ratios."""
        ratio = value / self.base(name)
        scheduler = self._schedulers.get(name)
        if isinstance(scheduler, LambdaLR):
            scheduler.base_lrs = [rate * ratio for rate in scheduler.base_lrs]
        for group in self._optimisers[name].param_groups:
            write_option(group, "lr", float(group["lr"]) * ratio)
        if isinstance(scheduler, LambdaLR):  # exactly, for the read-back: a ratio rounds
            scheduler.base_lrs[0] = value
        else:
            write_option(self._optimisers[name].param_groups[0], "lr", value)
        self._written[name] = value

    def forget(self) -> None:
        """Forget what steps were made with."""
        self.used.clear()

    def release(self) -> None:
        """Stop counting."""
        for handle in self._handles:
            handle.remove()

    def current(self, name: str) -> float:
        """What stands in the optimiser now."""
        return float(self._optimisers[name].param_groups[0]["lr"])

    def wanted(self, name: str) -> tuple[float, ...]:
        """What the next step should be made with: as written, or as the scheduler has made of it."""
        written, scheduler = self._written.get(name, self.base(name)), self._schedulers.get(name)
        if isinstance(scheduler, LambdaLR):
            return (self.base(name) * float(scheduler.lr_lambdas[0](scheduler.last_epoch)),)
        return (written,) if scheduler is None else (written, float(scheduler.get_last_lr()[0]))

    def _counter(self, name: str) -> Any:  # noqa: ANN401 - a hook

        def stepped(*_: Any) -> None:  # noqa: ANN401
            self.steps += 1
            if name not in self.used:
                self.used[name] = Used(self.current(name), self.wanted(name))

        return stepped
