"""Reinforcement-learning agents: the population engine, the game, and live agents that can be reloaded."""
