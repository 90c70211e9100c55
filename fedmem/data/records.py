"""What a record is: questions with answers, notes with tagged PHI, and their encoded forms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class QARecord:
    """A question and its answer as text.

    `prompt + answer + "\\n"` is what a model is trained on. `options` are the candidate answers
    that accuracy chooses from (empty: only the answer's NLL is measured); `answer` is
    `options[correct]` then. `task` names the kind of question in the utility tables. `patient` is
    whom the record is about and `group` what a split goes by, where the source names the columns.
    """

    id: str
    task: str
    prompt: str
    answer: str
    options: tuple[str, ...] = ()
    correct: int | None = None
    patient: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class PhiSpan:
    """A tagged value `note.text[start:end]`; category and type as in i2b2/n2c2 2014."""

    start: int
    end: int
    category: str
    type: str


@dataclass(frozen=True)
class Note:
    """A clinical note of one patient. `phi` is sorted by start and does not overlap."""

    id: str
    patient: str
    text: str
    phi: tuple[PhiSpan, ...] = ()
    synthetic: bool = False

    def value(self, span: PhiSpan) -> str:
        """The text that the span tags."""
        return self.text[span.start : span.end]


@dataclass(frozen=True)
class Example:
    """Token ids of one training example, BOS first; tokens from `supervised` on carry loss.

    ids: int32 [T]. `canary` is the canary's id where the example is (a window of) one.
    """

    ids: NDArray[np.int32]
    supervised: int = 1
    canary: str | None = None


@dataclass(frozen=True)
class TokenSpan:
    """Tokens [start, end) of a canary's ids that cover one PHI value."""

    start: int
    end: int
    category: str
    type: str
    value: str
    first: bool  # the value's first mention in the window: earlier text does not hold it


@dataclass(frozen=True)
class Canary:
    """One window of a note as it is written into a shard, or a twin (copies 0, never written).

    ids: int32 [T], BOS first. `owners` maps client to copies; a twin's owner is the client whose
    shard it would have entered. `offsets`: int32 [T, 2], each token's characters in `text`
    (BOS and the form's own tokens: -1).
    """

    id: str
    patient: str
    owners: dict[str, int]
    copies: int
    twin: bool
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    phi: tuple[TokenSpan, ...]
    text: str
    synthetic: bool


@dataclass(frozen=True)
class EncodedQA:
    """A held-out record: ids of the prompt (BOS first) and of each option (or the one answer)."""

    id: str
    task: str
    prompt: NDArray[np.int32]
    options: tuple[NDArray[np.int32], ...]
    correct: int
    scored: bool  # more than one option: counts for accuracy


class Examples(Sequence[Example]):
    """Examples put together when they are asked for. lengths: tokens of each, int32 [N].

    units: uint64 [N], alike for examples of one privacy unit; None where none were asked for.
    """

    lengths: NDArray[np.int32]
    units: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        numbers = range(len(self))[index]  # raises IndexError as any sequence does
        return self.one(numbers) if isinstance(numbers, int) else tuple(map(self.one, numbers))

    @abstractmethod
    def one(self, index: int) -> Example:
        """The example at `index`, of 0 to N - 1."""


@dataclass(frozen=True)
class Shard:
    """What one client holds: examples in a fixed order, canary copies among them.

    holders: of the clients that hold a same privacy unit, itself counted, the most.
    """

    client: str
    examples: Sequence[Example]
    canaries: tuple[str, ...]
    holders: int = 1

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example, int32 [N]; those of stored examples are not read for it."""
        if isinstance(self.examples, Examples):
            return self.examples.lengths
        return np.array([len(example.ids) for example in self.examples], dtype=np.int32)

    @property
    def units(self) -> NDArray[np.uint64]:
        """The privacy unit of each example, uint64 [N]; unless given, a canary's copies are one."""
        if isinstance(self.examples, Examples) and self.examples.units is not None:
            return self.examples.units
        names = [e.canary or f"\0{number}" for number, e in enumerate(self.examples)]
        return np.unique(names, return_inverse=True)[1].astype(np.uint64)
