"""The form by which a person starts a study; the command line has every option."""

import secrets
from typing import Any, Final

import streamlit as st

from tars.dashboard import by_hand, session
from tars.dashboard.desk import Desk
from tars.dashboard.reads import Rows
from tars.schemas.hyperparameters import ALGORITHMS

ADDRESS: Final = "start"
"""The parameter of the address that opens the form: a role, CHOSEN, or ALONE."""
ALONE: Final = "an algorithm as such"
"""No target: the champion can only be shown."""
OBJECTIVES: Final = {
    "reward": "the score",
    "penalty": "the score, less what conflicts and latency cost",
    "pareto": "score, conflicts and latency apart",
}


def draw_form(views: Rows, desk: Desk) -> None:
    """Draw what is searched for whom, how long, and what becomes of the champion."""
    st.button("Back to the studies", key="start-close", icon=":material/arrow_back:", type="tertiary", on_click=_close)
    rows = views.agents()
    targets = [*by_hand.targets(rows), ALONE]
    asked = st.query_params.get(ADDRESS)
    index = targets.index(asked) if asked in targets else 0
    target = st.selectbox("For", targets, index=index, key="start-for", on_change=_aim)
    study_id = st.session_state.setdefault("start-id", f"s-{secrets.token_hex(8)}")
    with st.form("start", border=True, enter_to_submit=False):
        if target == by_hand.CHOSEN:
            st.multiselect("Agents", [row.agent_id for row in by_hand.learners(rows)], key="start-agents")
        elif target == ALONE:
            st.selectbox("Algorithm", list(ALGORITHMS), key="start-algorithm")
        _search(can_snapshot=target != ALONE)
        st.form_submit_button(
            "Start", key="start-send", type="primary", on_click=_send, args=(target, study_id),
            disabled=desk.settled(study_id, "start") or not desk.may("start"),
        )  # fmt: skip
    if desk.settled(study_id, "start"):
        st.button("Show it", key="start-show", on_click=_show, args=(study_id,))
    st.caption("Sampler, seed, Gymnasium environments and more: `tars study start --help`.")


def _search(*, can_snapshot: bool) -> None:
    one, two, three = st.columns(3)
    one.number_input("Trials", min_value=1, max_value=1000, value=20, step=1, key="start-trials")
    two.number_input("Minutes at most", min_value=0.0, value=0.0, step=5.0, key="start-minutes", help="0: no limit.")
    three.selectbox("Objective", list(OBJECTIVES), key="start-objective", format_func=OBJECTIVES.__getitem__)
    one.checkbox("Short search trials", key="start-quick", help="Evidence is always of full length.")
    two.checkbox(
        "Go on from the running agent's newest snapshot", key="start-snapshot", disabled=not can_snapshot,
        help="What wins from fresh weights can harm a learner that is hours old.",
    )  # fmt: skip
    three.checkbox("Propose a champion that is better", value=True, key="start-propose", disabled=not can_snapshot)


def _send(target: str, study_id: str) -> None:
    """Runs before the page is drawn again, so it asks for the desk itself."""
    state = st.session_state
    whom: dict[str, Any] = {"role": target}
    if target == by_hand.CHOSEN:
        whom = {"agents": tuple(state["start-agents"])}
    elif target == ALONE:
        whom = {"algorithm": state["start-algorithm"]}
    session.desk().start_study(
        study_id,
        **whom,
        trials=state["start-trials"],
        wall_seconds=60 * state["start-minutes"] or None,
        objective=state["start-objective"],
        quick=True if state["start-quick"] else None,
        start="snapshot" if state["start-snapshot"] and target != ALONE else "scratch",
        propose=state["start-propose"],
    )


def _aim() -> None:
    st.query_params[ADDRESS] = st.session_state["start-for"]


def _show(study_id: str) -> None:
    del st.session_state["start-id"]
    st.query_params.clear()
    st.query_params["id"] = study_id


def _close() -> None:
    if "start-id" in st.session_state:
        del st.session_state["start-id"]
    st.query_params.clear()
