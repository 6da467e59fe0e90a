"""What several pages draw: where the rows came from, what became of commands, differences, evidence, read-backs."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib.column_types import ColumnConfig

from tars.dashboard.charts import evidence as charts
from tars.dashboard.desk import Desk, Level
from tars.dashboard.differences import Group
from tars.dashboard.reads import Look
from tars.dashboard.wording import DASH, STARTED, aim, amount, listed, milliseconds, number, plain, points, span
from tars.schemas.bounds import Strictness
from tars.schemas.counting import counted
from tars.schemas.evidence import Evidence, KeyWorth, Verdict
from tars.schemas.update import ReadBack
from tars.schemas.views import UpdateRow

DRAW: Final = {
    "waiting": st.info,
    "done": st.success,
    "refused": st.error,
    "not sent": st.error,
    "unknown": st.warning,
    "broken": st.error,
}
LATE_SECONDS: Final = 10.0
"""Consumers say every second that Redis has all rows: silent for so long, they do not follow what happens."""
VERDICTS: Final = {
    Verdict.BETTER: ("better", "green"),
    Verdict.NOT_BETTER: ("not better", "red"),
    Verdict.INCONCLUSIVE: ("inconclusive", "orange"),
}


def aligned(names: Iterable[str]) -> dict[str, ColumnConfig]:
    """Have columns of numbers that are written as people write them end at one line."""
    return {name: st.column_config.TextColumn(alignment="right") for name in names}


def draw_origin(look: Look, banner: DeltaGenerator, corner: DeltaGenerator, *, use_redis: bool) -> None:
    """Say where this refresh's rows came from: in a corner, and in a banner where it is not Redis."""
    if look.origin == "memory":
        banner.error(
            f"Neither Redis nor the consumers answer: what you see is {span(look.age)} old. "
            "It comes back by itself when one of them does."
        )
    elif look.origin == "queries" and use_redis:
        banner.warning("Redis is away: rows come from the consumers' queries. Nothing is lost, and commands work.")
    elif look.origin == "queries":
        banner.info("USE_REDIS=false: rows come from the consumers' queries.")
    elif look.age == math.inf:
        banner.warning("Redis is empty: the consumers have written nothing yet. `tars run consumers` starts them.")
    elif look.age > LATE_SECONDS:
        banner.warning(
            f"The consumers have not written for {span(look.age)}: what you see is that old. They are away, or NATS "
            "is; it goes on by itself when they are back."
        )
    corner.caption(f"{_age(look)}, from {look.origin}", text_alignment="right")


def _age(look: Look) -> str:
    read = f"read at {datetime.now(UTC):%H:%M:%S} UTC"
    if look.origin == "memory":
        return f"{span(look.age)} old"
    return f"{read}, {span(look.age)} old" if look.origin == "redis" and math.isfinite(look.age) else read


def draw_news(desk: Desk) -> None:
    """Say what became of this session's commands."""
    for errand in desk.news()[:3]:
        level: Level = errand.level
        DRAW[level](plain(errand.text))


def draw_group(group: Group, strictness: Strictness, old: Literal["runs", "before"] = "runs") -> None:
    """Draw what changes for agents that run the same: old, new, effect; and both between their bounds.

    old: what the old values are: those that run, or that ran before the update was released.
    """
    st.markdown(f"**{counted(len(group.agents), 'agent')}** · {listed(group.agents)}")
    if not group.differences:
        st.caption("They run these values already.")
        return
    table, picture = st.columns([5, 6], gap="medium", vertical_alignment="top")
    rows = [(d.name, d.old_text, d.new_text, d.change, d.takes_effect) for d in group.differences]
    columns = ["key", old, "proposed", "change", "takes effect"]
    table.dataframe(pd.DataFrame(rows, columns=columns), hide_index=True, column_config=aligned(columns[1:4]))
    placed = [d for d in group.differences if d.place_new is not None]
    if placed:
        picture.vega_lite_chart(charts.bounds_frame(placed), charts.BOUNDS)
        picture.caption(f"Bounds at strictness {strictness}: grey {old}, blue is proposed.")
    for difference in group.differences:
        if difference.objection:
            st.warning(difference.objection)


