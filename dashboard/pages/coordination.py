"""How well the roles of a world play together: conflicts, distance from an equilibrium, what each role could gain."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import streamlit as st

from tars.dashboard.charts import coordination as charts
from tars.dashboard.desk import Desk
from tars.dashboard.reads import Rows
from tars.dashboard.wording import ago, plain, score
from tars.schemas.views import ConflictRow, EquilibriumRow

SHOWN: Final = 400
"""Measurements read, of all worlds together."""


def page(views: Rows, desk: Desk) -> None:  # noqa: ARG001 - every page has both
    """Draw one world, that of `?id=` or the one heard of last."""
    conflicts, equilibria = views.conflicts(limit=SHOWN), views.equilibria(limit=SHOWN)
    worlds = list(dict.fromkeys([row.game_id for row in equilibria] + [row.game_id for row in conflicts]))
    if not worlds:
        st.info("No world has been measured yet: `tars run agents` hosts worlds, which report now and then.")
        return
    asked = st.query_params.get("id")
    if asked is not None and asked not in worlds:
        st.warning(f"There is no news of a world {plain(asked)}.")
    world = asked if asked is not None and asked in worlds else worlds[0]
    if len(worlds) > 1:
        ordered = sorted(worlds)
        world = st.selectbox("World", ordered, index=ordered.index(world), key="world", on_change=_choose)
    _one(
        world,
        [row for row in conflicts if row.game_id == world],
        [row for row in equilibria if row.game_id == world],
    )


def _choose() -> None:
    st.query_params["id"] = st.session_state["world"]


def _one(world: str, conflicts: Sequence[ConflictRow], equilibria: Sequence[EquilibriumRow]) -> None:
    _totals(world, conflicts, equilibria)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("##### Conflicts a step")
        if conflicts:
            st.vega_lite_chart(charts.conflicts_frame(conflicts), charts.CONFLICTS)
            st.caption("*veto*: ethical stops what policy serves; *starved*: consensus accepts what resource starves.")
    with right:
        st.markdown("##### Distance from an equilibrium")
        if equilibria:
            st.vega_lite_chart(charts.nash_frame(equilibria), charts.NASH)
            st.caption("NashConv: what the roles could gain together by each answering the others best; 0 is the best.")
    if equilibria:
        st.markdown("##### What each role could still gain")
        st.vega_lite_chart(charts.gains_frame(equilibria), charts.GAINS)
        st.caption("Mean reward a step, if this role alone answered the others best.")


def _totals(world: str, conflicts: Sequence[ConflictRow], equilibria: Sequence[EquilibriumRow]) -> None:
    newest: list[tuple[datetime, int]] = [(row.at, row.episode) for row in conflicts[:1]]
    newest += [(row.at, row.episode) for row in equilibria[:1]]
    at, episode = max(newest)
    one, two, three, four = st.columns(4)
    one.metric("world", world)
    two.metric("NashConv", score(equilibria[0].nash_conv if equilibria else None))
    three.metric("conflicts a step", score(sum(conflicts[0].conflicts.values()) if conflicts else None))
    four.metric("measured", ago(at, datetime.now(UTC)), f"episode {episode:,}", delta_color="off", delta_arrow="off")
