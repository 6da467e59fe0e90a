"""Live agents: what they run and how they do; one agent by `?id=`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import pandas as pd
import pyarrow as pa
import streamlit as st

from tars.dashboard.charts import agents as charts
from tars.dashboard.desk import Desk
from tars.dashboard.panels import aligned
from tars.dashboard.reads import Rows
from tars.dashboard.sparkline import HEIGHT, sparkline
from tars.dashboard.wording import (
    DASH,
    ago,
    condition,
    drift,
    listed,
    milliseconds,
    number,
    plain,
    score,
    span,
    summary,
    version,
)
from tars.schemas.hyperparameters import ALGORITHMS, same
from tars.schemas.views import AgentRow, UpdateRow

COLUMNS: Final = 4
WALL: Final = 12
"""Learners shown at once; the others are on further sheets."""
SPARK_EPISODES: Final = 240
HISTORY_EPISODES: Final = 300
NO_CURVE: Final = f'<div style="height:{HEIGHT}px;opacity:.65">no episode yet</div>'


def page(views: Rows, desk: Desk) -> None:  # noqa: ARG001 - every page has both
    """Draw the wall, or the agent of `?id=`."""
    rows = views.agents()
    chosen = st.query_params.get("id")
    found = next((row for row in rows if row.agent_id == chosen), None)
    if chosen is not None and found is None:
        st.warning(f"There is no agent {plain(chosen)}.")
    if found is not None:
        _one(found, views)
    elif rows:
        _wall(rows, views)
    else:
        st.info("No agent has started yet: `tars run agents` hosts some, `tars.attach()` links your own.")


def _wall(rows: Sequence[AgentRow], views: Rows) -> None:
    now = datetime.now(UTC)
    learners = [row for row in rows if row.algorithm is not None]
    others = [row for row in rows if row.algorithm is None]
    _totals(rows, now)
    shown = _sheet(learners)
    wide = max(2, min(COLUMNS, len(shown)))
    for start in range(0, len(shown), wide):
        for column, row in zip(st.columns(wide), shown[start : start + wide], strict=False):
            with column:
                _card(row, views, now)
    if learners:
        st.markdown("##### Values in use")
        table = _values_table(tuple(_shown_values(row) for row in learners))
        st.dataframe(table, hide_index=True, height="content", column_config=aligned(table.column_names[1:]))
    if others:
        st.markdown("##### Agents that follow a reference policy")
        st.dataframe(others_frame(others, now), hide_index=True)


def _totals(rows: Sequence[AgentRow], now: datetime) -> None:
    running = sum(condition(row, now)[0] == "running" for row in rows)
    heard = max((row.seen_at for row in rows if row.seen_at), default=None)
    latencies = [row.reload_milliseconds for row in rows if row.reload_milliseconds is not None]
    one, two, three, four = st.columns(4)
    one.metric("running", f"{running} of {len(rows)}")
    two.metric("learning", sum(row.algorithm is not None for row in rows))
    three.metric("slowest last reload", milliseconds(max(latencies, default=None)))
    four.metric("newest report", ago(heard, now))


def _sheet(learners: Sequence[AgentRow]) -> Sequence[AgentRow]:
    """Let a person choose which WALL learners to see."""
    if len(learners) <= WALL:
        return learners
    starts = range(0, len(learners), WALL)
    start = st.selectbox(
        "Learners",
        starts,
        format_func=lambda at: f"{learners[at].agent_id} … {learners[min(at + WALL, len(learners)) - 1].agent_id}",
        key="agents_sheet",
    )
    return learners[start : start + WALL]


def _card(row: AgentRow, views: Rows, now: datetime) -> None:
    with st.container(border=True, gap="xsmall", key=f"card-{row.agent_id}"):
        state, colour = condition(row, now)
        head = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
        head.button(row.agent_id, key=f"open-{row.agent_id}", type="tertiary", on_click=_open, args=(row.agent_id,))
        apart = drift(row)
        head.markdown(
            f":{colour}-badge[{state}]" + (" :orange-badge[drifted]" if apart else ""), width="content", help=apart
        )
        if row.seen_at is not None:
            st.html(_curve(row.agent_id, row.seen_at, views))
        facts = [f"score **{score(row.score)}**", f"episode {row.episode:,}", f"runs **{version(row)}**"]
        reload = f"reloaded {ago(row.reloaded_at, now)} in {milliseconds(row.reload_milliseconds)}"
        what = f"{plain(row.role or 'foreign')} · {row.algorithm} · {reload if row.reloaded_at else 'never reloaded'}"
        st.markdown(f"{' · '.join(facts)}  \n:small[:gray[{what}]]")  # one element: each costs in every session


@st.cache_resource(max_entries=4 * WALL, show_spinner=False)
def _curve(agent_id: str, seen_at: datetime, _views: Rows) -> str:  # noqa: ARG001 - a new report is a new curve
    """Drawn once for all sessions: by its name, Streamlit takes no notice of `_views`."""
    history = _views.history(agent_id, limit=SPARK_EPISODES)
    return sparkline(history) if history else NO_CURVE


def _open(agent_id: str | None = None) -> None:
    st.query_params.clear()
    if agent_id is not None:
        st.query_params["id"] = agent_id


Shown = tuple[str, tuple[tuple[str, str], ...]]
"""An agent's heading, and each of its values in words."""