def draw_evidence(evidence: Evidence | None) -> None:
    """Draw the held-out comparison, the gain with its interval, and what the search had claimed."""
    if evidence is None:
        st.caption("No evidence: nobody has compared these values on held-out seeds.")
        return
    verdict, colour = VERDICTS[evidence.verdict]
    left, right = st.columns([6, 5], gap="medium")
    with left:
        st.vega_lite_chart(charts.paired_frame(evidence), charts.PAIRED)
        st.caption("Each held-out seed trained twice: grey with what runs, blue with what is proposed.")
    with right:
        surrogate = " :orange-badge[surrogate: never promotable]" if evidence.training == "surrogate" else ""
        failed = f", of which it failed on {evidence.failed}" if evidence.failed else ""
        st.markdown(f":{colour}-badge[{verdict}] on {len(evidence.scores)} held-out seeds{failed}{surrogate}")
        one, two, three = st.columns(3)
        one.metric("held-out gain", points(evidence.gain))
        two.metric("95 % interval", f"{100 * evidence.gain_low:+.1f} … {100 * evidence.gain_high:+.1f}")
        three.metric("search claimed", "none" if evidence.search_gain is None else points(evidence.search_gain))
        st.vega_lite_chart(charts.gain_frame(evidence), charts.GAIN)
        st.caption(
            f"Dashed: the {points(evidence.threshold)} that *better* needs; hollow: the search's claim. "
            f"p = {evidence.p_value:.2g}, look {evidence.look}, trained {STARTED[evidence.start]} for "
            f"{evidence.train_episodes} episodes in {plain(evidence.environment)}, scored over {evidence.eval_episodes}"
            f"{_others(evidence)}."
        )
    _draw_worth(evidence.worth)


def _others(evidence: Evidence) -> str:
    """What was weighed where it is not the score alone, and what became of conflicts and latency."""
    weighed = [] if evidence.objective == "reward" else [f"; objective: {aim(evidence.objective, evidence.weights)}"]
    changes = (("conflicts", evidence.conflict_gain), ("latency", evidence.latency_gain))
    return "".join([*weighed, *(f"; {name} a step {change:+.3f}" for name, change in changes if change is not None)])


def _draw_worth(worth: Sequence[KeyWorth]) -> None:
    if worth:
        st.vega_lite_chart(charts.worth_frame(worth), charts.WORTH)
        st.caption("What each key is worth: the loss on held-out seeds when it alone is put back.")


def draw_judgements(row: UpdateRow) -> None:
    """Draw what the watch of each stage found, or what it will be able to find."""
    if not row.judgements:
        if row.smallest_harm is not None:
            harm = amount(row.smallest_harm, normalised=row.normalised).lstrip("+")
            st.caption(f"Its watch finds a loss of {harm} 4 times in 5.")
        return
    st.markdown("##### Watched")
    st.dataframe(judgements_frame(row), hide_index=True)


def judgements_frame(row: UpdateRow) -> pd.DataFrame:
    """An update's judgements -> one row each, oldest first."""

    def told(value: float | None) -> str:
        return DASH if value is None else amount(value, normalised=row.normalised)

    return pd.DataFrame(
        [
            (
                found.stage,
                found.verdict.replace("_", " ").lower(),
                told(found.effect),
                f"{told(found.effect_low)} … {told(found.effect_high)}" if found.effect is not None else DASH,
                told(None if found.smallest_harm is None else -found.smallest_harm),
                found.slot,
                listed(found.reloaded),
                listed(found.compared) or "their own past",
                found.reason,
            )
            for found in row.judgements
        ],
        columns=[
            "stage", "verdict", "effect", "90 % interval", "could find", "episodes", "reloaded", "compared with", "why",
        ],
    )  # fmt: skip


def draw_read_backs(read_backs: Sequence[ReadBack]) -> None:
    """Draw what each agent was found to run after its reload."""
    if not read_backs:
        return
    st.markdown("##### Read back")
    rows = [
        (
            back.agent_id,
            f"v{back.version}",
            "equal" if back.equal else _unequal(back),
            milliseconds(back.milliseconds),
            back.step,
            "kept" if back.weights_kept else "CHANGED",
            "kept" if back.buffer_kept else "CHANGED",
        )
        for back in read_backs
    ]
    columns = ["agent", "version", "effective = requested", "latency", "gradient step", "weights", "buffer"]
    st.dataframe(pd.DataFrame(rows, columns=columns), hide_index=True, column_config=aligned(["latency"]))


def _unequal(back: ReadBack) -> str:
    keys = [key for key, value in back.requested.items() if back.effective.get(key) != value]
    return "; ".join(
        f"{key}: {number(back.effective.get(key))} instead of {number(back.requested[key])}" for key in keys
    )
