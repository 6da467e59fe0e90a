"""Learning rates that a learner has no place for: set in an optimiser before each of its gradient steps.

A hook has the last word over whatever writes the rate before; it is never saved with the model.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from tars.agents.learner_state import write_option


class StepRates:
    """The rates of some optimisers, by name."""

    def __init__(self, optimisers: Mapping[str, Optimizer], scheduled: Callable[[], float]) -> None:
        self._optimisers, self._scheduled = dict(optimisers), scheduled
        self.own: dict[str, float | None] = dict.fromkeys(optimisers)
        """Rates of single optimisers; None: the shared one."""
        self.scale = 1.0
        """Of the shared one: factor on what the learner's own code schedules."""
        self._handles: dict[str, RemovableHandle] = {}

    def renew(self) -> None:
        """Let what was changed take effect, in the optimisers at once and before each gradient step from now on."""
        for name, optimiser in self._optimisers.items():
            needed = self.own[name] is not None or self.scale != 1.0
            if needed and name not in self._handles:
                self._handles[name] = optimiser.register_step_pre_hook(self._setter(name))
            elif not needed and name in self._handles:
                self._handles.pop(name).remove()
            self._set(name)

    def in_use(self, name: str) -> float | None:
        """The own rate that an optimiser has, and keeps at its next step; None: it has none of its own."""
        handle = self._handles.get(name)
        if self.own[name] is None or handle is None or handle.id not in (handle.hooks_dict_ref() or {}):
            return None
        return float(self._optimisers[name].param_groups[0]["lr"])

    def release(self) -> None:
        """Take the hooks out: the learner's own schedule rules again."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def _set(self, name: str) -> None:
        rate = self.own[name]
        value = self.scale * self._scheduled() if rate is None else rate
        for group in self._optimisers[name].param_groups:
            write_option(group, "lr", value)

    def _setter(self, name: str) -> Callable[..., None]:
        def before_step(*_: Any) -> None:  # noqa: ANN401 - the optimiser, and the arguments of step()
            self._set(name)

        return before_step
