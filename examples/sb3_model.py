"""Attach a Stable-Baselines3 model: its hyperparameters can be changed while it learns.

    tars up                                                # in another terminal
    python examples/sb3_model.py --steps 200000
    tars propose --agent cartpole-ppo --set learning_rate=1e-3 --set gamma=0.98

Without `tars up` it learns all the same. `--try learning_rate=1e-3` needs no server at all: the change is watched for
some episodes, and kept or taken back.
"""

import argparse
import logging

from stable_baselines3 import PPO

import tars


def main() -> None:
    """Learn CartPole, linked to TARS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--agent", default="cartpole-ppo")
    parser.add_argument("--try", dest="change", metavar="KEY=VALUE", help="a change to watch, without any server")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=256, device="cpu")
    if options.change is None:
        with tars.attach(model, agent_id=options.agent) as link:
            model.learn(options.steps, callback=link.callback())
        return
    with tars.attach(model, agent_id=options.agent, broker=None) as link:
        key, value = options.change.split("=")
        attempt = link.apply({key: float(value)}, watch=60)  # as soon as 30 episodes are there to compare with
        model.learn(options.steps, callback=link.callback())
        print(f"{attempt.state}: effect {attempt.effect}, 90 % interval {attempt.interval}")


if __name__ == "__main__":
    main()
