from collections import Counter
from pathlib import Path
from time import perf_counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.config.sources import I2b2Source
from fedmem.data import i2b2, sources
from fedmem.data.adapters import read_records
from fedmem.data.phi import CATEGORIES
from fedmem.data.records import Note, PhiSpan
from fedmem.data.synthetic import notes as synthetic
from fedmem.errors import DataError

TEXT = "Record: 2011\n\nSeen by Ann Lee,\nSt Mary & Sons."
DOCTOR = PhiSpan(22, 29, "NAME", "DOCTOR")
HOSPITAL = PhiSpan(31, 46, "LOCATION", "HOSPITAL")


def page(text: str = TEXT, tags: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n<deIdi2b2>\n'
        f"<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n{tags}\n</TAGS>\n</deIdi2b2>\n"
    )


def tag(**changed: str) -> str:
    given = {"id": "P0", "start": "22", "end": "29", "text": "Ann Lee", "TYPE": "DOCTOR"}
    keys = " ".join(f'{key}="{value}"' for key, value in (given | changed).items())
    return f"<NAME {keys} />"


def read(folder: Path, skip: bool = False) -> list[Note]:
    source = I2b2Source(kind="i2b2_xml", path=folder)
    found = read_records(source, None, "skip" if skip else "error", Counter())
    return [note for note in found if isinstance(note, Note)]


