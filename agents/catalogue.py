"""Which class learns by which algorithm."""

from collections.abc import Mapping

from tars.agents.dqn import DQN

ALGORITHMS: Mapping[str, type[DQN]] = {"dqn": DQN}
"""Name, as in tars.schemas.hyperparameters.ALGORITHMS -> its population."""
