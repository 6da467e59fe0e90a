"""attach(): hot reload for a learner that is somebody else's; TARS is a guest in its loop.

    with tars.attach(model, agent_id="ppo-7") as link:       # a Stable-Baselines3 model
        model.learn(1_000_000, callback=link.callback())

    link = tars.attach(optimizer=opt, hyperparameters=args, agent_id="ppo-8")   # any torch loop
    for iteration in range(n):
        ...
        link.step(episode_return=ret)

Whatever goes wrong here, or with NATS, never reaches the loop: it is logged once and stands in `link.problems`.
"""

import atexit
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from pydantic import TypeAdapter, ValidationError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tars.agents.adapters.adapter import CannotAttach, Hook
from tars.agents.adapters.loop_places import Key
from tars.agents.adapters.torch_loop import Modules, torch_loop
from tars.agents.attached_learner import AttachedLearner, Change
from tars.agents.connection import Cause, Connection
from tars.agents.guard import Guard
from tars.agents.host import Applied, Outcome, Reload
from tars.agents.learner_state import Snapshot
from tars.agents.local_watch import LOCAL, Attempt, LocalWatch, objections
from tars.agents.problems import Problems
from tars.producers.commands import nats_address
from tars.runtime.settings import load_settings
from tars.schemas.hyperparameters import Value, Values
from tars.schemas.message import Id

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from tars.agents.adapters.sb3_callback import LinkCallback

log = logging.getLogger(__name__)

AUTO: Final = "auto"
ON_THE_BUS: Final = "this agent is on the bus: propose the change there, or attach with broker=None"


class Writer(Protocol):
    """What logs scalars: TensorBoard's SummaryWriter, or anything like it."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> Any:  # noqa: ANN401
        """Log one."""


class Link:
    """A learner's link to TARS. `notes` says what cannot be reached, `problems` what went wrong."""

    def __init__(self, learner: AttachedLearner, callback: "LinkCallback | None", writer: Writer | None) -> None:
        self._learner, self._callback, self._writer = learner, callback, writer
        self._connection: Connection | None = None
        self._attempt: Attempt | None = None
        self._iterations = 0
        learner.on_values.append(self._log_values)
        self._log_values(learner.values())
        atexit.register(self.close)

    @property
    def agent_id(self) -> str:
        """Its name on the bus."""
        return self._learner.agent_id

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be reached in this learner, or means something else here."""
        return self._learner.adapter.notes

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong inside TARS, each once."""
        return tuple(self._learner.problems)

    @property
    def values(self) -> dict[str, Value]:
        """The hyperparameters in use, as last read back."""
        return self._learner.values()

    @property
    def version(self) -> int:
        """The configuration that it runs; 0: the values in its code."""
        return self._learner.version

    @property
    def weights_hash(self) -> str:
        """The sha256, in hex, of all weights."""
        return self._learner.adapter.weights_hash()

    def callback(self) -> "LinkCallback":
        """What `model.learn(callback=...)` takes, alone or in a list."""
        if self._callback is None:
            raise CannotAttach("a plain loop has no callback: call link.step() in each iteration")
        return self._callback

    def step(self, episode_return: float | None = None, *, global_step: int | None = None) -> None:
        """Say that an iteration of a plain loop is over, and what an episode that ended in it returned."""
        if self._callback is not None:
            self._learner.problems.add("link.step() is for plain loops: give link.callback() to model.learn")
            return
        self._iterations = self._iterations + 1 if global_step is None else global_step
        if episode_return is not None:
            self._learner.episode(episode_return)
        self._learner.at(Hook.BETWEEN)

    def apply(self, values: Values, *, watch: int = 0) -> Attempt:
        """Change values without any server; with `watch`, watch so many episodes, then keep or take back everything.

        Returns at once; what becomes of it stands in the attempt, and it never raises.
        """
        attempt = Attempt(values)
        try:
            if reasons := self._refusals(values, watch):
                attempt.state = f"refused: {'; '.join(reasons)}"
                return attempt
            self._attempt = attempt
            LocalWatch(self._learner, attempt, watch).begin()
            self._now()
        except Exception as error:  # noqa: BLE001 - called from the loop that we are guests of
            attempt.state = f"refused: {type(error).__name__}: {error}"
            self._learner.problems.add("apply", error)
        return attempt

    def snapshot(self, *, buffer: bool = False) -> Snapshot:
        """Copy what was learnt; call it from the thread that trains. Raises BadSnapshot where that cannot be copied."""
        return self._learner.adapter.snapshot(buffer=buffer)

    def restore(self, snapshot: Snapshot, *, clock: bool = False) -> Attempt:
        """Go back to a snapshot: weights, optimisers and values, at the next hook that allows it; proven by hash.

        clock: the counts of steps go back too, for a new process that goes on where another stopped.
        """
        attempt = Attempt(snapshot.values)

        def put_back() -> bool:
            self._learner.adapter.restore(snapshot, clock=clock)
            return True

        def done(outcome: Outcome) -> None:
            attempt.outcome = outcome
            proven = self.weights_hash == snapshot.weights_hash
            why = "its weights differ" if isinstance(outcome, Applied) else "; ".join(outcome.reasons)
            attempt.state = "restored" if proven and isinstance(outcome, Applied) else f"refused: {why}"

        whole = {**self._learner.values(), **snapshot.values}
        reload = Reload(self._learner.version, LOCAL, whole)
        self._learner.leave(Change(reload, done, put_back, self._learner.adapter.restores))
        self._now()
        return attempt

    def close(self, cause: Cause = "finished", detail: str = "") -> None:
        """End the link; the learner goes on with what it runs. Waits some seconds at most."""
        atexit.unregister(self.close)
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close(cause, detail)
            self._learner.adapter.release()
        except Exception as error:  # noqa: BLE001 - as above
            self._learner.problems.add("close", error)

    def __enter__(self) -> Self:
        """It is attached already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Say how the run ended."""
        if error is None:
            self.close("finished")
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self.close("signal")
        else:
            self.close("error", f"{type(error).__name__}: {error}")

    def connect(self, url: str, guard: Guard, *, adopt: bool, snapshots_on_bus: bool) -> None:
        """Go on the bus; `guard` judges who may change this agent."""
        self._connection = Connection(self._learner, url, guard, adopt=adopt, on_bus=snapshots_on_bus)

    def _refusals(self, values: Values, watch: int) -> list[str]:
        if self._connection is not None:
            return [ON_THE_BUS]
        if self._attempt is not None and not self._attempt.over:
            return [f"another change is under way: {self._attempt.state}"]
        return objections(self._learner, values, watch)

    def _now(self) -> None:
        """Where no loop runs nothing is in progress, so nothing need be waited for."""
        learns = self._callback.learns if self._callback is not None else self._iterations > 0
        if not learns:
            self._learner.at(Hook.BETWEEN)

    def _log_values(self, values: Mapping[str, Value]) -> None:
        if self._writer is None:
            return
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"hyperparameters/{name}", value, self._iterations)


