"""Replay buffers of Stable-Baselines3: made anew with another size, copied, cleared of rows that are not finite."""

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from torch import Tensor

from tars.agents.adapters.sb3_facts import BufferKind

REPLAY: Final = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def kind_of(buffer: object) -> BufferKind:
    """Tell whether it is one of SB3's own, exactly: a subclass may keep more than is known here."""
    if type(buffer) is NStepReplayBuffer:
        return "n-step"
    return "plain" if buffer is None or type(buffer) is ReplayBuffer else "other"


def can_be_rebuilt(buffer: ReplayBuffer | None) -> bool:
    """All its rows can be carried over."""
    return buffer is not None and kind_of(buffer) != "other" and not buffer.optimize_memory_usage


def bytes_needed(buffer: ReplayBuffer, size: int) -> int:
    """What a buffer of `size` transitions would take."""
    row: int = sum(getattr(buffer, name)[:1].nbytes for name in REPLAY)
    return size // buffer.n_envs * row


def free_memory() -> int | None:
    """Bytes that the machine has left; None where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def resized(model: Any, old: ReplayBuffer, size: int) -> ReplayBuffer:
    """Return a buffer like the old one for `size` transitions, with its newest rows in order."""
    new = type(old)(
        size, model.observation_space, model.action_space, device=model.device, n_envs=model.n_envs,
        optimize_memory_usage=False, **model.replay_buffer_kwargs,
    )  # fmt: skip
    _fill(new, _rows(old, _order(old)))
    return new


def drop_unfinite(buffer: ReplayBuffer) -> None:
    """Take out every row with a NaN or infinity: what a diverged actor leaves, and what diverges its successor."""
    order = _order(buffer)
    rows = _rows(buffer, order)
    kept = np.ones(len(order), dtype=bool)
    for column in rows.values():
        if np.issubdtype(column.dtype, np.floating):
            kept &= np.isfinite(column).reshape(len(order), -1).all(axis=1)
    if not kept.all():
        _fill(buffer, {name: column[kept] for name, column in rows.items()})


def copied(buffer: ReplayBuffer) -> dict[str, Tensor]:
    """Return its rows in order, oldest first, as tensors [rows, environments, ...]."""
    return {name: torch.from_numpy(column) for name, column in _rows(buffer, _order(buffer)).items()}


def put_back(buffer: ReplayBuffer, rows: Mapping[str, Tensor]) -> None:
    """Replace its rows by these, the newest that fit."""
    _fill(buffer, {name: rows[name].numpy() for name in REPLAY})


def _order(buffer: ReplayBuffer) -> NDArray[np.int64]:
    """Indices of the stored rows, oldest first."""
    whole = np.arange(buffer.buffer_size)
    return np.roll(whole, -buffer.pos) if buffer.full else whole[: buffer.pos]


def _rows(buffer: ReplayBuffer, order: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: getattr(buffer, name)[order] for name in REPLAY}  # copies


def _fill(buffer: ReplayBuffer, rows: Mapping[str, NDArray[Any]]) -> None:
    count = min(len(rows["rewards"]), buffer.buffer_size)
    for name, column in rows.items():
        getattr(buffer, name)[:count] = column[len(column) - count :]
    buffer.pos, buffer.full = count % buffer.buffer_size, count == buffer.buffer_size
