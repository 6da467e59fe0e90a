"""The page. It hands rows and commands to the pages; they know neither Redis nor NATS."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from tars.dashboard import session, theme
from tars.dashboard.desk import Desk
from tars.dashboard.door import COOKIE, FORGET, draw_door, draw_person, way_back
from tars.dashboard.pages import agents, approvals, changes, coordination, pipeline, studies
from tars.dashboard.panels import draw_news, draw_origin
from tars.dashboard.reads import Look, NothingToShow, Rows

log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 1.0
AGAIN: Final = "It tries again every second."


@dataclass(frozen=True)
class Page:
    """A page: its name in the address and the menu, its heading, and what draws it."""

    name: str
    title: str
    draw: Callable[[Rows, Desk], None]


PAGES: Final = (
    Page("agents", "Agents", agents.page),
    Page("approvals", "Approvals", approvals.page),
    Page("changes", "Changes", changes.page),
    Page("studies", "Studies", studies.page),
    Page("coordination", "Coordination", coordination.page),
    Page("pipeline", "Pipeline", pipeline.page),
)


@st.fragment(run_every=REFRESH_SECONDS)
def live(page: Page) -> None:
    """Draw a page and draw it again every REFRESH_SECONDS; a click inside it redraws it, so its answer stands here."""
    person = session.before_the_page()
    if not person.roles:
        draw_door(person)
        return
    session.report_open(page.name)
    look, desk = Look(session.reader()), session.desk()
    heading, origin = st.columns([3, 2], vertical_alignment="bottom")
    heading.title(page.title)
    with origin:
        draw_person(person)
    banner = st.container()
    try:
        draw_news(desk)
        page.draw(look, desk)
    except NothingToShow as error:
        st.error(f"Nothing can be shown: {error}. {AGAIN}")
        return
    except Exception as error:
        log.exception("a page cannot be drawn", extra={"page": page.name})
        st.error(f"This page cannot be drawn ({type(error).__name__}); its log says why. {AGAIN}")
        return
    draw_origin(look, banner, origin, use_redis=session.settings().use_redis)


def main() -> None:
    """One full run of the script: the menu and the chosen page."""
    session.one_log()
    st.set_page_config(page_title="TARS", layout="wide")
    st.html(theme.STYLE)
    menu = [st.Page(_shown(page), title=page.title, url_path=page.name) for page in PAGES]
    # Streamlit gives its default page no address of its own, and the agents are to have theirs.
    root = st.Page(_shown(PAGES[0]), title="TARS", url_path="root", default=True, visibility="hidden")
    chosen = st.navigation([root, *menu], position="top")
    _return(dict(zip((page.name for page in PAGES), menu, strict=True)))
    chosen.run()
    session.leave_no_secrets()
    session.freeze_heap()  # after the first run: everything a page needs is loaded


def _return(menu: Mapping[str, StreamlitPage]) -> None:
    """Lead who has just logged in back to the address that they came by."""
    remembered = st.context.cookies.get(COOKIE)
    if remembered is None or not session.before_the_page().login:
        return
    st.html(FORGET, unsafe_allow_javascript=True)  # another tab is to open where it is told
    if "returned" in st.session_state:
        return
    st.session_state["returned"] = True
    if (back := way_back(remembered, menu)) and not st.query_params:
        st.switch_page(menu[back[0]], query_params=back[1])


def _shown(page: Page) -> Callable[[], None]:
    return lambda: live(page)
