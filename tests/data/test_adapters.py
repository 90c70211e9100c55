from collections import Counter
from itertools import islice

import pytest

from fedmem.config import JsonlSource
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
NOTE = {"id": "n1", "text": "Seen by Ann Lee.\n", "phi": []}
TAG = {"start": 8, "end": 15, "category": "NAME", "type": "DOCTOR"}


def source(adapter, **more):
    return JsonlSource(kind="jsonl", path="x.jsonl", adapter=adapter, **more)


def adapt(adapter, row, line=3, **more):
    return ADAPTERS[adapter](row, line, source(adapter, **more))


def test_medmcqa():
    assert adapt("medmcqa", MCQ) == prompts.mcq("m1", "Q?", ["a", "b", "c", "d"], 2)


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
        list(read_records(path, source("medmcqa"), "error", Counter()))


@pytest.mark.parametrize(
    ("name", "adapter", "count"),
    [
        ("medmcqa.jsonl", "medmcqa", 2000),
        ("pubmedqa.jsonl", "pubmedqa", 700),
        ("medical_flashcards.jsonl", "medical_meadow", 4000),
        ("clinical_notes.jsonl", "notes", 240),
    ],
)
def test_real_files_are_read_whole(real_data, name, adapter, count):
    records = read_records(real_data / name, source(adapter), "error", Counter())
    assert sum(1 for _ in islice(records, count + 1)) == count