def _shown_values(row: AgentRow) -> Shown:
    return f"{row.agent_id} {version(row)}", tuple((name, number(value)) for name, value in row.values.items())  # noqa: PD011 - no pandas


@lru_cache(maxsize=8)
def _values_table(learners: tuple[Shown, ...]) -> pa.Table:
    """One row for each hyperparameter that any of them has, one column for each agent; the same for all sessions."""
    names = list(dict.fromkeys(name for _, values in learners for name, _ in values))
    columns = {heading: [dict(values).get(name, "") for name in names] for heading, values in learners}
    return pa.table({"key": names, **columns})


def others_frame(rows: Sequence[AgentRow], now: datetime) -> pd.DataFrame:
    """Agents without a learner -> one row each."""
    return pd.DataFrame(
        [(row.agent_id, row.role, row.world or "", condition(row, now)[0], ago(row.seen_at, now)) for row in rows],
        columns=["agent", "role", "world", "state", "seen"],
    )


def _one(row: AgentRow, views: Rows) -> None:
    now = datetime.now(UTC)
    state, colour = condition(row, now)
    st.button(
        "All agents", key="all-agents", icon=":material/arrow_back:", type="tertiary", on_click=_open, args=(None,)
    )
    apart = drift(row)
    st.markdown(f"#### {row.agent_id} :{colour}-badge[{state}]" + (" :orange-badge[drifted]" if apart else ""))
    if apart:
        st.warning(apart)
    silent = (
        f" · not heard of for {span((now - row.seen_at).total_seconds())}" if state == "silent" and row.seen_at else ""
    )
    st.caption(
        f"{plain(row.role or 'foreign')} · {row.algorithm or 'reference policy'} · world {row.world or DASH}{silent}"
    )
    for column, (label, text) in zip(st.columns(6), _facts(row, now).items(), strict=True):
        column.metric(label, text)
    _history(row, views)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.markdown("##### Values in use")
        table = declared_frame(row)
        st.dataframe(table, hide_index=True, height="content", column_config=aligned(table.columns[1:3]))
    with right:
        st.markdown("##### Updates")
        concerning = [update for update in views.updates(limit=100) if row.agent_id in update.agents]
        if concerning:
            st.dataframe(updates_frame(concerning, now), hide_index=True)
        else:
            st.caption(f"None yet: `tars propose --agent {row.agent_id} --set gamma=0.97` proposes one.")


def _history(row: AgentRow, views: Rows) -> None:
    """Its curve, HISTORY_EPISODES at a time, newest first."""
    asked = st.query_params.get("sheet", "0")
    sheet = int(asked) if asked.isdecimal() and asked.isascii() and len(asked) <= 3 else 0  # noqa: PLR2004 - digits
    found = views.history(row.agent_id, offset=sheet * HISTORY_EPISODES, limit=HISTORY_EPISODES + 1)
    shown = found[:HISTORY_EPISODES]
    if shown:
        st.vega_lite_chart(charts.score_frame(shown), charts.SCORE)
        st.caption(
            f"Episodes {shown[-1].episode:,} to {shown[0].episode:,}. Grey: each episode; blue: the mean of "
            f"{charts.WINDOW}; dashed: a reload."
        )
    else:
        st.info("It has reported no episode yet." if sheet == 0 else "No older episode is kept.")
    if sheet or len(found) > len(shown):
        buttons = st.container(horizontal=True)
        buttons.button("Newer", key="history-newer", disabled=sheet == 0, on_click=_turn, args=(sheet - 1,))
        buttons.button(
            "Older", key="history-older", disabled=len(found) <= len(shown), on_click=_turn, args=(sheet + 1,)
        )


def _turn(sheet: int) -> None:
    st.query_params["sheet"] = str(sheet)


def _facts(row: AgentRow, now: datetime) -> Mapping[str, str]:
    return {
        "score": score(row.score),
        "episode": f"{row.episode:,}",
        "gradient steps": f"{row.step:,}",
        "runs": version(row),
        "last reload": ago(row.reloaded_at, now),
        "its latency": milliseconds(row.reload_milliseconds),
    }


def declared_frame(row: AgentRow) -> pd.DataFrame:
    """An agent's values beside what its algorithm declares of each key."""
    known = ALGORITHMS[row.algorithm] if row.algorithm else None
    found = []
    for name, value in row.values.items():  # noqa: PD011 - no pandas
        declared = known[name] if known and name in known.names else None
        default = number(declared.default) if declared else ""
        moved = declared is not None and not same(declared.default, value)
        found.append((name, number(value), default if moved else "", declared.meaning if declared else ""))
    return pd.DataFrame(found, columns=["key", "value", "default, where another", "meaning"])


def updates_frame(updates: Sequence[UpdateRow], now: datetime) -> pd.DataFrame:
    """Updates -> one row each, for the agent they concern."""
    return pd.DataFrame(
        [(u.update_id, u.stage, summary(u), ago(u.changed_at, now), listed(u.reasons)) for u in updates],
        columns=["update", "stage", "sets", "changed", "why"],
    )
