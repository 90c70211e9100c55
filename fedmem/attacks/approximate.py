"""Approximate extraction: token BLEU-4 and edit distance of a greedy continuation.

The continuation must be decoded, for after a wrong token it may find its way back. Decoding stops
as soon as too many n-grams are wrong for BLEU to reach the threshold, whatever follows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU

_BLEU = BLEU(tokenize="none", smooth_method="none", effective_order=False)


def token_bleu(guess: Sequence[int], truth: Sequence[int]) -> float:
    """BLEU-4 over token ids, 0 to 1, unsmoothed (sacrebleu, tokens as words)."""
    # a corpus of one: the same number, without the log line that sentence_score writes each time
    texts = [" ".join(map(str, guess))], [[" ".join(map(str, truth))]]
    return float(_BLEU.corpus_score(*texts).score) / 100


def edit_distance(guess: Sequence[int], truth: Sequence[int]) -> float:
    """Levenshtein distance over token ids, divided by the longer length."""
    return float(Levenshtein.normalized_distance(list(guess), list(truth)))


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


class Watch:
    """Follows the decoding of several continuations: which may still come near their truth?"""

    def __init__(self, truths: Sequence[Sequence[int]], threshold: float) -> None:
        self.truths, self.threshold = truths, threshold
        self.bounds = [BleuBound(truth) for truth in truths]

    def keep(self, index: int, guess: list[int]) -> bool:
        """Whether to decode on: the bound holds and the end is not reached."""
        bound = self.bounds[index].add(guess)
        return bound >= self.threshold and len(guess) < len(self.truths[index])

    def result(self, index: int, guess: list[int]) -> tuple[float, float] | None:
        """(BLEU, edit distance); None: BLEU is below the threshold, or too short for 4-grams."""
        truth = self.truths[index]
        if len(guess) < len(truth) or len(truth) < 4:
            return None
        bleu = token_bleu(guess, truth)
        return (bleu, edit_distance(guess, truth)) if bleu >= self.threshold else None
