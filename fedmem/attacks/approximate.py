"""Approximate extraction: token BLEU-4, ROUGE-L and edit distance of a greedy continuation.

The continuation must be decoded, for after a wrong token it may find its way back. Decoding stops
as soon as none of the three can reach its threshold any more, whatever follows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics.bleu import BLEU

from fedmem.config import Attack

_BLEU = BLEU(tokenize="none", smooth_method="none", effective_order=False)


def token_bleu(guess: Sequence[int], truth: Sequence[int]) -> float:
    """BLEU-4 over token ids, 0 to 1, unsmoothed (sacrebleu, tokens as words)."""
    # a corpus of one: the same number, without the log line that sentence_score writes each time
    texts = [" ".join(map(str, guess))], [[" ".join(map(str, truth))]]
    return float(_BLEU.corpus_score(*texts).score) / 100


def edit_distance(guess: Sequence[int], truth: Sequence[int]) -> float:
    """Levenshtein distance over token ids, divided by the longer length."""
    return float(Levenshtein.normalized_distance(list(guess), list(truth)))


def rouge_l(guess: Sequence[int], truth: Sequence[int]) -> float:
    """ROUGE-L over token ids (Lin 2004): F1 of the longest common subsequence, 0 to 1."""
    if not len(guess) or not len(truth):
        return 0.0
    return 2 * LCSseq.similarity(list(guess), list(truth)) / (len(guess) + len(truth))


class Nearness(NamedTuple):
    """How near a continuation is to the truth: two likenesses, and a distance."""

    bleu: float
    edit: float
    rouge_l: float


IDENTICAL = Nearness(1.0, 0.0, 1.0)


class Thresholds(NamedTuple):
    """From where on a continuation counts as an approximate match, by each measure."""

    bleu: float
    edit: float
    rouge_l: float

    @classmethod
    def of(cls, attack: Attack) -> Thresholds:
        """As the config has them."""
        return cls(attack.bleu, attack.edit, attack.rouge_l)


class BleuBound:
    """An upper bound on BLEU-4 of a continuation of which only the beginning is known.

    Every n-gram of the beginning that the truth does not hold (often enough) is lost; all that
    follow are counted as right. Both have the same length, so there is no brevity penalty.
    """

    def __init__(self, truth: Sequence[int]) -> None:
        self.length = len(truth)
        self.left = [
            Counter(tuple(truth[i : i + n]) for i in range(len(truth) - n + 1)) for n in range(1, 5)
        ]
        self.wrong = [0, 0, 0, 0]

    def add(self, guess: Sequence[int]) -> float:
        """Count the n-grams that end in the last token of `guess`; returns the bound."""
        total = 0.0
        for n in range(1, 5):
            possible = self.length - n + 1
            if len(guess) >= n:
                gram = tuple(guess[-n:])
                if self.left[n - 1][gram] > 0:
                    self.left[n - 1][gram] -= 1
                else:
                    self.wrong[n - 1] += 1
            right = possible - self.wrong[n - 1]
            if right <= 0:
                return 0.0
            total += math.log(right / possible)
        return math.exp(total / 4)


class CommonBound:
    """An upper bound on the longest common subsequence, of a guess of which only a part is known.

    Whatever follows, each further token adds one at the most. Bits of `_row` are the table's last
    row, as differences (Hyyrö, A bit-parallel LCS-length computation revisited, 2004).
    """

    def __init__(self, truth: Sequence[int]) -> None:
        self.length, self.read = len(truth), 0
        self.places: dict[int, int] = {}
        for place, token in enumerate(truth):
            self.places[token] = self.places.get(token, 0) | 1 << place
        self._all = (1 << self.length) - 1
        self._row = self._all

    def add(self, token: int) -> float:
        """Read on; the bound, as a share of the length."""
        self.read += 1
        found = self._row & self.places.get(token, 0)
        self._row = ((self._row + found) | (self._row - found)) & self._all
        common = self.length - self._row.bit_count()
        return (common + self.length - self.read) / self.length


class Watch:
    """Follows the decoding of several continuations: which may still come near their truth?

    Both have the same length, so ROUGE-L is the common subsequence's share, and one minus it is at
    most the edit distance: one bound serves both.
    """

    def __init__(self, truths: Sequence[Sequence[int]], thresholds: Thresholds) -> None:
        self.truths, self.thresholds = truths, thresholds
        self.bleu = [BleuBound(truth) for truth in truths]
        self.common = [CommonBound(truth) for truth in truths]
        self.least = min(thresholds.rouge_l, 1 - thresholds.edit) - 1e-9

    def keep(self, index: int, guess: list[int]) -> bool:
        """Whether to decode on: some bound holds and the end is not reached."""
        bleu = self.bleu[index].add(guess) >= self.thresholds.bleu
        common = self.common[index].add(guess[-1]) >= self.least
        return (bleu or common) and len(guess) < len(self.truths[index])

    def result(self, index: int, guess: list[int]) -> Nearness | None:
        """None where decoding was given up: below every threshold."""
        truth = self.truths[index]
        if len(guess) < len(truth):
            return None
        found = Nearness(token_bleu(guess, truth), edit_distance(guess, truth), 0.0)
        found = found._replace(rouge_l=rouge_l(guess, truth))
        near = found.bleu >= self.thresholds.bleu or found.rouge_l >= self.least
        return found if near else None
