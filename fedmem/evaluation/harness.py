"""The same questions through EleutherAI's lm-evaluation-harness: an independent second opinion.

The harness tokenises prompt and option together, fedmem each by itself as in training
(`fedmem.data.encoding`). Where the ids are the same, the log-likelihoods must be too; where they
are not, the two ask slightly different questions, and `same_tokens` says how often.

They also norm otherwise: the harness picks by the sum (`acc`), the mean a character (`acc_norm`)
or a byte (`acc_bytes`), without the space before an option; fedmem by the mean a token. So
fedmem's log-likelihoods are graded by their norms too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmem.data.encoding import Coder
from fedmem.data.records import EncodedQA, QARecord
from fedmem.errors import ConfigError
from fedmem.evaluation.options import option_logprobs

Pairs = Sequence[tuple[QARecord, EncodedQA]]
Floats = NDArray[np.float64]

# the harness's names -> what an option's summed log-likelihood is divided by
NORMS: dict[str, Callable[[str], int]] = {
    "acc": lambda option: 1,
    "acc_norm": len,
    "acc_bytes": lambda option: len(option.encode()),
}


def check_installed() -> None:
    """ConfigError, saying what to install, where the harness is missing."""
    try:
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--harness: lm-evaluation-harness is not installed; pip install 'fedmem[eval]'"
        ) from None


def compare(model: Any, tokenizer: Any, pairs: Pairs, bos: int) -> list[dict[str, Any]]:
    """For each task that has options to choose from: their accuracy, ours, and how far they agree.

    Left out: questions whose prompt was cut (`cut`), for the harness has no such rule, and those of
    which an option melts into the prompt's last token (`merged`), which it cannot ask. `accuracy`:
    ours by the mean a token. For each of `NORMS`: `<norm>` theirs, `<norm>_ours` ours by their
    norm, `<norm>_agree` the share of questions in which both pick the same option.
    `agree`: the share in which our own pick is that of their acc_norm. `same_tokens`: share of
    options that both tokenise alike; `gap`: the largest difference between the log-likelihoods of
    such an option (nats), `gap_all` of any.
    """
    coder, prefix = Coder(tokenizer), tokenizer.bos_token if bos else ""
    rows = []
    for task in sorted({encoded.task for _, encoded in pairs if encoded.scored}):
        of = [(r, q) for r, q in pairs if q.task == task and q.scored]
        whole = [(r, q) for r, q in of if len(coder.encode(r.prompt)) + bos == len(q.prompt)]
        cut = len(of) - len(whole)
        asked = [(r, q) for r, q in whole if not _merges(tokenizer, r, prefix)]
        rows.append({"task": task, "n": len(asked), "cut": cut, "merged": len(whole) - len(asked)})
        if asked:
            rows[-1] |= _compare(model, tokenizer, asked, prefix)
    return rows


def _compare(model: Any, tokenizer: Any, pairs: Pairs, prefix: str) -> dict[str, Any]:
    theirs, accuracy = likelihoods(model, tokenizer, [record for record, _ in pairs], prefix)
    tokens = option_logprobs(model, [encoded for _, encoded in pairs])
    ours = [np.array([option.sum() for option in question]) for question in tokens]
    correct = np.array([encoded.correct for _, encoded in pairs])
    own = np.array([int(np.argmax([o.mean() for o in question])) for question in tokens])
    row: dict[str, Any] = {"accuracy": float((own == correct).mean())}
    for norm, size in NORMS.items():
        sizes = [np.array([size(option[1:]) for option in r.options]) for r, _ in pairs]
        mine, other = _picks(ours, sizes), _picks(theirs, sizes)
        row[norm] = accuracy[norm]
        row[f"{norm}_ours"] = float((mine == correct).mean())
        row[f"{norm}_agree"] = float((mine == other).mean())
        if norm == "acc_norm":
            row["agree"] = float((own == other).mean())
    same = np.concatenate([_same(tokenizer, record, q, prefix) for record, q in pairs])
    gaps = np.abs(np.concatenate(ours) - np.concatenate(theirs))
    row["same_tokens"] = float(same.mean())
    row["gap"] = float(gaps[same].max()) if same.any() else None
    row["gap_all"] = float(gaps.max())
    return row


def _picks(likelihood: Sequence[Floats], sizes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.array([int(np.argmax(a / b)) for a, b in zip(likelihood, sizes, strict=True)])


def _joined(tokenizer: Any, text: str, options: Sequence[str]) -> list[list[int]]:
    """Ids of the text with each option, tokenised in one, as the harness does."""
    return [tokenizer.encode(text + option, add_special_tokens=False) for option in options]


def _merges(tokenizer: Any, record: QARecord, prefix: str) -> bool:
    """Whether some option adds no token to the prompt's."""
    (alone,) = _joined(tokenizer, prefix + record.prompt, [""])
    joined = _joined(tokenizer, prefix + record.prompt, record.options)
    return any(len(ids) <= len(alone) for ids in joined)


def _same(tokenizer: Any, record: QARecord, question: EncodedQA, prefix: str) -> NDArray[np.bool_]:
    """Whether an option's ids behind the prompt are ours where the text is tokenised in one."""
    joined = _joined(tokenizer, prefix + record.prompt, record.options)
    ours = [np.concatenate((question.prompt, option)).tolist() for option in question.options]
    return np.array([a == b for a, b in zip(joined, ours, strict=True)])


def likelihoods(
    model: Any, tokenizer: Any, records: Sequence[QARecord], prefix: str
) -> tuple[list[Floats], dict[str, float]]:
    """(summed log-likelihood of every option by question, the harness's accuracies by name).

    The model is asked as it is, on its device; nothing is looked up on a hub. `prefix`: the text
    of the token that begins a sequence, or nothing.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # imported here: it takes seconds, and is an extra
    from datasets import Dataset
    from lm_eval import evaluator
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    rows = []
    for record in records:
        options = [option[1:] for option in record.options]  # the harness brings the space itself
        text = prefix + record.prompt
        rows.append({"prompt": text, "options": options, "right": record.correct})
    documents = Dataset.from_list(rows)
    task = ConfigurableTask(
        config={
            "task": "questions",
            "custom_dataset": lambda **_: {"test": documents},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": lambda document: document["prompt"],
            "doc_to_choice": lambda document: document["options"],
            "doc_to_target": lambda document: document["right"],
            "target_delimiter": " ",
            "num_fewshot": 0,
            "metric_list": [
                {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in NORMS
            ],
        }
    )
    with open(os.devnull, "w") as silence, redirect_stderr(silence):  # its progress bars
        # not simple_evaluate: that sets all seeds, and asks git and pip about this machine
        found = evaluator.evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", add_bos_token=False),
            {"questions": task},
            bootstrap_iters=0,
        )
    samples = sorted(found["samples"]["questions"], key=lambda sample: sample["doc_id"])
    result = found["results"]["questions"]
    return (
        [np.array([one[0] for one in sample["filtered_resps"]]) for sample in samples],
        {name: float(result[f"{name},none"]) for name in NORMS},
    )
