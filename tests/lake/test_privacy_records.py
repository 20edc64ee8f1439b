"""Rows of tables that Mulle writes itself: their free text is masked, nothing else is touched."""

from __future__ import annotations

import pytest

from lake.privacy.records import MASKED, mask_records
from lake.schemas.tables import TABLES


def test_every_table_and_column_exists() -> None:
    for table, columns in MASKED.items():
        assert set(columns) <= set(TABLES[table].names), table


@pytest.mark.parametrize("table", MASKED)
def test_free_text_is_masked_and_the_rest_kept(table: str) -> None:
    columns = MASKED[table]
    row = dict.fromkeys(columns, "제 번호는 010-1234-5678") | {"run_id": "010-1234-5678", "lang": None}
    [masked] = mask_records(table, [row])
    assert all(masked[name] == "제 번호는 (PHONE_NUMBER)" for name in columns)
    assert masked["run_id"] == "010-1234-5678" and masked["lang"] is None
    assert all(row[name] == "제 번호는 010-1234-5678" for name in columns)
    assert mask_records(table, [row], off={"phone"}) == [row]
    assert mask_records(table, [dict.fromkeys(columns)]) == [dict.fromkeys(columns)]
