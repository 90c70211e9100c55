"""PHI inference: the true value among others of its form, each behind the note's true text before.

The auditor makes the lists, once a run. A value of a synthetic identity is ranked among values of
its slot's word lists that no canary or twin holds (of the pool that the bundled base was not made
of; all of them, where they are few enough). Any other value is ranked among those of its type in
other notes, twins' first, for those were never trained on.
Ranks and exposures are read off the saved log-probabilities (`metrics.candidates`,
`metrics.exposure`). Price: each value is read once more for every candidate, the note once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import DynamicCache

from fedmem.data import prompts
from fedmem.data.encoding import Coder, Ids, array
from fedmem.data.records import Canary, TokenSpan
from fedmem.data.synthetic.identity import MAX_PATIENTS, SLOTS, SPACES, core, identity, in_pool
from fedmem.model.cache import caching

TOKENS_A_BATCH = 256  # each looks at all others; measured fastest for the bundled base
LOGITS_A_BATCH = 2**27  # half a gigabyte of float32
GIVE = 2  # tokens before a value that may be cut otherwise
NEAR = 40  # characters around a value that decide how it is cut into tokens, nearly always
TRIES = 4  # draws for each candidate wanted, before the slot counts as used up
SAME_SPACE = {"discharged": "admitted"}  # days of the same years


@dataclass(frozen=True)
class Listed:
    """Value `target` of a canary and its candidates, read behind the note's tokens up to `start`.

    ids: tokens of the true value, then of each candidate, as they stand in the note (from a token
    or two before it on, where some candidate takes in the space). space: how many values of this
    form there are; len(ids) where these are all that could be drawn; None where nobody knows.
    """

    target: int
    start: int
    ids: tuple[Ids, ...]
    space: int | None


Lists = Mapping[str, Sequence[Listed]]  # by canary


def lists(
    canaries: Sequence[Canary], all_: Sequence[Canary], tokenizer: Any, count: int, seed: int
) -> Lists:
    """`count` candidates, or as many as there are, for the first mention of every value.

    all_: the run's canaries and twins, `canaries` among them. The same for the same arguments.
    Values without any candidate, or whose token reaches beyond them, are left out.
    """
    if not canaries:
        return {}
    coder, slots = Coder(tokenizer), _slots(seed)
    spans = [(span.type, span.value) for canary in all_ for span in canary.phi]
    used = {core(slots[key], key[1]) for key in spans if key in slots}
    return {
        canary.id: [
            made
            for target, span in enumerate(canary.phi)
            if span.first
            and (made := _listed(coder, canary, target, all_, slots, used, count, seed))
        ]
        for canary in canaries
    }


def rank(model: Any, canaries: Sequence[Canary], chosen: Lists) -> dict[tuple[str, int], Any]:
    """(canary, target) -> {candidates, space} for its row of scores.parquet; model in eval mode."""
    found: dict[tuple[str, int], Any] = {}
    for canary in canaries:
        of = chosen.get(canary.id, ())
        scores = behind(model, canary.ids, [(one.start, one.ids) for one in of]) if of else []
        for one, logprobs in zip(of, scores, strict=True):
            found[canary.id, one.target] = {"candidates": logprobs, "space": one.space}
    return found


def behind(model: Any, ids: Ids, asked: Sequence[tuple[int, Sequence[Ids]]]) -> list[list[float]]:
    """For each (start, values): the log-probability of every value behind ids[:start].

    The ids are read once. All values are read as trees on top, in which a token sees those that it
    follows and no other: beginnings that several share are read once, and nothing is copied.
    """
    device = next(model.parameters()).device
    read = DynamicCache()
    with torch.inference_mode():
        first = torch.from_numpy(ids[: max(start for start, _ in asked)]).long()[None]
        model(input_ids=first.to(device), logits_to_keep=1, **caching(read))
    most = min(TOKENS_A_BATCH, LOGITS_A_BATCH // model.config.get_text_config().vocab_size)
    scores: list[list[float]] = [[] for _ in asked]
    forest = Forest()
    places: list[int] = []  # which of `asked` each sequence in the forest is of

    def flush() -> None:
        for place, score in zip(places, forest.score(model, read), strict=True):
            scores[place].append(score)

    for place, (start, values) in enumerate(asked):
        for value in values:
            if places and forest.size + len(value) > most:
                flush()
                forest, places = Forest(), []
            forest.add(start, int(ids[start - 1]), value.tolist())
            places.append(place)
    flush()
    return scores


class Forest:
    """Token sequences as trees, one for each place they stand at; a root is the token before."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.parents: list[int] = []  # -1: a root
        self.nodes: dict[tuple[int, int, int], int] = {}  # (place, parent, token)
        self.paths: list[list[tuple[int, int]]] = []  # of each sequence: (node, token after it)

    @property
    def size(self) -> int:
        """Tokens to read."""
        return len(self.tokens)

    def add(self, start: int, before: int, ids: Sequence[int]) -> None:
        """Put in a sequence whose first token stands at `start`, behind the token `before`.

        Its last token is predicted, and need not be read.
        """
        node, path = self._node(start, -1, before), []
        for place, token in enumerate(ids):
            path.append((node, token))
            if place + 1 < len(ids):
                node = self._node(start, node, token)
        self.paths.append(path)

    def _node(self, start: int, parent: int, token: int) -> int:
        key = (start, parent, token)
        if key not in self.nodes:
            self.nodes[key] = len(self.tokens)
            self.tokens.append(token)
            self.positions.append(start - 1 if parent < 0 else self.positions[parent] + 1)
            self.parents.append(parent)
        return self.nodes[key]

    def score(self, model: Any, read: DynamicCache) -> list[float]:
        """The log-probability of every sequence, as put in; what was read stays as it is."""
        device = next(model.parameters()).device
        known = read.get_seq_length()
        sees = torch.zeros((self.size, known + self.size), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent < 0:
                sees[node, : self.positions[node]] = True
            else:
                sees[node] = sees[parent]
            sees[node, known + node] = True
        mask = torch.zeros(sees.shape, dtype=model.dtype)
        mask.masked_fill_(~sees, torch.finfo(model.dtype).min)
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor([self.tokens], device=device),
                attention_mask=mask[None, None].to(device),
                position_ids=torch.tensor([self.positions], device=device),
                **caching(read),
            ).logits[0]
            read.crop(-self.size)
            nodes, tokens = zip(*(step for path in self.paths for step in path), strict=True)
            total = torch.logsumexp(logits.float(), -1).double()[list(nodes)]
            steps = (logits[list(nodes), list(tokens)].double() - total).tolist()
        each = iter(steps)
        return [math.fsum(next(each) for _ in path) for path in self.paths]


