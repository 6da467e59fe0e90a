"""Studies: how far each has come, its trials, and the evidence for its champion; one by `?id=`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import pandas as pd
import streamlit as st

from tars.dashboard import charts
from tars.dashboard.desk import Desk
from tars.dashboard.panels import draw_evidence
from tars.dashboard.reads import Rows
from tars.dashboard.wording import STARTED, ago, aim, listed, number, points, score, span
from tars.schemas.hyperparameters import same
from tars.schemas.views import StudyRow, TrialRow

COLOURS: Final = {"running": "blue", "finished": "green", "stopped": "gray", "failed": "red"}


def page(views: Rows, desk: Desk) -> None:  # noqa: ARG001 - every page has both
    """Draw one study, the newest unless another is chosen, below the list of all."""
    rows = views.studies()
    if not rows:
        st.info("No study has run yet: `tars study start --role policy --trials 20` starts one.")
        return
    ids = [row.study_id for row in rows]
    asked = st.query_params.get("id")
    if asked is not None and asked not in ids:
        st.warning(f"There is no study {asked}.")
    chosen = st.selectbox("Study", ids, index=ids.index(asked) if asked in ids else 0, key="study", on_change=_choose)
    row = rows[ids.index(chosen)]
    _one(row, views.trials(row.study_id))
    if len(rows) > 1:
        st.markdown("##### All studies")
        st.dataframe(studies_frame(rows, datetime.now(UTC)), hide_index=True)


def _choose() -> None:
    st.query_params["id"] = st.session_state["study"]


def _one(row: StudyRow, trials: Sequence[TrialRow]) -> None:
    target = listed(row.agents) if row.agents else "no agents"
    st.markdown(f":{COLOURS[row.stage]}-badge[{row.stage}] {row.algorithm} in {row.environment} for {target}")
    limit = f"; its search ends after {span(row.wall_seconds)}" if row.wall_seconds else ""
    st.caption(f"Objective: {aim(row.objective, row.weights)}; trials are trained {STARTED[row.start]}{limit}.")
    _progress(row)
    one, two, three, four = st.columns(4)
    one.metric("best search score", score(row.best_score))
    two.metric("held-out trials", row.confirmations)
    three.metric("started", ago(row.started_at, datetime.now(UTC)))
    four.metric("by", row.by)
    if row.error:
        st.error(row.error)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        if row.trials:
            st.vega_lite_chart(charts.trials_frame(trials), charts.TRIALS)
        if row.front:
            st.vega_lite_chart(charts.front_frame(row.front, trials), charts.FRONT)
            st.caption("The Pareto front in colour; grey: trials that another beats in score, conflicts and latency.")
    with right:
        st.dataframe(trials_table(trials, row.searched), hide_index=True, height=280)
        if row.importances:
            st.vega_lite_chart(charts.importances_frame(row.importances), charts.IMPORTANCES)
            st.caption("Importances: by which keys the good trials differ from all.")
    if len(row.weighed) > 1:
        st.markdown("##### Weighed on held-out seeds")
        st.dataframe(weighed_frame(row), hide_index=True)
    if row.champion is not None:
        st.markdown("##### Champion")
        st.dataframe(champion_frame(row), hide_index=True)
        draw_evidence(row.evidence)


def _progress(row: StudyRow) -> None:
    """A study of given candidates searches nothing."""
    if not row.trials:
        st.caption("Nothing is searched: candidates that were given are weighed.")
        return
    done = row.completed + row.pruned + row.failed
    st.progress(
        min(1.0, done / row.trials), f"search: {done} of {row.trials} trials, {row.pruned} pruned, {row.failed} failed"
    )


def trials_table(trials: Sequence[TrialRow], searched: Sequence[str]) -> pd.DataFrame:
    """Trials -> one row each, the newest first."""
    measured = any(row.conflict is not None for row in trials)
    return pd.DataFrame(
        [
            {
                "trial": row.number,
                "phase": row.phase,
                "stage": row.error
                or (f"episode {row.episode} of {row.train_episodes}" if row.stage == "waiting" else row.stage),
                "score": score(row.score if row.stage == "completed" else None),
                **({"conflict": score(row.conflict), "latency": score(row.latency)} if measured else {}),
                **{name: number(row.hyperparameters.get(name)) for name in searched},
            }
            for row in reversed(trials)
        ]
    )


def weighed_frame(row: StudyRow) -> pd.DataFrame:
    """A study's candidates -> one row each: what it changes, what it gained, what was found."""
    return pd.DataFrame(
        [
            (
                ", ".join(
                    f"{name} {number(value)}"
                    for name, value in found.candidate.items()
                    if not same(found.incumbent.get(name), value)
                ),
                points(found.gain),
                f"{100 * found.gain_low:+.1f} … {100 * found.gain_high:+.1f}",
                len(found.scores),
                found.verdict,
            )
            for found in row.weighed
        ],
        columns=["changes", "gain", "95 % interval", "seeds", "verdict"],
    )


def champion_frame(row: StudyRow) -> pd.DataFrame:
    """A study's champion beside what runs, where they differ."""
    champion = row.champion or {}
    return pd.DataFrame(
        [
            (name, number(row.incumbent.get(name)), number(value))
            for name, value in champion.items()
            if not same(row.incumbent.get(name), value)
        ],
        columns=["key", "runs", "champion"],
    )


def studies_frame(rows: Sequence[StudyRow], now: datetime) -> pd.DataFrame:
    """Studies -> one row each."""
    return pd.DataFrame(
        [
            (
                row.study_id,
                row.stage,
                row.environment,
                f"{row.completed + row.pruned + row.failed} of {row.trials}" if row.trials else "fork",
                row.evidence.verdict if row.evidence else "",
                row.by,
                ago(row.started_at, now),
            )
            for row in rows
        ],
        columns=["study", "stage", "environment", "trials", "verdict", "by", "started"],
    )
