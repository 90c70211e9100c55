"""The one-run audit's figures: what the coins prove about epsilon, beside what was accounted.

A pure function of audit.parquet, the config and the run's claims. The audit was fixed beforehand:
one score (the drop of a note's loss from the base to the last model), one number of guesses, one
look. At the config's level a bound above the accounted epsilon is a warning, as one run in twenty
gives by chance; at 99.9 % it is a bug, and fails the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedmem.auditing.one_run import SURE, ceiling, gaussian_lower_bound, lower_bound
from fedmem.config.audit import Audit
from fedmem.metrics.intervals import wilson
from fedmem.metrics.outcomes import Columns
from fedmem.metrics.outcomes import rows as rows_of

DELTA = 1e-5  # where no claim names one
CLIENT = "client"  # the unit of a claim that names whole clients
NONE, BELOW, WARNING, BUG = "nothing accounted", "not above", "warning", "bug"
AUDIT = "audit.parquet"
SCHEMA = pa.schema(
    [
        pa.field("canary", pa.string(), nullable=False),
        pa.field("owner", pa.string(), nullable=False),
        pa.field("included", pa.bool_(), nullable=False),  # the coin
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("base", pa.float64(), nullable=False),  # log-likelihood, natural, summed
        pa.field("final", pa.float64(), nullable=False),  # the same under the last model
    ]
)


def rows(table: Columns, audit: Audit, claims: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each level (the config's, and 99.9 %) and each claim with an epsilon.

    `claims`: rows of privacy.json. `epsilon`: the lower bound of theorem 5.2; `gaussian`: that of
    the f-DP variant, which holds for Gaussian trade-off functions; `ceiling`, `gaussian_ceiling`:
    what they would be if every guess were right. `accounted` at `delta` is what the claim says of
    one record.
    """
    found = rows_of(table, SCHEMA.names)
    included = np.array([row["included"] for row in found], dtype=bool)
    gains = np.array([(row["final"] - row["base"]) / row["tokens"] for row in found])
    ids = [row["canary"] for row in found]
    guesses = min(audit.guessed, len(found))
    correct = right(gains, included, ids, guesses)
    share = wilson(correct, guesses)
    head = {"per": audit.per, "score": "reference", "canaries": len(found)}
    head |= {"included": int(included.sum()), "guesses": guesses, "correct": correct}
    head |= {"rate": share.point, "low": share.low, "high": share.high, "n": guesses}
    accounted = [one for one in map(_of_one_record, claims) if one is not None]
    result = []
    for level in (audit.level, SURE):
        for one in accounted or [_nothing()]:
            delta = one["delta"]
            bound = lower_bound(len(found), guesses, correct, delta, level)
            most = ceiling(len(found), delta, level, guesses)
            figures = {"level": level, "epsilon": bound, "ceiling": most}
            for name, v in (("gaussian", correct), ("gaussian_ceiling", guesses)):
                figures[name] = gaussian_lower_bound(len(found), guesses, v, delta, level)
            result.append(head | figures | one | {"verdict": _verdict(bound, one, level)})
    return result


def right(
    scores: NDArray[np.float64], included: NDArray[np.bool_], ids: Sequence[str], guesses: int
) -> int:
    """How many guesses are right: the upper half of them "in", the lower half "out".

    Canaries are ordered by score, equal ones by id, which knows nothing of a coin.
    """
    order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
    said_in = order[: (guesses + 1) // 2]
    said_out = order[len(order) - guesses // 2 :]
    return int(included[said_in].sum() + (~included[said_out]).sum())


def _of_one_record(claim: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a claim's epsilon says of one record added or removed; None without one.

    A record or patient: as it stands (a canary is its patient's only record). A client: whoever
    holds one record more is another client, that is, one left and one joined: group privacy of two.
    """
    epsilon, delta = claim["epsilon"], claim["delta"]
    if epsilon is None:
        return None
    said = {"what": claim["what"], "unit": claim["unit"], "claimed": epsilon}
    if claim["unit"] != CLIENT:
        return {**said, "accounted": epsilon, "delta": delta}
    doubled = (1 + math.exp(min(epsilon, 700.0))) * delta
    if doubled >= 1:  # it then says nothing of a record
        return None
    return {**said, "accounted": 2 * epsilon, "delta": doubled}


def _nothing() -> dict[str, Any]:
    return {"what": None, "unit": None, "claimed": None, "accounted": None, "delta": DELTA}


def _verdict(bound: float, one: Mapping[str, Any], level: float) -> str:
    if one["accounted"] is None:
        return NONE
    if bound <= one["accounted"]:
        return BELOW
    return BUG if level >= SURE else WARNING


def said(row: Mapping[str, Any]) -> str:
    """A row of `rows` in a sentence."""
    bound = f"the audit shows an epsilon of at least {row['epsilon']:.2f} at {row['level']:.1%}"
    bound += f" (of {row['guesses']} guesses {row['correct']} right; "
    bound += f"it could show {row['ceiling']:.2f} at most)"
    if row["accounted"] is None:
        return f"{bound}; no epsilon is claimed"
    unit = re.split("[,;]", row["unit"])[0]
    claimed = f"{row['what']} claims {row['claimed']:.2f} for one {unit}"
    if row["unit"] == CLIENT:
        claimed += f", which is {row['accounted']:.2f} for a record"
    return f"{bound}; {claimed}"


def warning(found: Sequence[Mapping[str, Any]]) -> str | None:
    """What to say of a bound above an accounted epsilon at the config's level; None below it."""
    row = next((row for row in found if row["verdict"] == WARNING), None)
    if row is None:
        return None
    return f"audit: {said(row)}; one run in {1 / (1 - row['level']):.0f} does so by chance"


def bug(found: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the run fails: a bound above an accounted epsilon at 99.9 %; None where it does not."""
    row = next((row for row in found if row["verdict"] == BUG), None)
    if row is None:
        return None
    return f"audit: {said(row)}; the claim does not hold, which is a bug: do not rely on it"
