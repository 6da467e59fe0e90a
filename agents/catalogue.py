"""Which class learns by which algorithm."""

from collections.abc import Mapping

from tars.agents.a2c import A2C
from tars.agents.algorithm import Population
from tars.agents.ddpg import DDPG
from tars.agents.dqn import DQN
from tars.agents.ppo import PPO

ALGORITHMS: Mapping[str, type[Population]] = {"dqn": DQN, "a2c": A2C, "ppo": PPO, "ddpg": DDPG}
"""Name, as in tars.schemas.hyperparameters.ALGORITHMS -> its population."""
