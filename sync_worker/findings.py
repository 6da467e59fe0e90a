"""What a study has found: the update that its champion becomes, and whether evidence is its own. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import GAME_ROLES, changed
from tars.schemas.message import By
from tars.schemas.study import StudyEvent, StudyFinished, StudyStarted
from tars.schemas.update import ProposeUpdate

ID_LENGTH: Final = 64


@dataclass(frozen=True)
class Findings:
    """What the ledger says of the study that a proposal names."""

    base: Mapping[str, int]
    """The agents that it was for, and the version that each had heard."""
    evidence: frozenset[str]
    """Digests of what it found about each of its candidates; none: it has not finished."""
    scaled: bool
    """A score of 1 means something there: it is the game's, or somebody said which returns count as 0 and 1."""


def findings(study: Sequence[StudyEvent]) -> Findings | None:
    """Fold what counts; None: there is no such study."""
    started, finished = begun(study), _finished(study)
    if started is None:
        return None
    found = () if finished is None else (finished.evidence, *finished.weighed)
    scaled = started.environment in GAME_ROLES or started.score_range is not None
    return Findings(started.base, frozenset(one.digest() for one in found if one is not None), scaled)


def unfounded(evidence: Evidence, study_id: str | None, base: Mapping[str, int], study: Findings | None) -> str:
    """Why this is not what a study has found about these agents, at these versions; empty: it is."""
    if study_id is None:
        return "it names no study: whoever proposed it brought the evidence along"
    if study is None or evidence.digest() not in study.evidence:
        return f"the ledger knows of no study {study_id} that found its evidence"
    if not study.scaled:
        return f"study {study_id} has no score_range: without a scale its gain means nothing"
    if other := [name for name, version in base.items() if study.base.get(name) != version]:
        return f"study {study_id} was not about {', '.join(other)} at the version of now"
    return ""


def champion_update(study: Sequence[StudyEvent]) -> ProposeUpdate | None:
    """Make an update of a study's champion; None: there is none, it is not proven, or the study has no target."""
    started, finished = begun(study), _finished(study)
    if started is None or not started.base or finished is None or finished.champion is None:
        return None
    change = changed(started.incumbent, finished.champion)
    if finished.evidence is None or not finished.evidence.promotable or not change:
        return None
    return ProposeUpdate(
        update_id=update_id_of(finished.study_id),
        agents=tuple(started.base),
        values=change,
        base=started.base,
        evidence=finished.evidence,
        study_id=finished.study_id,
        reason=f"champion of study {finished.study_id}",
    )


def proposal_of(study: Sequence[StudyEvent]) -> tuple[By, ProposeUpdate] | None:
    """Its champion's update, and who asked for it; None also where the study was only to tell."""
    started, command = begun(study), champion_update(study)
    return (started.by, command) if started is not None and started.propose and command is not None else None


def update_id_of(study_id: str) -> str:
    """Return the id of the update that a study's champion becomes: `u-<study>`, where that is too long its hash."""
    plain = f"u-{study_id}"
    return plain if len(plain) <= ID_LENGTH else f"{plain[:47]}-{sha256(study_id.encode()).hexdigest()[:16]}"


def begun(study: Sequence[StudyEvent]) -> StudyStarted | None:
    """How it began; None: there is no such study."""
    return next((event for event in study if isinstance(event, StudyStarted)), None)


def _finished(study: Sequence[StudyEvent]) -> StudyFinished | None:
    return next((event for event in study if isinstance(event, StudyFinished)), None)
