import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.data.prompts import note_text
from fedmem.data.records import Note, PhiSpan
from fedmem.data.windows import window
from fedmem.errors import DataError

PLAIN = "The patient was seen in the clinic and did well. "


def tagged(*parts):
    """A note of plain parts and ("value",) parts; the latter are tagged."""
    text, spans = "", []
    for part in parts:
        if isinstance(part, tuple):
            spans.append(PhiSpan(len(text), len(text) + len(part[0]), "NAME", "PATIENT"))
            part = part[0]
        text += part
    return Note("n1", "p1", text, tuple(spans))


def check(found, note, coder, max_length):
    """What holds of every window, wherever it was taken."""
    assert len(found.ids) <= max_length
    assert found.text in note.text
    assert found.ids.tolist() == [*coder.bos, *coder.encode(note_text(found.text))]
    assert found.offsets.shape == (len(found.ids), 2)
    for span in found.phi:
        covered = found.offsets[span.start : span.end]
        covered = covered[covered[:, 0] >= 0]
        start, end = int(covered[:, 0].min()), int(covered[:, 1].max())
        assert span.value in found.text[start:end]
        # no token of the span could be left out
        at = found.text.index(span.value, start)
        assert covered[0][1] > at
        assert covered[-1][0] < at + len(span.value)


def test_a_short_note_is_taken_whole(coder, tokenizer):
    note = tagged("PATIENT: ", ("John Smith",), "\n", PLAIN, "Call ", ("JOHN SMITH",), ".")
    found = window(coder, note, 400, "window")
    check(found, note, coder, 400)
    assert not found.cut
    assert tokenizer.decode(found.ids[1:]) == f"Medical Note: {note.text}\n"
    assert [span.value for span in found.phi] == ["John Smith", "JOHN SMITH"]
    assert [span.first for span in found.phi] == [True, False]
    # BOS and the form's own tokens stand outside the text, and the text is covered without a gap
    assert found.offsets[0].tolist() == [-1, -1]
    inside = found.offsets[found.offsets[:, 0] >= 0]
    assert inside[0][0] == 0
    assert inside[-1][1] == len(note.text)


def test_the_window_with_most_phi_is_taken(coder):
    values = [(f"Name{i} Other{i}",) for i in range(4)]
    note = tagged(PLAIN * 8, values[0], ". ", PLAIN * 8, values[1], ", ", values[2], ". ", PLAIN)
    found = window(coder, note, 80, "window")
    check(found, note, coder, 80)
    assert found.cut
    assert [span.value for span in found.phi] == [values[1][0], values[2][0]]
    start = note.text.index(found.text)
    assert start == 0 or note.text[start - 2] == "."  # begins with a sentence


def test_a_long_note_can_be_an_error_or_skipped(coder):
    note = tagged(PLAIN * 20)
    assert window(coder, note, 80, "skip") is None
    with pytest.raises(DataError, match=r"note n1: .* tokens, training.max_length is 80"):
        window(coder, note, 80, "error")


def test_phi_without_a_sentence_before_it_is_found(coder):
    note = tagged("word " * 200, ("Ann Lee",), " word" * 200)
    found = window(coder, note, 64, "window")
    check(found, note, coder, 64)
    assert [span.value for span in found.phi] == ["Ann Lee"]


def test_text_without_white_space_is_cut_in_the_word(coder):
    found = window(coder, tagged("x" * 500), 64, "window")
    assert 1 < len(found.text) < 64


def test_a_value_that_no_window_holds_is_no_span(coder):
    note = tagged(PLAIN, ("y" * 500,), PLAIN)
    found = window(coder, note, 64, "window")
    check(found, note, coder, 64)
    assert found.phi == ()


def test_a_note_with_a_special_token_is_named(coder):
    with pytest.raises(DataError, match=r"note n1: holds '</s>', a special token"):
        window(coder, tagged("a </s> b"), 64, "window")


def test_no_room_at_all(coder):
    with pytest.raises(DataError, match=r"note n1: no window of it fits"):
        window(coder, tagged(PLAIN * 9), 3, "window")


def test_a_value_glued_to_a_long_word(coder):
    note = tagged(("0000é 🙂🙂🙂🙂🙂",), "00000000")
    found = window(coder, note, 40, "window")
    check(found, note, coder, 40)
    assert found.cut
    assert [span.value for span in found.phi] == ["0000é 🙂🙂🙂🙂🙂"]


words = st.text(st.sampled_from("abcé🙂 \n.,-0"), min_size=1, max_size=30)
# four tokens a character at most: a value always fits a window
values = st.text(st.sampled_from("AB é🙂0"), min_size=1, max_size=6).filter(str.strip)
parts = st.lists(st.one_of(words, st.tuples(values)), min_size=1, max_size=25)


@given(parts.filter(lambda parts: any(map(str.strip, map(str, parts)))), st.integers(40, 120))
def test_spans_give_their_values_back_from_every_window(coder, parts, max_length):
    note = tagged(*parts)
    if not note.text.strip():
        return
    found = window(coder, note, max_length, "window")
    check(found, note, coder, max_length)
    assert {span.value for span in found.phi} <= {note.value(span) for span in note.phi}
    if not found.cut:
        assert [span.value for span in found.phi] == [note.value(span) for span in note.phi]
    assert window(coder, note, max_length, "window").text == found.text
