"""What a page's process and its sessions keep between refreshes."""

import atexit
import gc
import logging
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

import streamlit as st

from tars.dashboard.desk import Desk
from tars.dashboard.identity import Visitor, operator, visitor
from tars.dashboard.line import Line
from tars.dashboard.reads import Reader, Source
from tars.dashboard.serve import SECRETS_PREFIX
from tars.producers.async_client import NobodyAnswers
from tars.producers.commands import NotSent, nats_address, sender
from tars.runtime.id_tokens import rules_of
from tars.runtime.settings import Settings, load_settings
from tars.runtime.signing import page_key, signer_of
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
    return Line(nats_address(settings()), page_key(settings()) if settings().oidc_issuer else None)


@st.cache_resource
def operator_name() -> str:
    """Who acts from a page at which nobody logs in."""
    signer = signer_of(settings())
    return signer.name if signer else sender(settings()).principal


def before_the_page() -> Visitor:
    """Who has this session's page open, as of now. Only in the session's own thread."""
    rules = rules_of(settings())
    return visitor(st.user, rules, datetime.now(UTC)) if rules else operator(operator_name())


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
    return Reader([Source("redis", lambda: views, (Exception,), views.age), queries])


@st.cache_resource
def freeze_heap() -> None:
    """Take what is loaded out of the garbage collector's sight, once: a collection costs most of a refresh else."""
    gc.collect()
    gc.freeze()


def one_log() -> None:
    """Have Streamlit's own lines go where ours go, at each full run: it makes loggers later too, with own handlers."""
    known = [found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger)]
    for logger in known:
        if hasattr(logger, "streamlit_console_handler"):
            logger.handlers.clear()
            logger.propagate = True


@st.cache_resource
def leave_no_secrets() -> None:
    """Have the folder that `serve` made for Streamlit removed when this process ends."""
    for path in map(Path, st.get_option("secrets.files")):
        if path.parent.name.startswith(SECRETS_PREFIX):
            atexit.register(shutil.rmtree, path.parent, ignore_errors=True)


def desk() -> Desk:
    """The commands of this session."""
    if "desk" not in st.session_state:
        st.session_state["desk"] = Desk(executor(), partial(line().reached, open_page("approvals")), before_the_page)
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
