"""tokens.parquet: what every round's model says of each token of each canary, in figures.

One row a (round, model, canary); lists hold an item for each token but the first, behind all
before. Round 0 is the untouched base: the reference model. No text, no token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedmem.errors import DataError
from fedmem.metrics.outcomes import OTHER, Owned

TOKENS = "tokens.parquet"
LISTS = {"ok": np.bool_, "logprob": np.float32, "rank": np.int32}
LISTS |= {"mu": np.float32, "sigma": np.float32}
PASSES = ("recall", "neighbours")  # of attacks that read the notes again


@dataclass(frozen=True)
class Tokens:
    """One canary under one model; arrays over its n tokens but the first.

    ok: bool [n], the token is the most likely one. logprob: float32 [n], natural log. rank: int32
    [n], 0 is the most likely. mu, sigma: float32 [n], mean and standard deviation of log p(z), z
    drawn from the model's next-token distribution. sampled: float32 [points, n], log-probability
    under each point of `attack.sampling`, -inf outside its cut. zlib: bytes of the text compressed.
    recall: mean log-probability behind ReCaLL's prefix; neighbours: that of the note's neighbours;
    None where not asked for.
    """

    ok: NDArray[np.bool_]
    logprob: NDArray[np.float32]
    rank: NDArray[np.int32]
    mu: NDArray[np.float32]
    sigma: NDArray[np.float32]
    sampled: NDArray[np.float32]
    zlib: int
    recall: float | None = None
    neighbours: float | None = None


TokenTable = dict[tuple[int, str, str], Tokens]  # by (round, model, canary)


def schema(points: int) -> pa.Schema:
    """The columns, for a grid of so many points: np_0, np_1, ..."""
    names = [*LISTS, *(f"np_{point}" for point in range(points))]
    # `element`, as Parquet names it: a table read back is as it was written
    kinds = {
        name: pa.list_(pa.field("element", pa.from_numpy_dtype(LISTS.get(name, np.float32))))
        for name in names
    }
    head = [("round", pa.int32()), ("model", pa.string()), ("canary", pa.string())]
    more = [(name, pa.float32()) for name in PASSES]
    return pa.schema([*head, ("zlib", pa.int32()), *more, *kinds.items()])


def read_tokens(run_dir: Path, canaries: Mapping[str, Owned] | None = None) -> TokenTable:
    """All rows of a run's tokens.parquet; none where an earlier version wrote no such file.

    DataError where it is torn or contradictory, or does not fit the run's `canaries`.
    """
    path = run_dir / TOKENS
    if not path.is_file():
        return {}
    try:
        found = tokens_of(pq.read_table(path))
        if canaries is not None:
            check(found, canaries)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return found


def check(tokens: TokenTable, canaries: Mapping[str, Owned]) -> None:
    """Every row is of a canary in the plan, and has as many tokens as it: DataError if not."""
    for (round_, _, name), one in tokens.items():
        if name not in canaries:
            raise DataError(f"round {round_}: a canary that is not in the table of canaries")
        if len(one.ok) != max(0, canaries[name].tokens - 1):
            raise DataError(
                f"round {round_}: {len(one.ok) + 1} tokens of a canary of {canaries[name].tokens}: "
                "was it scored with another tokenizer?"
            )


def tokens_of(table: pa.Table) -> TokenTable:
    """The table's rows. DataError where a canary has two rows, or lists of different lengths.

    A canary has as many tokens in every round: else another tokenizer made some of its rows.
    """
    points = sum(name.startswith("np_") for name in table.column_names)
    missing = [name for name in schema(points).names if name not in table.column_names]
    if missing:
        raise DataError(f"no column {', '.join(missing)}{OTHER}")
    for name, made in zip(schema(points).names, schema(points).types, strict=True):
        kind = table.schema.field(name).type
        if _kind(kind) != _kind(made) and not pa.types.is_null(kind):
            raise DataError(f"the column {name} holds {kind} and not {made}{OTHER}")
    lists = {name: _arrays(table[name], dtype) for name, dtype in LISTS.items()}
    sampled = [_arrays(table[f"np_{point}"], np.float32) for point in range(points)]
    found: TokenTable = {}
    known: dict[str, int] = {}
    keys = table.select(["round", "model", "canary", "zlib", *PASSES]).to_pylist()
    for index, row in enumerate(keys):
        one: dict[str, Any] = {name: arrays[index] for name, arrays in lists.items()}
        grid = [arrays[index] for arrays in sampled]
        key = (row["round"], row["model"], row["canary"])
        n = len(one["logprob"])
        if key in found:
            raise DataError(f"row {index}: a canary has two rows for round {key[0]}, {key[1]}")
        if {len(array) for array in [*one.values(), *grid]} != {n}:
            raise DataError(f"row {index}: lists of different lengths")
        if known.setdefault(key[2], n) != n:
            raise DataError(
                f"row {index}: {n} tokens, and in another round {known[key[2]]}: a canary must be "
                "scored by one tokenizer"
            )
        stacked = np.stack(grid) if grid else np.empty((0, n), np.float32)
        more = {name: row[name] for name in PASSES}
        found[key] = Tokens(sampled=stacked, zlib=row["zlib"], **one, **more)
    return found


def _kind(of: pa.DataType) -> str:
    """What may stand for each other: numbers of any width."""
    if pa.types.is_list(of):
        return f"list of {_kind(of.value_type)}"
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return "number"
    return str(of)


def _arrays(column: pa.ChunkedArray, dtype: Any) -> list[NDArray[Any]]:
    """Each row's list as an array; without a copy of the file as Python objects."""
    found = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        ends = chunk.offsets.to_numpy()
        found += [values[a:b] for a, b in pairwise(ends)]
    return found
