from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.config.sources import JsonlSource
from fedmem.data.adapters import read_records
from fedmem.data.phi import BODY, CATEGORIES, fill
from fedmem.data.records import Note, PhiSpan
from fedmem.data.synthetic.identity import SLOTS, identity

VALUES = {slot: f"<{slot}>" for slot in SLOTS}
PROSE = "".join(f"The patient was seen on round number {i} and did well. " for i in range(40))


def untagged(filled: Note) -> str:
    """The filled note's text with every value taken out."""
    text, at = "", 0
    for span in filled.phi:
        text += filled.text[at : span.start]
        at = span.end
    return text + filled.text[at:]


def test_header_sentences_and_closing_are_placed():
    filled = fill(Note("n", "p", f"{PROSE}\n{PROSE}"), VALUES, SLOTS)
    assert filled.text.startswith("PATIENT: <patient>\nMRN: <mrn>\nDATE OF BIRTH: <dob>\n")
    assert filled.text.endswith("Results go to <phone> and to <email>.")
    first, second = filled.text.index("<hospital>"), filled.text.index("<profession>")
    assert 200 < first < second < len(PROSE)
    assert ". Admitted to <hospital>" in filled.text


def test_every_slot_is_tagged_once_with_its_type():
    filled = fill(Note("n", "p", PROSE), VALUES, SLOTS)
    found = {filled.value(span)[1:-1]: (span.category, span.type) for span in filled.phi}
    assert found == SLOTS
    assert len(filled.phi) == len(SLOTS)
    assert all(type_ in CATEGORIES[category] for category, type_ in SLOTS.values())


@given(
    st.text(st.sampled_from("abcXYZ .\n{}é🙂"), min_size=1, max_size=900),
    st.fixed_dictionaries({slot: st.text(min_size=1, max_size=9) for slot in SLOTS}),
)
def test_offsets_give_the_values_back_and_the_text_is_untouched(text, values):
    filled = fill(Note("n", "p", text), values, SLOTS)
    assert Counter(filled.value(span) for span in filled.phi) == Counter(values.values())
    ends = [(span.start, span.end) for span in filled.phi]
    assert ends == sorted(ends)
    assert all(a[1] <= b[0] for a, b in pairwise(ends))
    # what is left when forms and values are taken out again is the note
    rest = untagged(filled)
    for _, sentence in BODY:
        form = sentence.format(**dict.fromkeys(SLOTS, ""))
        assert form in rest
        rest = rest.replace(form, "", 1)
    rest = rest[rest.index("ADDRESS: ,  \n") + len("ADDRESS: ,  \n") :]
    rest = rest[: rest.rindex("Discharged on .")]
    # each form brought one line break or space of its own
    assert Counter(rest) - Counter(text) <= Counter({"\n": 3, " ": 2})
    assert "".join(rest.split()) == "".join(text.split())


def test_notes_with_phi_and_missing_values_are_refused():
    span = PhiSpan(0, 1, "NAME", "PATIENT")
    with pytest.raises(ValueError, match=r"note n: has tagged PHI already"):
        fill(Note("n", "p", "x", (span,)), VALUES, SLOTS)
    with pytest.raises(ValueError, match=r"note n: no value for the slot 'mrn'"):
        fill(Note("n", "p", "x"), VALUES | {"mrn": ""}, SLOTS)


def test_real_prose_is_filled(real_data):
    source = JsonlSource(kind="jsonl", path="clinical_notes.jsonl", adapter="notes")
    rows = read_records(source, real_data, "error", Counter())
    for index, note in enumerate(rows):
        values = identity(index, 0)
        filled = fill(note, values, SLOTS)
        assert sorted(map(filled.value, filled.phi)) == sorted(values.values())
        assert len(filled.text) < len(note.text) + 700