def attach(  # noqa: PLR0913 - what there is to say of a learner
    model: "BaseAlgorithm | None" = None,
    *,
    agent_id: str = "attached",
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    hyperparameters: object = None,
    keys: Mapping[str, Key] | None = None,
    algorithm: str | None = None,
    modules: Modules = None,
    scheduler: LRScheduler | Mapping[str, LRScheduler] | None = None,
    writer: Writer | None = None,
    role: str | None = None,
    broker: str | None = AUTO,
    adopt: bool = False,
    snapshots: Literal["bus"] | None = None,
) -> Link:
    """Attach a Stable-Baselines3 model, or the optimisers and values of a plain torch loop.

    hyperparameters: the namespace that the loop reads (argparse.Namespace, a dataclass). keys: where it keeps a key
    under another name, in another object, or behind two functions. modules: networks to keep in snapshots beside what
    the optimisers train. writer: gets the scalars `hyperparameters/<key>`; an SB3 model logs them by itself.
    broker: a NATS URL; unset: NATS_URL, or the `tars up` that runs here; None: no bus, only `link.apply`.
    adopt: begin with the newest values that TARS wants for this agent, rather than with those in the code.
    snapshots: "bus": what a rollout may go back to is kept in TARS's store; else in a temporary folder of this run.

    Raises CannotAttach, before anything is changed.
    """
    try:
        TypeAdapter(Id).validate_python(agent_id)
    except ValidationError as error:
        raise CannotAttach(f"agent_id = {agent_id!r}: 1 to 64 letters, digits, - and _") from error
    problems = Problems(agent_id)
    if model is not None and optimizer is None:
        learner, callback = _attached_model(model, agent_id, role, problems)
    elif model is None and optimizer is not None:
        adapter = torch_loop(
            optimizer, hyperparameters, algorithm=algorithm, keys=keys, modules=modules, scheduler=scheduler
        )
        learner, callback = AttachedLearner(adapter, agent_id, role or adapter.algorithm, problems), None
    else:
        raise CannotAttach("give a model of Stable-Baselines3, or optimizer= of a plain torch loop")
    link = Link(learner, callback, writer)
    if link.notes:
        log.warning("%s is attached. %s", agent_id, "; ".join(link.notes))
    if broker is not None:
        settings = load_settings()
        url = nats_address(settings) if broker == AUTO else broker
        link.connect(url, Guard(settings), adopt=adopt, snapshots_on_bus=snapshots == "bus")
    return link


def _attached_model(
    model: "BaseAlgorithm", agent_id: str, role: str | None, problems: Problems
) -> "tuple[AttachedLearner, LinkCallback | None]":
    try:
        from tars.agents.adapters.sb3 import StableBaselines3  # noqa: PLC0415 - SB3 is an extra
        from tars.agents.adapters.sb3_callback import LinkCallback  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CannotAttach(f"{error.name} is not installed: pip install 'tars-rl[sb3]'") from error
    adapter = StableBaselines3(model)
    learner = AttachedLearner(adapter, agent_id, role or adapter.algorithm, problems)
    return learner, LinkCallback(learner)
