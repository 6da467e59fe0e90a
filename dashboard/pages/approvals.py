"""Updates that wait for a person: what changes, the evidence, approve and reject."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import streamlit as st

from tars.dashboard import harm, session
from tars.dashboard.by_hand import CHOSEN, targets
from tars.dashboard.desk import Desk
from tars.dashboard.differences import groups
from tars.dashboard.panels import draw_evidence, draw_group
from tars.dashboard.proposing import ADDRESS, draw_form
from tars.dashboard.reads import Rows
from tars.dashboard.wording import ago, listed, obstacles, plain, points, span
from tars.schemas.bounds import Strictness
from tars.schemas.counting import counted
from tars.schemas.hyperparameters import AlgorithmName
from tars.schemas.views import AgentRow, UpdateRow

SHOWN: Final = 8
"""Updates drawn at once, the newest first."""


def page(views: Rows, desk: Desk) -> None:
    """Draw every pending update as a card, or the one of `?id=`; with `?propose=` the form to propose by hand."""
    if ADDRESS in st.query_params:
        draw_form(views, desk)
        return
    waiting, rows = views.pending(), views.agents()
    target = next(iter(targets(rows)), CHOSEN)
    st.button("Propose by hand", key="propose-open", icon=":material/edit:", on_click=_propose, args=(target,))
    agents = {row.agent_id: row for row in rows}
    if asked := st.query_params.get("id"):
        waiting = [row for row in waiting if row.update_id == asked]
        st.button("All that waits", key="all-waiting", icon=":material/arrow_back:", type="tertiary", on_click=_all)
        if not waiting:
            st.warning(f"{plain(asked)} does not wait for approval: *Changes* shows what became of it.")
            return
    if not waiting:
        st.info(
            "Nothing waits for approval. A study proposes what it finds better (`tars study start --role policy`); "
            "*Propose by hand*, or `tars propose --role policy --set gamma=0.97`, does without one."
        )
        return
    count = f"{counted(len(waiting), 'update')} wait{'s' * (len(waiting) == 1)} for approval"
    st.caption(count + (f"; the newest {SHOWN} are shown" if len(waiting) > SHOWN else "") + ".")
    now, episodes = datetime.now(UTC), session.settings().watch_episodes
    for row in waiting[:SHOWN]:
        with st.container(border=True, key=f"update-{row.update_id}"):
            _card(row, agents)
            concerned = [agents[name] for name in row.agents if name in agents]
            st.caption(harm.foreseen(concerned, views, now, episodes))
            _decide(row, desk)


def _card(row: UpdateRow, agents: Mapping[str, AgentRow]) -> None:
    now = datetime.now(UTC)
    strictness: Strictness = session.settings().validation_strictness
    algorithms: dict[str, AlgorithmName | None] = {name: agent.algorithm for name, agent in agents.items()}
    gain = f" · held-out gain {points(row.evidence.gain)}" if row.evidence else ""
    st.markdown(f"#### {row.update_id}")
    expires = f" · expires in {span((row.expires_at - now).total_seconds())}" if row.expires_at else ""
    study = f" · study {row.study_id}" if row.study_id else ""
    st.caption(f"proposed {ago(row.proposed_at, now)} by {plain(row.proposed_by)}{study}{expires}{gain}")
    if row.reason:
        st.markdown(f"> {plain(row.reason)}")
    for obstacle in obstacles(row, agents, now):
        st.warning(obstacle)
    for group in groups(row, algorithms, strictness):
        draw_group(group, strictness)
    draw_evidence(row.evidence)


def _propose(target: str) -> None:
    st.query_params.clear()
    st.query_params[ADDRESS] = target


def _all() -> None:
    st.query_params.clear()


def _decide(row: UpdateRow, desk: Desk) -> None:
    """A form, so that the reason and the button arrive together."""
    with st.form(f"decide-{row.update_id}", border=False, enter_to_submit=False):
        reason, approve, reject = st.columns([6, 1, 1], vertical_alignment="bottom")
        key = f"reason-{row.update_id}"
        reason.text_input("Reason", key=key, max_chars=1000, placeholder=f"for {listed(row.agents)}")
        settled = desk.settled(row.update_id, "approve", "reject")
        approve.form_submit_button(
            "Approve", key=f"approve-{row.update_id}", type="primary", width="stretch",
            disabled=settled or not desk.may("approve"),
            on_click=_approve, args=(row.update_id, key),
        )  # fmt: skip
        reject.form_submit_button(
            "Reject", key=f"reject-{row.update_id}", width="stretch",
            disabled=settled or not desk.may("reject"),
            on_click=_reject, args=(row.update_id, key),
        )  # fmt: skip
        st.checkbox("On hold: whoever approves releases it later, from its *Changes* page", key=f"hold-{row.update_id}")


def _approve(update_id: str, key: str) -> None:
    """Runs before the page is drawn again, so it asks for the desk itself."""
    session.desk().approve(update_id, st.session_state[key], hold=st.session_state[f"hold-{update_id}"])


def _reject(update_id: str, key: str) -> None:
    session.desk().reject(update_id, st.session_state[key])
