"""Which records each client trains on, and which are held out from everybody.

A question is held out by the hash of its prompt, so that the same question under two ids never
stands on both sides; where the source names a column with patients, whole patients are held out.
What of a source is not held out is dealt to the clients that share it: each record to exactly one.
All of it depends on the seed alone.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.config import Config
from fedmem.config.data import Client, DirichletSplit, IidSplit, NaturalSplit, SizeSplit, Split
from fedmem.data.corpus import Corpus
from fedmem.data.shards import shuffled
from fedmem.errors import DataError

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
DRAWS = 100  # of Dirichlet shares, until every client has a record


@dataclass(frozen=True)
class Holding:
    """One client's records, by their places in its corpus: `train` in an order of the seed's.

    counts: `bad_rows` and `duplicate_ids` of the source (at the first of the clients that share
    it), `heldout_seen`: held-out records left out since another client trains on the question.
    """

    corpus: Corpus
    train: Ints
    heldout: Ints
    counts: Counter[str]

    @property
    def bytes(self) -> int:
        """Bytes of text that the client trains on."""
        return int(self.corpus.index["size"][self.train].sum(dtype=np.int64))


def divide(config: Config, corpora: Sequence[Corpus]) -> dict[str, Holding]:
    """What each client of the corpora holds, in the config's order; capped by `max_records`.

    The smaller of the client's own and the data's `max_records` caps what it trains on. A held-out
    record that any of these clients trains on, or that another one holds out too, is dropped.
    Raises DataError where a client is left without records.
    """
    dealt: dict[str, Holding] = {}
    for corpus in corpora:
        dealt |= _of_file(config, corpus) if corpus.key else _generated(corpus)
    holdings = {}
    for client in config.data.clients:
        if client.name in dealt:
            own = dealt[client.name]
            caps = [cap for cap in (client.max_records, config.data.max_records) if cap is not None]
            holdings[client.name] = replace(own, train=own.train[: min(caps, default=None)])
    for name, own in holdings.items():
        if not len(own.train):
            raise DataError(f"client {name}: no record to train on; give it more records")
    return _unseen(holdings)


def _unseen(holdings: dict[str, Holding]) -> dict[str, Holding]:
    """The same, without held-out questions that are trained on, or held out by a client before."""
    trained = np.concatenate([own.corpus.index["question"][own.train] for own in holdings.values()])
    trained.sort()
    left = {}
    for name, own in holdings.items():
        questions = own.corpus.index["question"][own.heldout]
        places = np.searchsorted(trained, questions)
        seen = trained[np.minimum(places, len(trained) - 1)] == questions
        counts = own.counts + Counter(heldout_seen=int(seen.sum()))
        left[name] = replace(own, heldout=own.heldout[~seen], counts=counts)
    pairs = np.concatenate([own.corpus.index["pair"][own.heldout] for own in left.values()])
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    ends = np.cumsum([len(own.heldout) for own in left.values()])
    return {
        name: replace(own, heldout=own.heldout[mask])
        for (name, own), mask in zip(left.items(), np.split(first, ends[:-1]), strict=True)
    }


def _generated(corpus: Corpus) -> dict[str, Holding]:
    end = len(corpus) - corpus.heldout
    holding = Holding(corpus, np.arange(end), np.arange(end, len(corpus)), Counter())
    return {client.name: holding for client in corpus.clients}


def _of_file(config: Config, corpus: Corpus) -> dict[str, Holding]:
    seed = f"{config.seed}/partition"
    out = held_out(corpus.index["unit"], config.data.validation)
    train, heldout = np.flatnonzero(~out), np.flatnonzero(out)
    train = train[shuffled(len(train), seed)]
    split: Split
    if corpus.clients[0].part is None:
        split = IidSplit(kind="iid", clients=len(corpus.clients))
        indexes = list(range(split.clients))
    else:
        split = corpus.clients[0].part.split
        indexes = [client.part.index - 1 for client in corpus.clients if client.part]
    if len(train) < split.clients:
        raise DataError(
            f"{corpus.name}: {len(train)} records to train on for {split.clients} clients "
            f"({_names(corpus.clients)}); name fewer clients, or give more records"
        )
    try:
        owners = deal(split, corpus.index["group"], train, heldout, seed)
    except DataError as error:
        raise DataError(
            f"{corpus.name}: data.clients split {split.kind} ({_names(corpus.clients)}): {error}"
        ) from None
    return {
        client.name: Holding(
            corpus,
            train[owners[0] == index],
            heldout[owners[1] == index],
            corpus.counts if number == 0 else Counter(),
        )
        for number, (client, index) in enumerate(zip(corpus.clients, indexes, strict=True))
    }


def _names(clients: Sequence[Client]) -> str:
    named = ", ".join(client.name for client in clients[:3])
    return named if len(clients) <= 3 else f"{named}, and {len(clients) - 3} more"


def held_out(units: Hashes, share: float) -> NDArray[np.bool_]:
    """Which records are held out: `share` of the units, at least one of two or more.

    units: uint64 [N], each record's question or patient, hashed with the seed. Those with the
    lowest hashes are held out: the choice hangs on a unit's own text, not on its place in the file.
    """
    ordered = np.sort(units)  # np.unique is many times slower, and hashes take memory
    distinct = ordered[np.diff(ordered, prepend=~ordered[:1]) != 0]
    count = min(ceil(share * len(distinct)), len(distinct) - 1)
    lowest: NDArray[np.bool_] = units < distinct[count]
    return lowest


# --- dealing ------------------------------------------------------------------------------------


def deal(split: Split, groups: Hashes, train: Ints, heldout: Ints, seed: str) -> tuple[Ints, Ints]:
    """The client, from 0, of each record in `train` (which is in random order) and in `heldout`.

    groups: uint64 [N], each record's value of the split's column, hashed. Raises DataError if a
    client gets no record to train on.
    """
    if isinstance(split, IidSplit):
        return np.arange(len(train)) % split.clients, np.arange(len(heldout)) % split.clients
    if isinstance(split, NaturalSplit):
        return _natural(groups[train], groups[heldout], split.clients)
    # from here on each side is cut into stretches, so that held-out records must be shuffled too
    order = shuffled(len(heldout), f"{seed}/heldout")
    if isinstance(split, SizeSplit):
        shares = np.array(split.shares) / sum(split.shares)
        owners = _cut(len(train), shares), _cut(len(heldout), shares)
    else:
        owners = _dirichlet(split, groups[train], groups[heldout[order]], seed)
    if len(np.unique(owners[0])) < split.clients:
        raise DataError("a client gets no record to train on; name fewer clients")
    back = np.empty_like(owners[1])
    back[order] = owners[1]
    return owners[0], back


def _cut(count: int, shares: NDArray[np.float64]) -> Ints:
    """The client of each of `count` records: stretches within one record of the shares."""
    ends = np.floor(np.cumsum(shares) * count + 0.5).astype(np.int64)
    ends[-1] = count
    return np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0))


def _dirichlet(
    split: DirichletSplit, train: Hashes, heldout: Hashes, seed: str
) -> tuple[Ints, Ints]:
    digest = blake2b(f"{seed}/dirichlet".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    sides = [_by_value(train), _by_value(heldout)]
    values = np.unique(np.concatenate([train, heldout])).tolist()
    for _ in range(DRAWS):
        owners = tuple(np.empty(len(side), np.int64) for side in (train, heldout))
        for value in values:
            shares = rng.dirichlet([split.alpha] * split.clients)
            # the clients' order is drawn too: rounding a value of few records favours nobody
            order = rng.permutation(split.clients)
            for side, owner in zip(sides, owners, strict=True):
                rows = side.get(value, np.empty(0, np.int64))
                owner[rows] = order[_cut(len(rows), shares[order])]
        if len(np.unique(owners[0])) == split.clients:
            return owners[0], owners[1]
    raise DataError(
        f"in each of {DRAWS} draws a client got no record to train on; raise alpha "
        f"({split.alpha:g}), or name fewer clients"
    )


def _by_value(groups: Hashes) -> dict[int, Ints]:
    """Value -> where it stands, in order."""
    if not len(groups):
        return {}
    order = np.argsort(groups, kind="stable")
    values, starts = np.unique(groups[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def _natural(train: Hashes, heldout: Hashes, clients: int) -> tuple[Ints, Ints]:
    values, counts = np.unique(train, return_counts=True)
    if len(values) < clients:
        raise DataError(
            f"its column has {len(values)} values with records to train on, for {clients} "
            "clients; name fewer clients"
        )
    owner = _balanced(values, counts, clients)
    # values of which every record is held out
    only = heldout[~np.isin(heldout, values)]
    owner |= _balanced(*np.unique(only, return_counts=True), clients)
    return _look_up(owner, train), _look_up(owner, heldout)


def _balanced(values: Hashes, counts: Ints, clients: int) -> dict[int, int]:
    """Value -> client: the largest first, each to the client that has fewest records so far."""
    loads = [(0, client) for client in range(clients)]
    heapify(loads)
    owner = {}
    for place in np.lexsort((values, -counts)).tolist():
        load, client = heappop(loads)
        owner[int(values[place])] = client
        heappush(loads, (load + int(counts[place]), client))
    return owner


def _look_up(owner: dict[int, int], groups: Hashes) -> Ints:
    values, where = np.unique(groups, return_inverse=True)
    return np.array([owner[value] for value in values.tolist()], dtype=np.int64)[where]


# --- choosing held-out questions -----------------------------------------------------------------


def spread(tasks: Sequence[Any], limit: int, seed: int) -> list[int]:
    """Indices of at most `limit` records, drawn from the seed, spread evenly over the tasks.

    tasks: each record's task; a task that has too few leaves its places to the others. The result
    is in the order of the tasks' names, then of the records.
    """
    order = list(range(len(tasks)))
    random.Random(f"{seed}/heldout").shuffle(order)
    waiting: dict[Any, list[int]] = defaultdict(list)
    for index in order:
        waiting[tasks[index]].append(index)
    taken: list[int] = []
    while len(taken) < limit and any(waiting.values()):
        for task in sorted(waiting):
            if waiting[task] and len(taken) < limit:
                taken.append(waiting[task].pop())
    return sorted(taken, key=lambda index: (tasks[index], index))