def refused(folder: Path, content: str | bytes, name: str = "110-01.xml") -> str:
    """The one line that a file with this content is refused with."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder / name}: ")
    assert "\n" not in text and "Ann" not in text
    return text


def test_a_file_as_the_format_has_it(tmp_path):
    (tmp_path / "110-02.xml").write_text(page(tags=tag()))
    (tmp_path / "110-01.xml").write_text(page())
    (tmp_path / "099-01.xml").write_text(page())
    (tmp_path / "readme.txt").write_text("no note")
    notes = read(tmp_path)
    assert [n.id for n in notes] == ["note-0001", "note-0002", "note-0003"]
    assert [n.patient for n in notes] == ["patient-0001", "patient-0002", "patient-0002"]
    assert notes[2].text == TEXT
    assert notes[2].phi == (DOCTOR,)
    assert not notes[2].synthetic


def test_what_is_written_is_the_format_of_the_track(tmp_path):
    files = i2b2.write([Note("x", "110", TEXT, (DOCTOR, HOSPITAL))], tmp_path / "out")
    assert [file.name for file in files] == ["110-01.xml"]
    text = files[0].read_text()
    assert f"<TEXT><![CDATA[{TEXT}]]></TEXT>" in text
    root = ElementTree.fromstring(text)
    assert root.tag == "deIdi2b2"
    found = root.find("TAGS")
    assert found is not None

    def of(id: str, start: int, end: int, text: str, type: str) -> dict[str, str]:
        span = {"start": str(start), "end": str(end)}
        return {"id": id, "text": text, "TYPE": type, "comment": ""} | span

    assert [(t.tag, t.attrib) for t in found] == [
        (
            "NAME",
            dict(id="P0", start="22", end="29", text="Ann Lee", TYPE="DOCTOR", comment=""),
        ),
        (
            "LOCATION",
            dict(
                id="P1", start="31", end="46", text="St Mary & Sons.", TYPE="HOSPITAL", comment=""
            ),
        ),
    ]


CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\ufffe\uffff").filter(
    lambda c: c >= " " or c in "\t\n\r"
)
PIECES = st.sampled_from(
    ["]]>", "]]", ">", "\r\n", "\r", "&amp;", "<", '"', "\u2028", "\U0001f600"]
)
XML_TEXT = st.lists(CHARACTERS | PIECES, min_size=1).map("".join).filter(str.strip)


@given(st.lists(st.tuples(XML_TEXT, st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=4))
def test_texts_and_offsets_come_back_to_the_character(tmp_path_factory, drawn):
    notes = []
    for text, start, length in drawn:
        end = min(start + length, len(text))
        spans = (PhiSpan(start, end, "AGE", "AGE"),) if text[start:end].strip() else ()
        notes.append(Note("any", "p-1", text, spans))
    folder = tmp_path_factory.mktemp("notes")
    i2b2.write(notes, folder)
    assert [(n.text, n.phi) for n in read(folder)] == [(n.text, n.phi) for n in notes]


def test_every_type_and_the_synthetic_notes_come_back(tmp_path):
    pairs = [(category, type) for category, types in CATEGORIES.items() for type in types]
    text = "x" * 2 * len(pairs)
    spans = tuple(PhiSpan(2 * n, 2 * n + 1, *pair) for n, pair in enumerate(pairs))
    made = [Note("all", "p", text, spans), *synthetic.generate(8, 0)]
    i2b2.write(made, tmp_path / "out")
    by_text = {n.text: n.phi for n in read(tmp_path / "out")}
    assert by_text == {n.text: n.phi for n in made}


def test_line_ends_of_two_characters_count_as_one(tmp_path):
    (tmp_path / "1-01.xml").write_bytes(page(tags=tag()).replace("\n", "\r\n").encode())
    assert read(tmp_path)[0].text == TEXT
    wrong = page(tags=tag(start="25", end="32")).replace("\n", "\r\n")
    assert "its text does not stand at [25, 32)" in refused(tmp_path / "raw", wrong)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": "21"}, "tag P0: its text does not stand at [21, 29) of the note"),
        ({"text": "Ann Leo"}, "tag P0: its text does not stand at [22, 29) of the note"),
        ({"end": "99"}, "tag P0: [22, 99) is not inside the note's 46 characters"),
        ({"end": "22"}, "tag P0: [22, 22) is not inside"),
        ({"start": "-1"}, "tag P0: start and end must be whole numbers"),
        ({"start": "1e1"}, "tag P0: start and end must be whole numbers"),
        ({"start": "²"}, "tag P0: start and end must be whole numbers"),
        ({"TYPE": "NICK"}, "tag P0: its element and TYPE are none of i2b2"),
        ({"id": "Ann Lee", "start": "21"}, "tag number 1: its text does not stand"),
    ],
)
def test_a_wrong_tag_is_named_with_its_file_and_without_its_text(tmp_path, changed, message):
    assert message in refused(tmp_path, page(tags=tag(**changed)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not well-formed XML at line 1"),
        (page()[:-20], "not well-formed XML at line"),
        (page(tags="<NAME"), "not well-formed XML at line"),
        ("<html><body/></html>", "is not of i2b2/n2c2 2014"),
        ("<deIdi2b2><TEXT>a</TEXT></deIdi2b2>", "is not of i2b2/n2c2 2014"),
        ("<deIdi2b2><TEXT>a<b/>c</TEXT><TAGS/></deIdi2b2>", "is not of i2b2/n2c2 2014"),
        (page(" "), "'text' is empty"),
        (page().encode("utf-16"), "not UTF-8 at byte 1; save the file as UTF-8"),
        (page("caf\xe9").encode("latin-1"), "not UTF-8 at byte"),
        (page(tags=tag() + tag(id="P1")), "overlaps"),
        (page(tags="<b/>" * 3), "tag number 1: start and end"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    assert message in refused(tmp_path, content)


def _bomb() -> str:
    lines = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 30))
    return f'<!DOCTYPE x [<!ENTITY a0 "Ann">{lines}]>'


@pytest.mark.parametrize(
    "doctype",
    [
        _bomb(),
        f"<!-- <deIdi2b2 -->{_bomb()}",
        _bomb().replace("DOCTYPE x", 'DOCTYPE x SYSTEM "<deIdi2b2>"'),
        '<!DOCTYPE x [<!ENTITY a29 SYSTEM "SECRET">]>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "SECRET"> %p;]>',
        '<!DOCTYPE x SYSTEM "SECRET">',
        "<!DOCTYPE deIdi2b2>",
    ],
)
def test_entities_are_refused_before_they_are_expanded(tmp_path, doctype):
    secret = tmp_path / "secret.dtd"
    secret.write_text("Ann")
    content = page().replace("<![CDATA[", "&a29;<![CDATA[")
    content = content.replace(
        "<deIdi2b2>", f"{doctype}<deIdi2b2>".replace("SECRET", str(secret)), 1
    )
    start = perf_counter()
    assert "has a DOCTYPE, which is refused" in refused(tmp_path / "notes", content)
    assert perf_counter() - start < 1


def test_file_names_carry_the_patient(tmp_path):
    message = "must be called PATIENT-NN.xml"
    assert message in refused(tmp_path, page(), "note.xml")
    (tmp_path / "220-01.xml").write_text(page())
    assert [n.id for n in read(tmp_path, skip=True)] == ["note-0001"]


def test_a_folder_without_notes_a_file_and_none(tmp_path):
    with pytest.raises(DataError, match=r"holds no .xml file"):
        read(tmp_path)
    (tmp_path / "a.xml").write_text(page())
    with pytest.raises(DataError, match=r"a.xml: is a file; `path` must name the folder"):
        read(tmp_path / "a.xml")
    with pytest.raises(DataError, match=r"none: no such folder"):
        read(tmp_path / "none")


def test_what_cannot_be_written_is_named_by_place_alone(tmp_path):
    good = Note("secret-id", "p", "x")
    for char in ("\0", "\x0b", "\x85\x1b", "\ud800", "\uffff"):
        with pytest.raises(DataError, match=r"note 2: character \d is U\+[0-9A-F]{4}") as caught:
            i2b2.write([good, Note("secret-id", "p", f"Ann{char}")], tmp_path / "out")
        assert "secret" not in str(caught.value) and "Ann" not in str(caught.value)
    for patient in ("../up", "", ".", "a/b", "ä", "p" * 81):
        with pytest.raises(DataError, match=r"note 1: its patient's id must be"):
            i2b2.write([Note("n", patient, "x")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "110-01.xml").write_text("mine")
    with pytest.raises(DataError, match=r"is already there"):
        i2b2.write([Note("n", "110", "x")], tmp_path)
    assert (tmp_path / "110-01.xml").read_text() == "mine"


def test_the_fingerprint_follows_the_files(tmp_path):
    source = I2b2Source(kind="i2b2_xml", path=Path("notes"))
    i2b2.write([Note("n", "110", "x"), Note("n", "111", "y")], tmp_path / "notes")
    first = sources.fingerprint(source, tmp_path)
    assert list(first) == ["notes"]
    (tmp_path / "notes" / "110-01.xml").rename(tmp_path / "notes" / "112-01.xml")
    assert sources.fingerprint(source, tmp_path) != first
