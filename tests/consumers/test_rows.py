"""Rows that a fold keeps for ever: told as they are, and small once they have ended."""

import tracemalloc
from datetime import timedelta

from ledgers import START

from tars.consumers.rows import Rows
from tars.schemas.views import AuditEntry, UpdateRow

MANY = 200


def update(number: int, stage: str) -> UpdateRow:
    """An update about which much was said."""
    told = (f"slot {slot}: nothing speaks against it yet ({number})" for slot in range(20))
    entries = tuple(AuditEntry(at=START + timedelta(seconds=number), kind="k", by=None, text=text) for text in told)
    row = {"update_id": f"u{number}", "stage": stage, "proposed_at": START, "proposed_by": "ada", "changed_at": START}
    return UpdateRow.model_validate({**row, "agents": ("a",), "values": {"gamma": 0.9}, "history": entries})


def test_a_row_that_has_ended_is_still_told_and_takes_little_memory() -> None:
    rows = Rows(UpdateRow, lambda row: row.stage == "confirmed")
    tracemalloc.start()
    for number in range(MANY):
        rows.put(f"u{number}", update(number, "confirmed"))
    whole, _ = tracemalloc.get_traced_memory()
    assert all(rows.told(f"u{number}") == update(number, "confirmed") for number in range(MANY))
    packed, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert packed < whole / 3
    assert [rows.get(f"u{number}") for number in range(MANY)] == [update(number, "confirmed") for number in range(MANY)]


def test_a_row_that_changes_after_its_end_is_told_as_it_is_now() -> None:
    rows = Rows(UpdateRow, lambda row: row.stage == "confirmed")
    for stage in ("pending", "confirmed", "rolled back", "confirmed"):
        rows.put("u1", update(1, stage))
        assert rows.told("u1") == rows.get("u1") == update(1, stage)
