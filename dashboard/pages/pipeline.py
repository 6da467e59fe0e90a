"""What messages wait for: lag, workers, dead letters with replay, Redis; one dead letter by `?id=`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import pandas as pd
import streamlit as st

from tars.dashboard import session
from tars.dashboard.desk import Desk
from tars.dashboard.reads import Rows
from tars.dashboard.wording import ago, plain, size
from tars.schemas.counting import counted
from tars.schemas.streams import ROLES
from tars.schemas.views import DeadRow, PipelineRow, StatsRow

SHOWN: Final = 20
"""Dead letters drawn, the newest first."""
READ: Final = 200
"""Dead letters among which `?id=` is sought."""


def page(views: Rows, desk: Desk) -> None:
    """Draw lag, workers, dead letters and Redis."""
    # A letter of which nobody asked is not read: their bodies are whole messages, and this is done every second.
    letters = views.dead(limit=READ if "id" in st.query_params else SHOWN + 1)
    rows, counts = views.pipeline(), views.stats()
    _totals(rows, counts)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.markdown("##### Work that waits")
        if rows:
            st.dataframe(lag_frame(rows), hide_index=True)
        else:
            st.info("Nothing was measured yet: the consumers do, every 5 seconds (`tars run consumers`).")
    with right:
        st.markdown("##### Workers")
        for role, (state, colour) in workers(rows).items():
            st.markdown(f":{colour}-badge[{state}] {role}")
        st.markdown("##### Redis")
        _redis(counts)
    st.markdown("##### Dead letters")
    _letters(letters, desk)


def _totals(rows: Sequence[PipelineRow], counts: StatsRow) -> None:
    one, two, three, four = st.columns(4)
    one.metric("waiting", f"{sum(row.waiting for row in rows):,}")
    two.metric("in hand", f"{sum(row.unacknowledged for row in rows):,}")
    three.metric("redelivered", f"{sum(row.redelivered for row in rows):,}")
    four.metric("dead letters", f"{counts.dead:,}", help="Since the ledger began; they stay for 30 days.")


def lag_frame(rows: Sequence[PipelineRow]) -> pd.DataFrame:
    """Durables -> one row each."""
    return pd.DataFrame(
        [(row.durable, row.stream, row.waiting, row.unacknowledged, row.redelivered, row.listening) for row in rows],
        columns=["work", "stream", "waiting", "in hand", "redelivered", "workers that wait"],
    )


def workers(rows: Sequence[PipelineRow]) -> Mapping[str, tuple[str, str]]:
    """By role that works on durables, what it does in words and a colour; nothing where nothing was measured."""
    known = {row.durable: row for row in rows}
    found = {}
    for role, rights in ROLES.items():
        mine = [known[name] for name in rights.durables if name in known]
        if mine:
            found[role] = _state(role, mine)
    return found


def _state(role: str, rows: Sequence[PipelineRow]) -> tuple[str, str]:
    alone = [row.durable for row in rows if not row.listening and not row.unacknowledged]
    if len(alone) == len(rows):
        return f"nobody works: start one with `tars run {role}`", "red"
    busy = sum(row.unacknowledged for row in rows)
    return (f"works on {busy:,}", "blue") if busy else ("waits for work", "green")


def _redis(counts: StatsRow) -> None:
    if not session.settings().use_redis:
        st.caption("USE_REDIS=false: rows come from the consumers' queries.")
        return
    if not counts.redis_keys:
        st.caption("Not measured yet: the consumers do, every 5 seconds.")
        return
    one, two = st.columns(2)
    one.metric("memory", size(counts.redis_bytes))
    two.metric("keys", f"{counts.redis_keys:,}")
    held = (
        f"{counted(counts.agents, 'agent')} with {counted(counts.history, 'episode')}",
        counted(counts.updates, "update"),
        counted(counts.studies, "study", "studies"),
        counted(counts.conflicts, "conflict"),
        counted(counts.equilibria, "equilibrium", "equilibria"),
        counted(counts.sessions, "open page"),
    )
    st.progress(min(1.0, counts.utilisation), f"longest history: {counts.utilisation:.0%} of {counts.history_cap:,}")
    st.caption(f"{', '.join(held)}.")


def _letters(letters: Sequence[DeadRow], desk: Desk) -> None:
    asked = st.query_params.get("id")
    chosen = next((row for row in letters if str(row.sequence) == asked), None)
    if asked is not None and chosen is None:
        st.warning(f"There is no dead letter {plain(asked)} among the newest {READ}: `tars dead show` looks further.")
    if chosen is not None:
        st.button("All dead letters", key="all-dead", icon=":material/arrow_back:", type="tertiary", on_click=_open)
        _letter(chosen, desk, whole=True)
        return
    if not letters:
        st.caption("None: every message could be read and handled.")
        return
    if len(letters) > SHOWN:
        st.caption(f"The newest {SHOWN}; `tars dead list --limit 1000` shows more.")
    for row in letters[:SHOWN]:
        _letter(row, desk, whole=False)


def _letter(row: DeadRow, desk: Desk, *, whole: bool) -> None:
    with st.container(border=True, key=f"dead-{row.sequence}"):
        head = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
        head.button(f"{row.sequence}", key=f"open-dead-{row.sequence}", type="tertiary", on_click=_open, args=(row,))
        head.markdown(f"{plain(row.subject)} :red-badge[{plain(row.reason)}]", width="content")
        head.button(
            "Replay", key=f"replay-{row.sequence}", on_click=_replay, args=(row.sequence,),
            disabled=(
                row.not_again is not None
                or desk.settled(f"dead letter {row.sequence}", "replay")
                or not desk.may("replay")
            ),
            help=plain(row.not_again or "") or "Sends the same bytes again in your name, under a new id.",
        )  # fmt: skip
        st.caption(f"{ago(row.at, datetime.now(UTC))}, deliveries {row.attempts}: {plain(row.error)}")
        if whole:
            if row.not_again:
                st.caption(f"It cannot be sent again: {plain(row.not_again)}.")
            st.code(row.body, language="json", wrap_lines=True)


def _open(row: DeadRow | None = None) -> None:
    if row is None:
        st.query_params.clear()
    else:
        st.query_params["id"] = str(row.sequence)


def _replay(sequence: int) -> None:
    """Runs before the page is drawn again, so it asks for the desk itself."""
    session.desk().replay(sequence)
