"""Which trial has which number, seed and start: the same study, the same trials, whoever asks. Pure.

Numbers lie one behind the other: the search; the confirmation, seed by seed; the ablation, seed by seed; and the
confirmation of the smaller change. A number is written once, so two coordinators cannot ask for different trials.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tars.automl_worker.evidence import LOOKS
from tars.automl_worker.halving import rungs
from tars.schemas.hyperparameters import Value
from tars.schemas.snapshot import copied
from tars.schemas.study import MOST_CANDIDATES, StudyStarted
from tars.schemas.trial import Phase, RunTrial


@dataclass(frozen=True)
class HeldOut:
    """A row of held-out seeds on which values are compared, and the numbers of the trials there."""

    first: int
    """Where the row begins among all held-out seeds."""
    offset: int
    """Of its trials' numbers, behind the search."""
    slots: int
    """Room for trials on each seed; slot 0 is the incumbent."""

    def number(self, started: StudyStarted, index: int, slot: int) -> int:
        """Of a trial on the index-th seed of this row."""
        return started.trials + self.offset + index * self.slots + slot


CONFIRMATION: Final = HeldOut(0, 0, MOST_CANDIDATES + 1)
"""Incumbent and candidates."""
ABLATION: Final = HeldOut(0, LOOKS[-1] * CONFIRMATION.slots, 32)
"""The champion with one key put back, on the seeds of its confirmation; no algorithm has as many keys."""
ABLATED_SEEDS: Final = 16
"""Seeds, at most, on which keys are put back."""
SMALLER: Final = HeldOut(LOOKS[-1], ABLATION.offset + ABLATED_SEEDS * ABLATION.slots, 2)
"""Incumbent and the smaller change, on seeds of their own."""


def held_out_seed(started: StudyStarted, index: int) -> int:
    """The index-th held-out seed: random, but the same at every replay, and none that the search uses."""
    return _seed(started, "held-out", index)


def _seed(started: StudyStarted, purpose: str, index: int) -> int:
    text = f"{started.study_id}/{started.seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest())


def search_trial(started: StudyStarted, number: int, values: Mapping[str, Value]) -> RunTrial:
    """A trial of the search, on a seed of its own."""
    return _trial(started, number, values, "search", number)


def held_out_trial(
    started: StudyStarted, on: HeldOut, index: int, slot: int, values: Mapping[str, Value], phase: Phase
) -> RunTrial:
    """A full trial on the index-th seed of a row."""
    return _trial(started, on.number(started, index, slot), values, phase, on.first + index)


def _trial(started: StudyStarted, number: int, values: Mapping[str, Value], phase: Phase, index: int) -> RunTrial:
    search = phase == "search"
    episodes = started.search_episodes if search else started.full_episodes
    starts = started.snapshots
    prunable = search and number > 0 and started.trainer == "population" and started.objective == "reward"
    return RunTrial(
        study_id=started.study_id,
        number=number,
        phase=phase,
        algorithm=started.algorithm,
        environment=started.environment,
        hyperparameters=dict(values),
        seed=_seed(started, "search", index) if search else held_out_seed(started, index),
        train_episodes=episodes[0],
        eval_episodes=episodes[1],
        training=started.training,
        score_range=started.score_range,
        normalize=started.normalize,
        trainer=started.trainer,
        rungs=rungs(episodes[0]) if prunable else (),
        snapshot=copied(started.study_id, starts[index % len(starts)]) if starts else None,
    )
