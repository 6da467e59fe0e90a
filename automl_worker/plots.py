"""A study as Optuna knows one, rebuilt from its rows, and Optuna's own plots of it."""

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from tars.automl_worker.explain import FEWEST
from tars.automl_worker.sampler import DIRECTIONS, is_inside, space_of
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES, Algorithm, Choice, OneMinusLog, Search, Value
from tars.schemas.views import StudyRow, TrialRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STATES: Final = {
    "waiting": TrialState.RUNNING,
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
AIMS: Final = ("score", "conflict", "latency")
"""Of a Pareto study, as DIRECTIONS has them."""
CONTOURS: Final = 3
"""The most important keys, which contours are drawn of: more would be too small to read."""
HEIGHT: Final = 700
"""Pixels, of what needs more than a plot has by itself."""
PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval';
 style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:">
<title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 75rem; margin: 2rem auto; }}</style>
<script>{library}</script>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""
"""It may load nothing from anywhere, and a browser holds it to that; plotly's parallel coordinates compile code."""


def optuna_study(row: StudyRow, trials: Sequence[TrialRow]) -> optuna.Study:
    """Rebuild the search: what is to be high or low, the keys on their own scale, every trial with what became of it.

    A discount is told as `1 - x`, which is what the search looks along. A value that such an axis has no place for is
    left out of its trial; an axis is as wide as the search looks and as the trials lie.
    """
    algorithm = ALGORITHMS[row.algorithm]
    search = [trial for trial in trials if trial.phase == "search"]
    axes = [
        _Axis(algorithm, name, found, [trial.hyperparameters.get(name) for trial in search])
        for name, found in _space(row).items()
    ]
    study = optuna.create_study(directions=DIRECTIONS if row.objective == "pareto" else DIRECTIONS[:1])
    study.add_trials([_frozen(row, trial, axes) for trial in search])
    return study


def _space(row: StudyRow) -> dict[str, Search]:
    return space_of(ALGORITHMS[row.algorithm], row.searched, in_game=row.environment in GAME_ROLES)


class _Axis:
    """A searched key, as Optuna is told of it, wide enough for all values that were tried."""

    def __init__(self, algorithm: Algorithm, name: str, search: Search, tried: Sequence[Value]) -> None:
        self._name, self._one_minus = name, isinstance(search, OneMinusLog)
        self.label = f"1 - {name}" if self._one_minus else name
        self._log = self._one_minus or getattr(search, "log", False)
        values = [parameter for value in tried if (parameter := self._parameter(value)) is not None]
        self.distribution: BaseDistribution
        if isinstance(search, Choice):
            self._log = False
            self.distribution = CategoricalDistribution(tuple(dict.fromkeys([*search.values, *tried])))
            return
        ends = (1 - search.high, 1 - search.low) if isinstance(search, OneMinusLog) else (search.low, search.high)
        low, high = min([ends[0], *values]), max([ends[1], *values])
        if algorithm[name].type is int:
            self.distribution = IntDistribution(int(low), int(high), log=self._log)
        else:
            self.distribution = FloatDistribution(low, high, log=self._log)

    def _parameter(self, value: Value) -> float | int | None:
        """What Optuna is told of a value; None: it has no place on this axis."""
        found = round(1 - value, 12) if self._one_minus and value is not None else value
        return None if found is None or (self._log and found <= 0) else found

    def told(self, trial: TrialRow) -> dict[str, Value]:
        """The trial's parameter, by label."""
        value = trial.hyperparameters.get(self._name)
        if isinstance(self.distribution, CategoricalDistribution):
            return {self.label: value}
        parameter = self._parameter(value)
        return {} if parameter is None else {self.label: parameter}


def _frozen(row: StudyRow, trial: TrialRow, axes: Sequence[_Axis]) -> FrozenTrial:
    values = _values(row, trial)
    state = STATES[trial.stage]
    if state is TrialState.COMPLETE and values is None:
        state = TrialState.FAIL
    params = {label: value for axis in axes for label, value in axis.told(trial).items()}
    rung = {trial.episode: trial.score} if state is TrialState.PRUNED and trial.score is not None else {}
    return create_trial(
        state=state,
        values=values if state is TrialState.COMPLETE else None,
        params=params,
        distributions={axis.label: axis.distribution for axis in axes if axis.label in params},
        intermediate_values=rung,
    )


def _values(row: StudyRow, trial: TrialRow) -> list[float] | None:
    """What the objective makes of a trial; None: it is not known."""
    if trial.score is None:
        return None
    if row.objective == "reward":
        return [trial.score]
    if row.objective == "penalty":
        found = row.weights.penalised(trial.score, trial.conflict, trial.latency)
        return None if found is None else [found]
    return None if trial.conflict is None or trial.latency is None else [trial.score, trial.conflict, trial.latency]


def plots(row: StudyRow, trials: Sequence[TrialRow]) -> str:
    """Optuna's plots of a study that has a completed trial, as one HTML page that loads nothing; it needs plotly."""
    from plotly.offline import get_plotlyjs  # noqa: PLC0415 - an extra, and nothing that a coordinator needs

    sections = "\n".join(
        f"<h2>{heading}</h2>\n{figure.to_html(full_html=False, include_plotlyjs=False, config={'displaylogo': False})}"
        for heading, figure in _figures(row, trials)
    )
    title = html.escape(f"Study {row.study_id}: {row.algorithm} in {row.environment}")
    return PAGE.format(title=title, library=get_plotlyjs(), sections=sections)


def _figures(row: StudyRow, trials: Sequence[TrialRow]) -> Iterator[tuple[str, "Figure"]]:
    """Of a Pareto study all but the front are of its score."""
    show, several = optuna.visualization, row.objective == "pareto"
    by_score = row.model_copy(update={"objective": "reward"}) if several else row
    study = optuna_study(by_score, trials)
    yield "Optimization history", show.plot_optimization_history(study, target_name="score")
    if several:
        figure = show.plot_pareto_front(optuna_study(row, trials), target_names=list(AIMS))
        yield "Pareto front", figure.update_layout(height=HEIGHT)
    if varied := _varied(study):
        yield "Slice", show.plot_slice(study, varied, target_name="score")
        yield "Parallel coordinate", show.plot_parallel_coordinate(study, varied, target_name="score")
    space = _space(row)
    inside = [trial for trial in trials if is_inside(space, trial.hyperparameters)]
    yield from _of_the_space(optuna_study(by_score, inside))


def _of_the_space(study: optuna.Study) -> Iterator[tuple[str, "Figure"]]:
    """What is told of the space that was searched; an incumbent outside of it would stretch it."""
    show, drawn = optuna.visualization, _varied(study)
    if drawn and len(_completed(study)) >= FEWEST:
        evaluator = PedAnovaImportanceEvaluator()
        yield "Importances", show.plot_param_importances(study, evaluator, drawn, target_name="score")
        drawn = list(get_param_importances(study, evaluator=evaluator, params=drawn))
    if len(drawn) > 1:
        figure = show.plot_contour(study, drawn[:CONTOURS], target_name="score")
        yield "Contours", figure.update_layout(height=HEIGHT)


def _completed(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _varied(study: optuna.Study) -> list[str]:
    """Keys that every completed trial has, and that differ between them."""
    tried = [trial.params for trial in _completed(study)]
    names = [name for name in (tried[0] if tried else {}) if all(name in params for params in tried)]
    return [name for name in names if len({params[name] for params in tried}) > 1]
