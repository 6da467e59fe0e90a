"""Every update that ever was: a timeline, a table, and the audit of one by `?id=`, with roll back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

import pandas as pd
import streamlit as st

from tars.dashboard import session
from tars.dashboard.charts import changes as charts
from tars.dashboard.desk import Desk
from tars.dashboard.differences import groups
from tars.dashboard.panels import aligned, draw_evidence, draw_group, draw_judgements, draw_read_backs
from tars.dashboard.reads import Rows
from tars.dashboard.steps import badges, steps
from tars.dashboard.wording import REVERSIBLE, STAGE_COLOURS, ago, effect, listed, plain, points, summary
from tars.schemas.update import What
from tars.schemas.views import UpdateRow

SHEET: Final = 50
TIMELINE: Final = 15
"""Updates drawn on the timeline."""


def page(views: Rows, desk: Desk) -> None:
    """Draw all updates, or the audit of the one of `?id=`."""
    chosen = st.query_params.get("id")
    found = views.update(chosen) if chosen else None
    if chosen is not None and found is None:
        st.warning(f"There is no update {plain(chosen)}.")
    if found is not None:
        _audit(found, views, desk)
    else:
        _all(views)


def _all(views: Rows) -> None:
    sheet = st.session_state.setdefault("changes_sheet", 0)
    rows = views.updates(offset=sheet * SHEET, limit=SHEET + 1)
    shown, more = rows[:SHEET], len(rows) > SHEET
    if not shown:
        nothing = "No update was ever proposed: `tars propose --role policy --set gamma=0.97` proposes one."
        st.info(nothing if sheet == 0 else "No older updates.")
    else:
        _timeline(shown[:TIMELINE])
        # What was drawn is what was clicked on: the callback gets these ids, not those of the next refresh.
        key = f"changes_table_{st.session_state.setdefault('changes_opened', 0)}"
        st.dataframe(
            changes_frame(shown, datetime.now(UTC)),
            hide_index=True,
            column_config=aligned(["gain"]) | {"sets": st.column_config.TextColumn(width="medium")},
            key=key,
            selection_mode="single-cell",
            on_select=partial(_select, key, tuple(row.update_id for row in shown)),
        )
        st.caption("A click on an update opens its audit.")
    if sheet or more:
        buttons = st.container(horizontal=True)
        buttons.button("Newer", key="changes-newer", disabled=sheet == 0, on_click=_turn, args=(-1,))
        buttons.button("Older", key="changes-older", disabled=not more, on_click=_turn, args=(1,))


def _timeline(shown: Sequence[UpdateRow]) -> None:
    effects = charts.effects_frame(shown)
    if effects.empty:
        st.vega_lite_chart(charts.timeline_frame(shown), charts.TIMELINE)
        return
    left, right = st.columns([3, 2], gap="medium")
    left.vega_lite_chart(charts.timeline_frame(shown), charts.TIMELINE)
    right.vega_lite_chart(effects, charts.EFFECTS)
    right.caption("What the watch of each found on the agents reloaded, with its 90 % interval.")


def _turn(by: int) -> None:
    st.session_state["changes_sheet"] = max(0, st.session_state["changes_sheet"] + by)


def _select(key: str, ids: tuple[str, ...]) -> None:
    cells = st.session_state[key]["selection"]["cells"]
    if cells:
        st.query_params["id"] = ids[cells[0][0]]
        st.session_state["changes_opened"] += 1  # a new table next time: nothing in it is selected


def changes_frame(rows: Sequence[UpdateRow], now: datetime) -> pd.DataFrame:
    """Updates -> one row each."""
    return pd.DataFrame(
        [
            (
                row.update_id,
                row.stage,
                summary(row),
                listed(row.agents, 4),
                points(row.evidence.gain) if row.evidence else "",
                effect(row),
                row.proposed_by,
                row.approved_by or "",
                ago(row.changed_at, now),
                "; ".join(row.reasons) or row.reason,
            )
            for row in rows
        ],
        columns=["update", "stage", "sets", "agents", "gain", "effect", "proposed by", "approved by", "changed", "why"],
    )


def _audit(row: UpdateRow, views: Rows, desk: Desk) -> None:
    now = datetime.now(UTC)
    st.button("All changes", key="all-changes", icon=":material/arrow_back:", type="tertiary", on_click=_all_again)
    st.markdown(f"#### {row.update_id} :{STAGE_COLOURS[row.stage]}-badge[{row.stage}]")
    mode = f" ({row.mode})" if row.mode and row.mode != "manual" else ""
    approved = f" · approved by {plain(row.approved_by)}{mode}" if row.approved_by else ""
    study = f" · study {row.study_id}" if row.study_id else ""
    st.caption(f"proposed {ago(row.proposed_at, now)} by {plain(row.proposed_by)}{approved}{study}")
    st.markdown(badges(steps(row, now)))
    for reason in row.reasons:
        st.markdown(f"> {plain(reason)}")
    if row.stage in REVERSIBLE:
        _roll_back(row, desk)
    if row.stage == "approved":
        _apply(row, desk)
    if row.stage == "pending":
        st.markdown(f"[It waits for approval](approvals?id={row.update_id}).")
    draw_judgements(row)
    st.markdown("##### History")
    widths = {"what": 610, "event": 165, "trace": 95}
    columns = {name: st.column_config.TextColumn(width=width) for name, width in widths.items()}
    st.dataframe(audit_frame(row), hide_index=True, column_config=columns, height="content")
    draw_read_backs(row.read_backs)
    st.markdown("##### What it changes")
    strictness = session.settings().validation_strictness
    for group in groups(row, {agent.agent_id: agent.algorithm for agent in views.agents()}, strictness):
        draw_group(group, strictness, "runs" if row.stage in {"pending", "approved"} else "before")
    st.markdown("##### Evidence")
    draw_evidence(row.evidence)


def audit_frame(row: UpdateRow) -> pd.DataFrame:
    """An update's history -> one row for each event, the oldest first."""
    return pd.DataFrame(
        [
            (f"{entry.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], entry.text, entry.by or "TARS", entry.kind, entry.trace_id or "")
            for entry in row.history
        ],
        columns=["at (UTC)", "what", "who", "event", "trace"],
    )


def _all_again() -> None:
    st.query_params.clear()


def _roll_back(row: UpdateRow, desk: Desk) -> None:
    """Values, or all that the agents were; what is not possible is said before."""
    choices = ways_back(row)
    with st.form(f"roll-back-{row.update_id}", border=True, enter_to_submit=False):
        reason, what, button = st.columns([5, 3, 1], vertical_alignment="bottom")
        key = f"reason-{row.update_id}"
        reason.text_input("Reason", key=key, max_chars=1000, placeholder=f"take back what {listed(row.agents)} run")
        what.selectbox("What goes back", list(choices), key=f"what-{row.update_id}", format_func=choices.__getitem__)
        button.form_submit_button(
            "Roll back", key=f"roll_back-{row.update_id}", width="stretch", on_click=_take_back,
            args=(row.update_id,), disabled=desk.settled(row.update_id, "roll back") or not desk.may("roll back"),
        )  # fmt: skip
        st.checkbox(
            "Also where later updates lie over it, which are then undone with it", key=f"over_later-{row.update_id}"
        )
        st.caption(
            f"{without_snapshot(row)} `tars rollback {row.update_id} --what {next(iter(choices))}` does the same."
        )


def ways_back(row: UpdateRow) -> dict[What, str]:
    """What can go back, what a roll back would take by itself first; all only where an agent has a snapshot."""
    found: dict[What, str] = {"values": "the values"}
    if any(back.snapshot is not None for back in row.read_backs) or not row.read_backs:
        found["all"] = "values, weights and optimiser"
    if row.stage != "confirmed" and "all" in found:
        return {"all": found["all"], "values": found["values"]}
    return found


def without_snapshot(row: UpdateRow) -> str:
    """What of the agents cannot go back, in words."""
    bare = [back.agent_id for back in row.read_backs if back.snapshot is None]
    if bare and len(bare) == len(row.read_backs):
        return "Only the values can go back: no agent took a snapshot before its reload."
    only = f"Of {listed(bare)} only the values can go back: no snapshot was taken. " if bare else ""
    return f"{only}A snapshot that has gone meanwhile leaves the values alone, and the history says so."


def _apply(row: UpdateRow, desk: Desk) -> None:
    st.button(
        "Release", key=f"apply-{row.update_id}", on_click=_release, args=(row.update_id,),
        disabled=desk.settled(row.update_id, "apply") or not desk.may("apply"),
        help="It was approved on hold: this sends it to its agents.",
    )  # fmt: skip


def _release(update_id: str) -> None:
    session.desk().apply(update_id)


def _take_back(update_id: str) -> None:
    """Runs before the page is drawn again, so it asks for the desk itself."""
    session.desk().roll_back(
        update_id,
        st.session_state[f"reason-{update_id}"],
        what=st.session_state[f"what-{update_id}"],
        over_later=st.session_state[f"over_later-{update_id}"],
    )
