from collections import Counter
from itertools import islice

import pytest

from fedmem.config.sources import JsonlSource
from fedmem.data import prompts
from fedmem.data.adapters import ADAPTERS, read_records
from fedmem.data.records import Note, PhiSpan, QARecord
from fedmem.errors import DataError

MCQ = {"id": "m1", "question": "Q?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2}
PUBMED = {
    "pubid": 7,
    "question": "Does it?",
    "context": {"contexts": ["One. ", "Two."]},
    "final_decision": "no",
}
MEDQA = {
    "question": "Q?",
    "answer": "y",
    "options": {"A": "w", "B": "x", "C": "y", "D": "z"},
    "meta_info": "step1",
    "answer_idx": "C",
}
MMLU = {"question": "Q?", "subject": "anatomy", "choices": ["w", "x", " y ", "z"], "answer": 2}
NOTE = {"id": "n1", "text": "Seen by Ann Lee.\n", "phi": []}
TAG = {"start": 8, "end": 15, "category": "NAME", "type": "DOCTOR"}


def source(adapter, path="x.jsonl", **more):
    return JsonlSource(kind="jsonl", path=path, adapter=adapter, **more)


def adapt(adapter, row, **more):
    return ADAPTERS[adapter](row, "line-3", source(adapter, **more))


def test_medmcqa():
    assert adapt("medmcqa", MCQ) == prompts.mcq("m1", "Q?", ["a", "b", "c", "d"], 2)


def test_medqa_and_mmlu():
    expected = prompts.mcq("line-3", "Q?", ["w", "x", "y", "z"], 2)
    assert adapt("medqa", MEDQA) == expected
    turned = dict(reversed(MEDQA["options"].items()))
    assert adapt("medqa", MEDQA | {"options": turned}) == expected
    bare = {key: MEDQA[key] for key in ("question", "options", "answer_idx")}
    assert adapt("medqa", bare) == expected
    assert adapt("mmlu", MMLU) == expected


def test_pubmedqa_joins_its_contexts():
    assert adapt("pubmedqa", PUBMED) == prompts.closed("7", "One. Two.", "Does it?", "no")


def test_medical_meadow_asks_the_input_or_else_the_instruction():
    row = {"instruction": "Answer truthfully", "input": "What?", "output": " That. "}
    assert adapt("medical_meadow", row) == prompts.open_question("line-3", "What?", "That.")
    for nothing in ("", None):
        record = adapt("medical_meadow", row | {"input": nothing})
        assert record.prompt.startswith("Open Question: Answer truthfully\n")


def test_generic_takes_columns_named_in_the_source():
    row = {"ask": "Q: why?\nA: ", "say": "so", "key": "k"}
    record = adapt("generic", row, prompt="ask", completion="say", id="key")
    assert record == QARecord("k", "generic", "Q: why?\nA:", " so")


def test_notes_keep_their_text_and_sort_their_tags():
    row = NOTE | {"phi": [TAG, {"start": 0, "end": 4, "category": "DATE", "type": "DATE"}]}
    note = adapt("notes", row | {"patient": 12})
    assert isinstance(note, Note)
    assert note.text == NOTE["text"]
    assert note.patient == "12"
    assert [note.value(span) for span in note.phi] == ["Seen", "Ann Lee"]
    plain = adapt("notes", {"id": "n1", "text": "x"})
    assert (plain.patient, plain.phi, plain.synthetic) == ("n1", (), False)


def test_a_tag_may_carry_its_text_to_be_checked():
    assert adapt("notes", NOTE | {"phi": [TAG | {"text": "Ann Lee"}]}).phi == (
        PhiSpan(8, 15, "NAME", "DOCTOR"),
    )
    with pytest.raises(ValueError, match=r"does not stand where"):
        adapt("notes", NOTE | {"phi": [TAG | {"text": "Ann Le"}]})


@pytest.mark.parametrize(
    ("adapter", "row", "message"),
    [
        ("medmcqa", MCQ | {"cop": "2"}, "'cop' must be int, not str"),
        ("medmcqa", MCQ | {"cop": True}, "'cop' must be int, not bool"),
        ("medmcqa", MCQ | {"cop": -1}, "'cop' must be 0 to 3, not -1"),
        ("medmcqa", MCQ | {"opc": None}, "'opc' must be str, not null"),
        ("medmcqa", MCQ | {"question": " "}, "'question' is empty"),
        ("medmcqa", {"cop": 1}, "the column 'opa' is missing"),
        ("medmcqa", MCQ | {"id": 1.5}, "'id' must be str, not float"),
        ("medqa", MEDQA | {"answer_idx": "E"}, "'answer_idx' must be A, B, C or D"),
        ("medqa", MEDQA | {"answer_idx": "A"}, "'answer' is not the option A"),
        ("medqa", MEDQA | {"options": list("wxyz")}, "'options' must be dict, not list"),
        ("medqa", MEDQA | {"options": MEDQA["options"] | {"E": "v"}}, "keys A, B, C and D"),
        ("medqa", MEDQA | {"options": MEDQA["options"] | {"D": None}}, "'D' must be str, not null"),
        ("mmlu", MMLU | {"answer": "C"}, "'answer' must be int, not str"),
        ("mmlu", MMLU | {"answer": 4}, "'answer' must be 0 to 3, not 4"),
        ("mmlu", MMLU | {"choices": ["w", "x"]}, "4 options, not 2"),
        ("mmlu", MMLU | {"choices": ["w", "x", "", "z"]}, "'choices' is empty"),
        ("pubmedqa", PUBMED | {"final_decision": "Yes"}, "yes, no or maybe"),
        ("pubmedqa", PUBMED | {"context": ["a"]}, "'context' must be dict, not list"),
        ("pubmedqa", PUBMED | {"context": {}}, "'contexts' is missing"),
        ("pubmedqa", PUBMED | {"context": {"contexts": []}}, "contexts' is empty"),
        ("medical_meadow", {"input": "q"}, "'output' is missing"),
        ("medical_meadow", {"input": 3, "output": "a"}, "'input' must be str, not int"),
        ("medical_meadow", {"input": "\ud800", "output": "a"}, "lone surrogate"),
        ("generic", {"prompt": "q", "completion": None}, "'completion' must be str, not null"),
        ("notes", {"id": "a", "text": ""}, "'text' is empty"),
        ("notes", NOTE | {"patient": []}, "'patient' must be str, not list"),
        ("notes", NOTE | {"phi": "x"}, "'phi' must be list"),
        ("notes", NOTE | {"phi": [TAG | {"end": 99}]}, r"phi \[8, 99\) is not inside"),
        ("notes", NOTE | {"phi": [TAG | {"end": 8}]}, "is not inside"),
        ("notes", NOTE | {"phi": [TAG | {"type": "NICK"}]}, "category and type must be of i2b2"),
        ("notes", NOTE | {"phi": [TAG, TAG]}, "overlaps"),
        ("notes", NOTE | {"phi": [TAG | {"start": 7, "end": 8}]}, "white space"),
    ],
)
def test_wrong_rows_are_refused_with_the_reason(adapter, row, message):
    with pytest.raises(ValueError, match=message):
        adapt(adapter, row)


def test_a_wrong_row_is_named_by_file_and_line(write_jsonl):
    path = write_jsonl("m.jsonl", [MCQ, MCQ | {"id": "m2", "cop": 9}])
    with pytest.raises(DataError, match=r"m.jsonl:2: 'cop' must be 0 to 3, not 9"):
        list(read_records(source("medmcqa", path), None, "error", Counter()))


def test_the_patient_and_the_column_of_a_split_come_along(write_jsonl):
    row = {"prompt": "q", "completion": "a", "who": 7, "ward": " icu "}
    path = write_jsonl("g.jsonl", [row])
    records = read_records(source("generic", path, patient="who"), None, "error", Counter(), "ward")
    assert [(r.patient, r.group) for r in records] == [("7", "icu")]
    plain = next(read_records(source("generic", path), None, "error", Counter()))
    assert (plain.patient, plain.group) == (None, None)
    note = adapt("notes", NOTE | {"who": "p1", "patient": "other"}, patient="who")
    assert note.patient == "p1"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"who": None}, "'who' must be str, not null"),
        ({"who": ""}, "'who' is empty"),
        ({"ward": "  "}, "'ward' is empty"),
        ({"ward": ["icu"]}, "'ward' must be str, not list"),
    ],
)
def test_a_row_without_patient_or_column_is_bad(write_jsonl, changed, message):
    row = {"prompt": "q", "completion": "a", "who": 7, "ward": "icu"}
    path = write_jsonl("g.jsonl", [row, row | changed])
    given = source("generic", path, patient="who")
    with pytest.raises(DataError, match=rf"g.jsonl:2: {message}"):
        list(read_records(given, None, "error", Counter(), "ward"))
    counts: Counter[str] = Counter()
    assert len(list(read_records(given, None, "skip", counts, "ward"))) == 1
    assert counts == Counter(bad_rows=1)
    with pytest.raises(ValueError, match=r"'who' is missing"):
        adapt("notes", NOTE, patient="who")


@pytest.mark.parametrize(
    ("name", "adapter", "count"),
    [
        ("medmcqa.jsonl", "medmcqa", 2000),
        ("medqa_4options.jsonl", "medqa", 700),
        ("mmlu_medical.jsonl", "mmlu", 600),
        ("pubmedqa.jsonl", "pubmedqa", 700),
        ("medical_flashcards.jsonl", "medical_meadow", 4000),
        ("clinical_notes.jsonl", "notes", 240),
    ],
)
def test_real_files_are_read_whole(real_data, name, adapter, count):
    records = read_records(source(adapter, name), real_data, "error", Counter())
    assert sum(1 for _ in islice(records, count + 1)) == count
