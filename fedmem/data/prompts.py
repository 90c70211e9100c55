"""The forms in which records are written, as in the main paper's released code.

A prompt ends with `The answer is:` and an answer begins with one space, so that every option of a
question can be scored behind the same prompt. An example's text is prompt + answer + newline.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedmem.data.records import QARecord

LETTERS = "ABCD"
ANSWER = "The answer is:"
DECISIONS = ("yes", "no", "maybe")
NOTE = "Medical Note: "
END = "\n"


def mcq_prompt(question: str, options: Sequence[str]) -> str:
    """`MCQ: {question}`, the four options by letter, and the answer's cue.

    Raises ValueError unless there are four options.
    """
    if len(options) != len(LETTERS):
        raise ValueError(f"an MCQ has {len(LETTERS)} options, not {len(options)}")
    lines = "\n".join(
        f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)
    )
    return f"MCQ: {question}\nOptions:\n{lines}\n{ANSWER}"


def mcq(id: str, question: str, options: Sequence[str], correct: int) -> QARecord:
    """The paper's MCQ: the answer is the letter of option `correct` (0-based)."""
    return choice(id, "mcq", mcq_prompt(question, options), tuple(LETTERS), correct)


def mcq_text(id: str, question: str, options: Sequence[str], correct: int) -> QARecord:
    """An MCQ answered with the option's own text: a very small model cannot learn letters.

    Raises ValueError if two options read the same: choosing between them would be a coin toss.
    """
    if len(set(options)) != len(options):
        raise ValueError("two options of an MCQ read the same")
    return choice(id, "mcq", mcq_prompt(question, options), tuple(options), correct)


def closed(id: str, context: str, question: str, decision: str) -> QARecord:
    """The paper's closed question: `decision` is yes, no or maybe (else ValueError)."""
    if decision not in DECISIONS:
        raise ValueError(f"the decision must be yes, no or maybe, not {decision!r}")
    prompt = f"Closed Question: {context}\n{question}\n{ANSWER}"
    return choice(id, "closed", prompt, DECISIONS, DECISIONS.index(decision))


def open_question(id: str, question: str, answer: str) -> QARecord:
    """The paper's open question: no options, so only the answer's NLL is measured."""
    return QARecord(id, "open", f"Open Question: {question}\n{ANSWER}", f" {answer}")


def choice(id: str, task: str, prompt: str, options: Sequence[str], correct: int) -> QARecord:
    """A record with options, each written behind one space; ValueError if `correct` is no index."""
    if not 0 <= correct < len(options):
        raise ValueError(f"the right option is {correct}, of {len(options)} (0-based)")
    spaced = tuple(f" {option}" for option in options)
    return QARecord(id, task, prompt, spaced[correct], spaced, correct)


def text(record: QARecord) -> str:
    """What a model is trained on."""
    return record.prompt + record.answer + END


def note_text(note: str) -> str:
    """A clinical note as it is written into a shard."""
    return NOTE + note + END
