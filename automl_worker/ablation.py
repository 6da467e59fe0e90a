"""What each key of a champion is worth, and whether a smaller change keeps the gain. Pure.

Each changed key is put back to the incumbent's value, alone, on the held-out seeds that decided for the champion: the
paired loss is what the key is worth. Keys that each lose less than an equal share of the threshold are dropped.
Choosing on those seeds favours luck, so the smaller change is weighed against the incumbent anew, on seeds of its own,
by the same sequential test; it is proposed only if it is BETTER there and its gain is within the champion's interval.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from tars.automl_worker.board import Board
from tars.automl_worker.evidence import LOOKS, interval
from tars.automl_worker.steps import Ask
from tars.automl_worker.trials import ABLATED_SEEDS, ABLATION, CONFIRMATION, SMALLER, held_out_trial
from tars.automl_worker.weighing import Weighed, evidence_of, look_by_look, missing, pairs_of
from tars.schemas.evidence import KeyWorth, Verdict
from tars.schemas.hyperparameters import same
from tars.schemas.study import StudyStarted


def explain(started: StudyStarted, board: Board, champion: Weighed, code_version: str) -> Ask | Weighed:
    """Ask what is missing to explain a BETTER champion, or return it explained: whole, or as the smaller change."""
    before, after = started.incumbent, champion.values
    keys = [key for key in before if not same(before[key], after[key])]
    if len(keys) == 1:  # it is worth all of the gain
        return champion
    seeds = range(min(LOOKS[champion.evidence.look - 1], ABLATED_SEEDS))
    asked = [
        held_out_trial(started, ABLATION, index, place, {**after, key: before[key]}, "ablation")
        for index in seeds
        for place, key in enumerate(keys)
    ]
    if ask := missing(board, asked):
        return ask
    worth = [_worth(started, board, champion, key, place, seeds) for place, key in enumerate(keys)]
    kept = [found.key for found in worth if found.gain >= started.threshold / len(keys)]
    explained = _explained(champion, worth, keys)
    return _smaller(started, board, explained, kept, code_version) if 0 < len(kept) < len(keys) else explained


def _explained(champion: Weighed, worth: Sequence[KeyWorth], kept: Collection[str]) -> Weighed:
    told = tuple(found.model_copy(update={"kept": found.key in kept}) for found in worth)
    return replace(champion, evidence=champion.evidence.model_copy(update={"worth": told}))


def _worth(
    started: StudyStarted, board: Board, champion: Weighed, key: str, place: int, seeds: Sequence[int]
) -> KeyWorth:
    """What is lost without one key; where one of the two failed alone, it counts as the worst."""
    whole, without = (CONFIRMATION, champion.slot), (ABLATION, place)
    gains = {pair.seed: pair.candidate - pair.incumbent for pair in pairs_of(started, board, without, whole, seeds)}
    gains |= {pair.seed: pair.incumbent - pair.candidate for pair in pairs_of(started, board, whole, without, seeds)}
    gain, low, high = interval([*gains.values()])
    if not gains:  # nothing says that it can be spared
        gain = low = high = champion.evidence.gain
    return KeyWorth(
        key=key,
        before=started.incumbent[key],
        after=champion.values[key],
        gain=gain,
        gain_low=low,
        gain_high=high,
        seeds=len(gains),
        kept=True,
    )


def _smaller(
    started: StudyStarted, board: Board, champion: Weighed, kept: Collection[str], code_version: str
) -> Ask | Weighed:
    """Weigh the smaller change; it takes the champion's place if it keeps the gain."""
    values = {**started.incumbent, **{key: champion.values[key] for key in kept}}
    found = look_by_look(started, board, SMALLER, [values], each=True)
    if isinstance(found, Ask):
        return found
    if found[1].verdict is not Verdict.BETTER or found[1].gain < champion.evidence.gain_low:
        return champion
    claim = champion.evidence.search_gain
    evidence = evidence_of(started, board, SMALLER, 1, values, found[1], code_version, claim)
    return _explained(replace(champion, values=values, evidence=evidence), champion.evidence.worth, kept)
