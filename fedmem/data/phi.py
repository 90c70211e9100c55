"""Tagged PHI for notes that have none, so that real prose can be a canary.

De-identified notes hold no value that could leak. `fill` writes one patient's identity into them
as a header, two sentences and a closing line; the original text is untouched between them, and
the offsets are right by construction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

from fedmem.data.records import Note, PhiSpan

# categories and types of the i2b2/n2c2 2014 de-identification corpus
CATEGORIES: dict[str, tuple[str, ...]] = {
    "NAME": ("PATIENT", "DOCTOR", "USERNAME"),
    "PROFESSION": ("PROFESSION",),
    "LOCATION": (
        "ROOM",
        "DEPARTMENT",
        "HOSPITAL",
        "ORGANIZATION",
        "STREET",
        "CITY",
        "STATE",
        "COUNTRY",
        "ZIP",
        "LOCATION-OTHER",
    ),
    "AGE": ("AGE",),
    "DATE": ("DATE",),
    "CONTACT": ("PHONE", "FAX", "EMAIL", "URL", "IPADDR"),
    "ID": (
        "SSN",
        "MEDICALRECORD",
        "HEALTHPLAN",
        "ACCOUNT",
        "LICENSE",
        "VEHICLE",
        "DEVICE",
        "BIOID",
        "IDNUM",
    ),
}

HEADER = "PATIENT: {patient}\nMRN: {mrn}\nDATE OF BIRTH: {dob}\nADDRESS: {street}, {city} {zip}\n"
# (earliest character of the note, sentence): early enough that one window holds several
BODY = (
    (200, "Admitted to {hospital} on {admitted} under the care of {doctor}, plan number {plan}."),
    (500, "The patient works as a {profession} and signs in to the portal as {username}."),
)
CLOSING = "Discharged on {discharged}. Results go to {phone} and to {email}."

# a place between two lines, or between two sentences (three letters before the stop: no `Dr.`)
_GAP = re.compile(r"\n(?=\S)|(?<=[a-z]{3}[.!?])[ ]+(?=[A-Z])")


def fill(note: Note, values: Mapping[str, str], types: Mapping[str, tuple[str, str]]) -> Note:
    """The note with `values` (slot -> text) written into it; `types`: slot -> (category, type).

    Raises ValueError if the note has PHI already, or a slot of the forms above has no value.
    """
    if note.phi:
        raise ValueError(f"note {note.id}: has tagged PHI already")
    pieces: list[str] = []
    spans: list[PhiSpan] = []
    done = 0
    for position, form in _insertions(note.text):
        pieces.append(note.text[done:position])
        done = position
        length = sum(map(len, pieces))
        for literal, slot, _, _ in Formatter().parse(form):
            pieces.append(literal)
            length += len(literal)
            if slot is None:
                continue
            if not values.get(slot):
                raise ValueError(f"note {note.id}: no value for the slot {slot!r}")
            spans.append(PhiSpan(length, length + len(values[slot]), *types[slot]))
            pieces.append(values[slot])
            length += len(values[slot])
    pieces.append(note.text[done:])
    return Note(note.id, note.patient, "".join(pieces), tuple(spans), note.synthetic)


def _insertions(text: str) -> list[tuple[int, str]]:
    """(position in the text, form with its own line break or space), in order of position."""
    out = [(0, HEADER)]
    gaps = [(match.start(), match.end()) for match in _GAP.finditer(text)]
    last = 0
    for earliest, sentence in BODY:
        gap = next((gap for gap in gaps if gap[1] >= earliest and gap[1] > last), None)
        if gap is None:  # a note too short or without any gap: before the closing line
            out.append((len(text), _own_line(text, sentence)))
            continue
        last = gap[1]
        out.append((last, sentence + ("\n" if text[gap[0]] == "\n" else " ")))
    out.append((len(text), _own_line(text, CLOSING)))
    return out


def _own_line(text: str, sentence: str) -> str:
    return f"{sentence}\n" if text.endswith("\n") else f"\n{sentence}"
