"""What Optuna says of a finished search: which keys its result hung on."""

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from tars.automl_worker.board import Board, value
from tars.automl_worker.sampler import Asked, as_study
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES
from tars.schemas.study import StudyStarted

FEWEST = 8
"""Completed trials, below which no share means anything."""


def importances(started: StudyStarted, board: Board) -> dict[str, float]:
    """Share of each searched key, by PED-ANOVA (Watanabe et al., IJCAI 2023), of the completed trials of the search.

    It asks by which keys the better trials differ from all. Empty: too few trials.
    """
    told = [
        Asked(board.asked[number].hyperparameters, (found,))
        for number in range(started.trials)
        if (found := value(started, board, number)) is not None
    ]
    study = as_study(ALGORITHMS[started.algorithm], started.searched, told, in_game=started.environment in GAME_ROLES)
    if len(study.trials) < FEWEST:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
