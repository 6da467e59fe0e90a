"""What a page's process and its sessions keep between refreshes."""

import gc
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Final

import streamlit as st

from tars.dashboard.desk import Desk
from tars.dashboard.line import Line
from tars.dashboard.reads import Reader, Source
from tars.producers.async_client import NobodyAnswers
from tars.producers.commands import NotSent, nats_address
from tars.runtime.settings import Settings, load_settings
from tars.runtime.view_store import RedisViews
from tars.schemas.session import SessionReported

REPORT_SECONDS: Final = 20.0
"""How often an open page says so."""


@st.cache_resource
def settings() -> Settings:
    """What the environment says, read once."""
    return load_settings()


@st.cache_resource
def line() -> Line:
    """The process's connection to NATS."""
    return Line(nats_address(settings()))


@st.cache_resource
def executor() -> ThreadPoolExecutor:
    """Threads that wait for answers to commands, so that no page does."""
    return ThreadPoolExecutor(8, thread_name_prefix="desk")


@st.cache_resource
def reader() -> Reader:
    """Redis where there is one, then the consumers."""
    queries = Source("queries", line().client, (NobodyAnswers, NotSent))
    url = settings().redis
    if url is None:
        return Reader([queries])
    views = RedisViews(url)
    # Whatever goes wrong there: the page does not know Redis' errors, and rows that it cannot read are no rows.
    return Reader([Source("redis", lambda: views, (Exception,)), queries])


@st.cache_resource
def freeze_heap() -> None:
    """Take what is loaded out of the garbage collector's sight, once: a collection costs most of a refresh else."""
    gc.collect()
    gc.freeze()


def desk() -> Desk:
    """The commands of this session."""
    if "desk" not in st.session_state:
        st.session_state["desk"] = Desk(executor(), partial(line().reached, open_page("approvals")))
    found: Desk = st.session_state["desk"]
    return found


def open_page(page: str) -> SessionReported:
    """Name this session, always the same, and the page it shows."""
    name = st.session_state.setdefault("session_id", f"page-{secrets.token_hex(6)}")
    return SessionReported(session_id=name, page=page)


def report_open(page: str) -> None:
    """Say now and then that this page is open; a measurement, so nobody looks at what becomes of it."""
    if monotonic() - st.session_state.get("reported_at", -REPORT_SECONDS) < REPORT_SECONDS:
        return
    st.session_state["reported_at"] = monotonic()
    # Asked for here: a thread of the executor is no session, and Streamlit would warn of it.
    report, to = open_page(page), line()
    executor().submit(lambda: to.client().report(report))
