"""Notes in the XML of the i2b2/n2c2 2014 de-identification track (Stubbs and Uzuner, 2015).

    <deIdi2b2><TEXT><![CDATA[Seen by Ann Lee.]]></TEXT><TAGS>
    <NAME id="P0" start="8" end="15" text="Ann Lee" TYPE="DOCTOR" comment=""/></TAGS></deIdi2b2>

A file is a note, PATIENT-NN.xml. Offsets count the characters of the text as XML gives it: a line
end of two characters in the file is one. File names hold record numbers, so that ids are made of
the place in the sorted list of files instead: `note-0001`, `patient-0001`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from fedmem.data.phi import CATEGORIES
from fedmem.data.records import Note
from fedmem.data.rows import SAVE_AS_UTF8, Found, Row, folder, readable
from fedmem.errors import DataError

FILE_NAME = re.compile(r"(?P<patient>.+)-\d+\.xml")
PATIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
# what no XML 1.0 file can hold, in whatever form
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ONE_SPACE = str.maketrans("\t\n\r", "   ")  # as XML reads them in an attribute


def read(path: Path) -> Iterator[Found]:
    """A row for the adapter `notes` from each XML file of a folder, in order of their names.

    Every tag is checked against the text it covers. Raises DataError if there is no such folder or
    no XML file in it.
    """
    files = sorted(file for file in folder(path).iterdir() if file.suffix.lower() == ".xml")
    if not files:
        raise DataError(f"{path}: holds no .xml file; `path` must name the folder with the notes")
    patients: dict[str, str] = {}
    for number, file in enumerate(files, start=1):
        id = f"note-{number:04d}"
        row: Row | ValueError
        try:
            named = FILE_NAME.fullmatch(file.name)
            if named is None:
                raise ValueError("must be called PATIENT-NN.xml: the split goes by patient")
            patient = patients.setdefault(named["patient"], f"patient-{len(patients) + 1:04d}")
            row = {"id": id, "patient": patient} | _parsed(file)
        except ValueError as error:
            row = error
        yield Found(str(file), id, row)


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        # no such file has one, and all attacks by entities begin with it
        raise ValueError("has a DOCTYPE, which is refused; the format has none")


def _parsed(file: Path) -> Row:
    """`text` and `phi` of a file; ValueError says what is wrong, without the note's words."""
    with readable(file):
        data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}; {SAVE_AS_UTF8}") from None
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        # what stands before the root comes alone: a DOCTYPE ends here before any entity is used
        start = max(text.find("<deIdi2b2"), 0)
        parser.feed(text[:start])
        parser.feed(text[start:])
        root = parser.close()
    except ElementTree.ParseError as error:
        line, column = error.position
        raise ValueError(f"not well-formed XML at line {line}, column {column + 1}") from None
    note, tags = root.find("TEXT"), root.find("TAGS")
    if root.tag != "deIdi2b2" or note is None or tags is None or len(note):
        raise ValueError("is not of i2b2/n2c2 2014: <deIdi2b2> with <TEXT> and <TAGS>")
    found = note.text or ""
    return {"text": found, "phi": [_tag(n, tag, found) for n, tag in enumerate(tags)]}


def _tag(number: int, tag: ElementTree.Element, text: str) -> dict[str, Any]:
    """One tag as the adapter `notes` takes it, checked against its text."""
    given = tag.get("id", "")
    name = f"tag {given}" if re.fullmatch(r"[A-Z]\d{1,6}", given) else f"tag number {number + 1}"
    bounds = [tag.get(key, "") for key in ("start", "end")]
    if not all(re.fullmatch(r"\d{1,9}", bound) for bound in bounds):
        raise ValueError(f"{name}: start and end must be whole numbers")
    start, end = map(int, bounds)
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"{name}: [{start}, {end}) is not inside the note's {len(text)} characters"
        )
    if tag.get("TYPE") not in CATEGORIES.get(tag.tag, ()):
        raise ValueError(f"{name}: its element and TYPE are none of i2b2/n2c2 2014 (README)")
    stated = tag.get("text")
    if stated is None or stated.translate(ONE_SPACE) != text[start:end].translate(ONE_SPACE):
        raise ValueError(f"{name}: its text does not stand at [{start}, {end}) of the note")
    return {"start": start, "end": end, "category": tag.tag, "type": tag.get("TYPE")}


def write(notes: Iterable[Note], path: Path) -> list[Path]:
    """Write notes to a new or empty folder as PATIENT-NN.xml, NN counting each patient's notes.

    `read` gives their texts and tags back to the character. Raises DataError if the folder holds
    anything, for a patient's id that is no part of a file name, and for a character that XML
    cannot hold; notes are named by their place, for ids may tell who somebody is.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: is already there; give a new folder")
    pages = {}
    counts: dict[str, int] = {}
    for number, note in enumerate(notes, start=1):
        if not PATIENT.fullmatch(note.patient):
            raise DataError(
                f"{path}: note {number}: its patient's id must be 1 to 80 letters, digits or "
                "`.`, `_`, `-` to be part of a file name"
            )
        if bad := NOT_XML.search(note.text):
            raise DataError(
                f"{path}: note {number}: character {bad.start()} is U+{ord(bad[0]):04X}, which "
                "XML cannot hold; remove it and shift the tags behind it"
            )
        counts[note.patient] = counts.get(note.patient, 0) + 1
        pages[f"{note.patient}-{counts[note.patient]:02d}.xml"] = _page(note)
    with readable(path):
        path.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            (path / name).write_bytes(page.encode("utf-8"))
    return [path / name for name in pages]


def _page(note: Note) -> str:
    # CDATA cannot hold its own end, nor a carriage return that a parser would leave as it is
    text = note.text.replace("]]>", "]]]]><![CDATA[>").replace("\r", "]]>&#13;<![CDATA[")
    tags = "".join(
        f'<{span.category} id="P{n}" start="{span.start}" end="{span.end}" '
        f'text={quoteattr(note.value(span))} TYPE="{span.type}" comment="" />\n'
        for n, span in enumerate(note.phi)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?>\n'
        f"<deIdi2b2>\n<TEXT><![CDATA[{text}]]></TEXT>\n<TAGS>\n{tags}</TAGS>\n</deIdi2b2>\n"
    )