def _slots(seed: int) -> dict[tuple[str, str], str]:
    """(type, value) -> slot, for all identities of a seed: those of synthetic and filled notes."""
    return {
        (SLOTS[slot][1], value): slot
        for index in range(MAX_PATIENTS)
        for slot, value in identity(index, seed).items()
    }


def _listed(
    coder: Coder,
    canary: Canary,
    target: int,
    canaries: Sequence[Canary],
    slots: Mapping[tuple[str, str], str],
    used: set[str],
    count: int,
    seed: int,
) -> Listed | None:
    span = canary.phi[target]
    if span.start < 1:
        return None
    slot = slots.get((span.type, span.value))
    rng = random.Random(f"{seed}/candidates/{canary.id}/{target}")
    space = SPACES[SAME_SPACE.get(slot, slot)][0] if slot else None
    drawn = _of_slot(slot, used, count, rng) if slot else _elsewhere(canary, target, canaries, rng)
    around = _around(coder, canary, span)
    if around is None:
        return None
    before, after, true, first, last = around
    kept, start, dropped = [true], first, False
    while len(kept) <= count and (values := list(islice(drawn, count + 1 - len(kept)))):
        for ids in coder.encode_all(before + value + after for value in values):
            same = _alike(ids[:first], true)
            # the tokens around it must be the note's own, but for one that takes in a space
            if same >= first - GIVE and ids[len(ids) - last :] == true[len(true) - last :]:
                kept.append(ids)
                start = min(start, same)
            else:
                dropped = True
    if len(kept) < 2:
        return None
    if space is not None and space <= TRIES * count and not dropped and not [*drawn]:
        space = len(kept)  # every value of the pool
    parts = tuple(array(ids[start : len(ids) - last]) for ids in kept)
    return Listed(target, span.start - first + start, parts, space)


def _around(
    coder: Coder, canary: Canary, span: TokenSpan
) -> tuple[str, str, list[int], int, int] | None:
    """Some text before and after a value, their tokens, and how many stand before and behind it.

    A few words, where they read the same as in the note, and else all of it.
    """
    at = canary.text.index(span.value, int(canary.offsets[span.start, 0]))
    before, after = canary.text[:at], canary.text[at + len(span.value) :]
    first = max(before.rfind(" ", 0, max(0, at - NEAR)), 0)
    last = after.find(" ", NEAR)
    whole = prompts.note_text(before + "\0" + after).split("\0")
    for near, far in ((before[first:], after[: last if last >= 0 else None]), whole):
        ids = coder.encode(near + span.value + far)
        for k in range(len(ids) - (span.end - span.start) + 1):
            start = span.start - k
            if start >= 1 and canary.ids[start : start + len(ids)].tolist() == ids:
                return near, far, ids, k, len(ids) - k - (span.end - span.start)
    return None


def _alike(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(ids), len(others)))


def _of_slot(slot: str, used: set[str], count: int, rng: random.Random) -> Iterator[str]:
    """Values of the slot's space that no canary or twin holds, in random order."""
    size, value_of = SPACES[SAME_SPACE.get(slot, slot)]
    if size <= TRIES * count:  # few enough to go through them all
        order: Iterator[int] = iter(rng.sample(range(size), size))
    else:
        order = (rng.randrange(size) for _ in range(TRIES * count))
    said: set[str] = set()
    for index in order:
        value = value_of(index)
        if value not in said and in_pool(slot, value, "eval") and core(slot, value) not in used:
            said.add(value)
            yield value


def _elsewhere(
    canary: Canary, target: int, canaries: Sequence[Canary], rng: random.Random
) -> Iterator[str]:
    """Values of the type in other notes: twins' first, each in random order."""
    own = {span.value.casefold() for span in canary.phi}
    found: dict[str, bool] = {}  # value -> was it ever trained on?
    for other in canaries:
        for span in other.phi:
            same = span.type == canary.phi[target].type and span.value.casefold() not in own
            if same and other.id != canary.id:
                found[span.value] = found.get(span.value, False) or not other.twin
    values = sorted(found)
    rng.shuffle(values)
    return iter(sorted(values, key=lambda value: found[value]))
