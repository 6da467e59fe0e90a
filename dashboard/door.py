"""Logging in and out, who is shown to be there, and the way back to the address that somebody came by."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import streamlit as st

from tars.dashboard.identity import Visitor
from tars.dashboard.wording import plain

COOKIE: Final = "tars_return"
KEPT_SECONDS: Final = 600
"""How long logging in may take: Streamlit leads everybody to the first page then, and drops the address."""
# The address as the browser has it; nothing that anybody sent is written into the script.
REMEMBER: Final = (
    f"<script>document.cookie='{COOKIE}='+encodeURIComponent(location.pathname+location.search)"
    f"+';path=/;max-age={KEPT_SECONDS};samesite=lax'</script>"
)
FORGET: Final = f"<script>document.cookie='{COOKIE}=;path=/;max-age=0;samesite=lax'</script>"


def draw_door(person: Visitor) -> None:
    """What is seen by who may not see anything: why, and the button to log in."""
    st.html(REMEMBER, unsafe_allow_javascript=True)
    if person.name:
        st.error(f"{plain(person.why_not)}.")
    else:
        st.info("Log in to see the agents, and what is proposed for them.")
        if st.user.get("is_logged_in"):
            st.error(f"Your login does not count: {plain(person.why_not)}.")
    with st.container(horizontal=True):
        st.button("Log in", key="log_in", type="primary", on_click=st.login)
        if st.user.get("is_logged_in"):
            st.button("Log out", key="log_out", type="tertiary", on_click=st.logout)


def draw_person(person: Visitor) -> None:
    """Who acts from here, as what, and the button to log out; or that nobody had to log in."""
    if person.login is None:
        st.caption(
            f"Nobody logs in here: whoever opens this page acts as **{plain(person.name)}**.", text_alignment="right"
        )
        return
    roles = ", ".join(role for role in ("approver", "proposer", "viewer") if role in person.roles)
    with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        st.text(f"{person.name} · {roles}", width="content", help=plain(person.login.principal))
        st.button("Log out", key="log_out", type="tertiary", on_click=st.logout)


def way_back(remembered: str | None, pages: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """Read a remembered address: the page and its query; None: there is none, or it leads to no page of ours."""
    address = urlsplit(unquote(remembered or ""))
    name = address.path.rstrip("/").rpartition("/")[2]
    return (name, dict(parse_qsl(address.query))) if name in pages else None
