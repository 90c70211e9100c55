"""The table of scores, and its bytes in a message."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fedmem.attacks.rows import SCHEMA, from_bytes, table, to_bytes
from fedmem.metrics.outcomes import SCORE_COLUMNS

ROW = {
    "round": 3,
    "model": "global",
    "view": "client",
    "attacker": "b",
    "knowledge": "own_prefix",
    "attack": "phi",
    "canary": "p0-0001",
    "target": 2,
    "hit": True,
    "logprob": -0.1,
}


def test_columns_stand_in_the_schemas_order_and_missing_ones_are_null() -> None:
    made = table([ROW, {**ROW, "target": 3, "bleu": 0.5}])
    assert made.schema == SCHEMA
    first, second = made.to_pylist()
    assert first == {**dict.fromkeys(SCHEMA.names), **ROW}
    assert (first["bleu"], second["bleu"]) == (None, 0.5)


def test_the_metrics_find_all_columns_they_read() -> None:
    assert set(SCORE_COLUMNS) <= set(SCHEMA.names)


def test_no_rows_are_an_empty_table_with_the_schema() -> None:
    assert table([]).schema == SCHEMA and table([]).num_rows == 0
    assert to_bytes([]) == b""


def test_bytes_and_back() -> None:
    data = to_bytes([ROW])
    assert isinstance(data, bytes) and from_bytes(data).equals(table([ROW]))
    assert data == to_bytes([ROW])
    with pytest.raises(pa.ArrowInvalid):
        from_bytes(b"no stream")


def test_values_of_another_kind_are_refused() -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        table([{**ROW, "round": "three"}])
