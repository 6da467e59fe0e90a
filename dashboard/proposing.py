"""The form by which a person proposes new values, checked by the sync worker's own rules before it is sent."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import streamlit as st

from tars.dashboard import by_hand, session
from tars.dashboard.desk import Desk
from tars.dashboard.reads import Rows
from tars.dashboard.wording import listed, plain
from tars.producers.rehearsal import rehearse, running_agents
from tars.schemas.views import AgentRow

COLUMNS: Final = 3
ADDRESS: Final = "propose"
"""The parameter of the address that opens the form: a role, or CHOSEN."""


def draw_form(views: Rows, desk: Desk) -> None:
    """Draw whom it is for, an input for each key, what speaks against it, and what became of it."""
    st.button("Back to the queue", key="propose-close", icon=":material/arrow_back:", type="tertiary", on_click=_close)
    rows = by_hand.learners(views.agents())
    targets = by_hand.targets(rows)
    if not targets:
        st.info("No live agent can be tuned: `tars run agents` hosts some, `tars.attach()` links your own.")
        return
    asked = st.query_params.get(ADDRESS)
    target = st.selectbox(
        "For", targets, index=targets.index(asked) if asked in targets else 0, key="propose-for", on_change=_aim
    )
    if target == by_hand.CHOSEN:
        names = st.multiselect("Agents", [row.agent_id for row in rows], key="propose-agents", on_change=_forget)
        chosen = [row for row in rows if row.agent_id in names]
    else:
        chosen = [row for row in rows if row.role == target]
    _keys(chosen, desk)


def _keys(chosen: Sequence[AgentRow], desk: Desk) -> None:
    strictness = session.settings().validation_strictness
    shown = by_hand.inputs(chosen, strictness)
    if not shown:
        st.info("Choose agents that learn by the same algorithm." if chosen else "Choose at least one agent.")
        return
    update_id = st.session_state.setdefault("propose-id", _new_id())
    st.caption(
        f"{listed(row.agent_id for row in chosen)}: what is left empty stays as it runs. Strictness {strictness}."
    )
    with st.form("propose", border=True, enter_to_submit=False):
        for start in range(0, len(shown), COLUMNS):
            for column, one in zip(st.columns(COLUMNS), shown[start : start + COLUMNS], strict=False):
                column.text_input(
                    one.name, key=f"set-{one.name}", help=one.help, disabled=one.locked, placeholder=one.runs
                )
                column.caption(f"runs {one.runs}; allowed {one.bounds}")
        st.text_input("Reason", key="propose-reason", max_chars=1000)
        keys = tuple(one.name for one in shown)
        buttons = st.container(horizontal=True)
        buttons.form_submit_button("Check", key="propose-check", on_click=_check, args=(tuple(chosen), keys))
        buttons.form_submit_button(
            "Propose", key="propose-send", type="primary", on_click=_send, args=(tuple(chosen), keys),
            disabled=desk.settled(update_id, "propose") or not desk.may("propose"),
        )  # fmt: skip
    _outcome(update_id, desk)


def _outcome(update_id: str, desk: Desk) -> None:
    """What speaks against it, or that nothing does; after it was sent, the way to a further one."""
    for objection in st.session_state.get("propose-objections", ()):
        st.error(plain(objection))
    if st.session_state.get("propose-objections") == ():
        st.success("Nothing speaks against it; nothing was sent.")
    if desk.settled(update_id, "propose"):
        st.button("Make another", key="propose-another", on_click=_another)


def _texts(names: Sequence[str]) -> Mapping[str, str]:
    return {name: str(st.session_state.get(f"set-{name}", "")) for name in names}


def _objections(chosen: Sequence[AgentRow], names: Sequence[str]) -> tuple[str, ...]:
    """Every reason against what was typed, by what was drawn: that is what a person has judged."""
    values, wrong = by_hand.typed(chosen, _texts(names))
    if not values and not wrong:
        return ("nothing is changed: type at least one value",)
    agents = tuple(row.agent_id for row in chosen)
    strictness = session.settings().validation_strictness
    rules = rehearse(values, agents, running_agents(chosen), strictness, datetime.now(UTC)) if values else []
    return (*wrong, *rules)


def _check(chosen: Sequence[AgentRow], names: Sequence[str]) -> None:
    st.session_state["propose-objections"] = _objections(chosen, names)


def _send(chosen: Sequence[AgentRow], names: Sequence[str]) -> None:
    """Runs before the page is drawn again, so it asks for the desk and the id itself."""
    objections = _objections(chosen, names)
    if objections:
        st.session_state["propose-objections"] = objections
        return
    _forget()
    values, _ = by_hand.typed(chosen, _texts(names))
    desk = session.desk()
    if desk.refused(st.session_state["propose-id"]):  # what was refused is an update too, and its end
        st.session_state["propose-id"] = _new_id()
    desk.propose(
        st.session_state["propose-id"],
        agents=tuple(row.agent_id for row in chosen),
        values=values,
        base={row.agent_id: row.heard for row in chosen},
        reason=st.session_state["propose-reason"],
    )


def _new_id() -> str:
    return f"u-{secrets.token_hex(8)}"


def _aim() -> None:
    st.query_params[ADDRESS] = st.session_state["propose-for"]
    _forget()


def _forget() -> None:
    """What was said of another target, or another set of values, no longer holds."""
    st.session_state.pop("propose-objections", None)


def _another() -> None:
    _forget()
    del st.session_state["propose-id"]
    for key in [key for key in st.session_state if str(key).startswith("set-")]:
        st.session_state[key] = ""
    st.session_state["propose-reason"] = ""


def _close() -> None:
    st.query_params.clear()
    _forget()
