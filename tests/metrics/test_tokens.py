"""tokens.parquet: what is written is read, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmem.attacks.rows import token_table
from fedmem.errors import DataError
from fedmem.metrics.outcomes import Owned
from fedmem.metrics.tokens import TOKENS, read_tokens, tokens_of


def row(round_: int, canary: str, n: int, points: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng([round_, n])
    logs = {name: rng.normal(size=n).astype(np.float32) for name in ("logprob", "mu", "sigma")}
    logs |= {f"np_{point}": -rng.random(n).astype(np.float32) for point in range(points)}
    ok, rank = rng.random(n) < 0.5, rng.integers(0, 9, n, dtype=np.int32)
    return (
        {"round": round_, "model": "global", "canary": canary, "zlib": 90 + n}
        | logs
        | {
            "ok": ok,
            "rank": rank,
        }
    )


def owned(name: str, tokens: int) -> Owned:
    return Owned(name, name, ("a",), 1, False, tokens, 3 * tokens, 0)


def write(folder: Path, table: pa.Table) -> Path:
    pq.write_table(table, folder / TOKENS)
    return folder


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row(0, "x", 5), row(0, "y", 0), row(1, "x", 5) | {"recall": -1.5}, row(1, "y", 0)]
    table = token_table(rows, 2)
    # as many pieces as rounds, one of them a slice, as a recorder puts them together
    table = pa.concat_tables([table.slice(2, 2), table.slice(0, 2)])
    found = read_tokens(write(tmp_path, table), {"x": owned("x", 6), "y": owned("y", 1)})
    for given in rows:
        one = found[given["round"], "global", given["canary"]]
        for name in ("ok", "logprob", "rank", "mu", "sigma"):
            assert np.array_equal(getattr(one, name), given[name])
            assert getattr(one, name).dtype == given[name].dtype
        assert np.array_equal(one.sampled, np.stack([given["np_0"], given["np_1"]]))
        assert one.zlib == given["zlib"]
    assert found[1, "global", "x"].recall == -1.5
    assert found[0, "global", "x"].recall is None and found[0, "global", "x"].neighbours is None
    assert found[0, "global", "y"].sampled.shape == (2, 0)


def test_a_run_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    assert read_tokens(tmp_path) == {}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (token_table([row(0, "x", 5), row(0, "x", 5)], 2), "row 1: a canary has two rows"),
        (token_table([row(0, "x", 5), row(1, "x", 6)], 2), "row 1: 6 tokens.*one tokenizer"),
        (token_table([row(0, "x", 5) | {"mu": [0.5]}], 2), "row 0: lists of different lengths"),
        (token_table([row(0, "x", 5)], 2).drop_columns(["rank"]), "no column rank"),
        (token_table([row(0, "z", 5)], 2), "a canary that is not in the table"),
        (token_table([row(0, "x", 4)], 2), "5 tokens of a canary of 6: .*tokenizer"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=f"{TOKENS}: .*{message}") as told:
        read_tokens(write(tmp_path, table), {"x": owned("x", 6)})
    assert "\n" not in str(told.value)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, token_table([row(0, "x", 5)], 2)) / TOKENS
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"tokens\.parquet cannot be read"):
        read_tokens(tmp_path)


def test_a_grid_of_no_points(tmp_path: Path) -> None:
    found = tokens_of(token_table([row(0, "x", 5, points=0)], 0))
    assert found[0, "global", "x"].sampled.shape == (0, 5)
