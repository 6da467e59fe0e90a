"""Studies: how far each has come, its trials, and the evidence for its champion; one by `?id=`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import pandas as pd
import streamlit as st

from tars.dashboard import session
from tars.dashboard.charts import studies as charts
from tars.dashboard.desk import Desk
from tars.dashboard.panels import aligned, draw_evidence
from tars.dashboard.reads import Rows
from tars.dashboard.starting import ADDRESS, draw_form
from tars.dashboard.wording import STARTED, ago, aim, assigned, listed, number, plain, points, score, span
from tars.schemas.hyperparameters import changed
from tars.schemas.views import StudyRow, TrialRow

AFTER_THE_SEARCH: Final = {
    "confirmation": "the best few and the incumbent are trained on held-out seeds",
    "ablation": "each changed key alone is put back, to see what it is worth",
}
COLOURS: Final = {"running": "blue", "finished": "green", "stopped": "gray", "failed": "red"}


def page(views: Rows, desk: Desk) -> None:
    """Draw one study, the newest unless another is chosen, above the list of all; with `?start=` the form for one."""
    if ADDRESS in st.query_params:
        draw_form(views, desk)
        return
    rows = views.studies()
    st.button("Start a study", key="start-open", icon=":material/add:", on_click=_start)
    if not rows:
        st.info("No study has run yet: `tars study start --role policy --trials 20` starts one.")
        return
    asked = st.query_params.get("id")
    if asked is not None and asked not in {row.study_id for row in rows}:
        if (older := views.study(asked)) is None:
            st.warning(f"There is no study {plain(asked)}.")
        else:
            rows = [*rows, older]
    ids = [row.study_id for row in rows]
    chosen = st.selectbox("Study", ids, index=ids.index(asked) if asked in ids else 0, key="study", on_change=_choose)
    row = rows[ids.index(chosen)]
    _one(row, views.trials(row.study_id), desk)
    if len(rows) > 1:
        st.markdown("##### All studies")
        st.dataframe(studies_frame(rows, datetime.now(UTC)), hide_index=True)


def _choose() -> None:
    st.query_params["id"] = st.session_state["study"]


def _start() -> None:
    st.query_params.clear()
    st.query_params[ADDRESS] = "a role"


def _stop(row: StudyRow, desk: Desk) -> None:
    with st.form(f"stop-{row.study_id}", border=False, enter_to_submit=False):
        reason, button = st.columns([6, 1], vertical_alignment="bottom")
        key = f"reason-{row.study_id}"
        reason.text_input("Reason", key=key, max_chars=1000, placeholder="what it has found so far stays")
        button.form_submit_button(
            "Stop", key=f"stop_study-{row.study_id}", width="stretch", on_click=_end, args=(row.study_id, key),
            disabled=desk.settled(row.study_id, "stop") or not desk.may("stop"),
        )  # fmt: skip


def _end(study_id: str, key: str) -> None:
    """Runs before the page is drawn again, so it asks for the desk itself."""
    session.desk().stop_study(study_id, st.session_state[key])


def _one(row: StudyRow, trials: Sequence[TrialRow], desk: Desk) -> None:
    target = listed(row.agents) if row.agents else "no agents"
    st.markdown(f":{COLOURS[row.stage]}-badge[{row.stage}] {row.algorithm} in {plain(row.environment)} for {target}")
    limit = f"; its search ends after {span(row.wall_seconds)}" if row.wall_seconds else ""
    st.caption(f"Objective: {aim(row.objective, row.weights)}; trials are trained {STARTED[row.start]}{limit}.")
    _progress(row, trials)
    if row.stage == "running":
        _stop(row, desk)
    one, two, three, four = st.columns(4)
    one.metric("best search score", score(row.best_score))
    two.metric("held-out trials", row.confirmations)
    three.metric("started", ago(row.started_at, datetime.now(UTC)))
    four.metric("by", plain(row.by))
    if row.error:
        st.error(plain(row.error))
    left, right = st.columns([3, 2], gap="medium")
    with left:
        if row.trials:
            st.vega_lite_chart(charts.trials_frame(trials), charts.TRIALS)
            _parallel(row, trials)
        if row.front:
            st.vega_lite_chart(charts.front_frame(row.front, trials), charts.FRONT)
            st.caption("The Pareto front in colour; grey: trials that another beats in score, conflicts and latency.")
    with right:
        numbers = aligned(("score", "conflict", "latency", *row.searched))
        st.dataframe(trials_table(trials, row.searched), hide_index=True, height=280, column_config=numbers)
        if row.importances:
            st.vega_lite_chart(charts.importances_frame(row.importances), charts.IMPORTANCES)
            st.caption("Importances: by which keys the good trials differ from all.")
    if len(row.weighed) > 1:
        st.markdown("##### Weighed on held-out seeds")
        st.dataframe(weighed_frame(row), hide_index=True, column_config=aligned(["gain", "95 % interval"]))
    if row.champion is not None:
        st.markdown("##### Champion")
        st.dataframe(champion_frame(row), hide_index=True, column_config=aligned(["runs", "champion"]))
        draw_evidence(row.evidence)


def _parallel(row: StudyRow, trials: Sequence[TrialRow]) -> None:
    """Each trial as a line through its values: where the good ones run together a key matters."""
    frame = charts.parallel_frame(trials, row.searched, row.algorithm)
    if not frame.empty:
        st.vega_lite_chart(frame, charts.PARALLEL)
        st.caption("Each trial of the search through its values, lowest to highest tried; the better, the bluer.")


def _progress(row: StudyRow, trials: Sequence[TrialRow]) -> None:
    """How far the search is, and what comes after it. A study of given candidates searches nothing."""
    if not row.trials:
        st.caption("Nothing is searched: candidates that were given are weighed.")
    else:
        done = row.completed + row.pruned + row.failed
        told = f"search: {done} of {row.trials} trials, {row.pruned} pruned, {row.failed} failed"
        st.progress(min(1.0, done / row.trials), told)
    after = AFTER_THE_SEARCH.get(trials[-1].phase) if trials else None
    if row.stage == "running" and after:
        st.caption(f"Now: {after}.")


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
                assigned(changed(found.incumbent, found.candidate)),
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
    return pd.DataFrame(
        [
            (name, number(row.incumbent.get(name)), number(value))
            for name, value in changed(row.incumbent, row.champion or {}).items()
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
