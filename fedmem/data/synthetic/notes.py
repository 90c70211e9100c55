"""Synthetic clinical notes: assembled from typed slots, so that every PHI offset is known.

A note is one patient's stay: heading, arrival, history, course, going home, contact. Sentences are
drawn from variants; `{slot}` is a tagged value of the patient's identity, `[fact]` a phrase of the
knowledge base. Runs of fixed words are short, so that notes of two patients share few 8-grams.
"""

from __future__ import annotations

import random
import re

from fedmem.data.records import Note, PhiSpan
from fedmem.data.synthetic.identity import MAX_PATIENTS, SLOTS, identity, is_woman
from fedmem.data.synthetic.knowledge import Disease, diseases
from fedmem.errors import DataError

__all__ = ["MAX_PATIENTS", "SLOTS", "generate", "identity", "render"]

HEADING = (
    "Patient: {patient}. MRN {mrn}. Born {dob}.",
    "Name: {patient}. Date of birth: {dob}. Record number {mrn}.",
    "Re: {patient}, born {dob}, record {mrn}, plan {plan}.",
    "{patient} (MRN {mrn}, health plan {plan}).",
    "Discharge summary of {patient}, born on {dob}. MRN: {mrn}.",
    "Letter about {patient}. Insurance number {plan}. Born {dob}.",
    "Record {mrn}: {patient}, date of birth {dob}, insured under {plan}.",
)
ARRIVAL = (
    "Admitted to {hospital} on {admitted} under {doctor} with [sign].",
    "<He> came to {hospital} on {admitted} because of [sign] and was seen by {doctor}.",
    "On {admitted} {doctor} at {hospital} saw <him> for [sign].",
    "Seen at {hospital}, {city}, on {admitted} with [sign]. Attending: {doctor}.",
    "Referred by {doctor} to {hospital} on {admitted}; main complaint [sign].",
    "{doctor}, {hospital}, admitted <him> on {admitted}. Complaint: [sign].",
)
LIFE = (
    "<He> is a {profession} and lives at {street}, {city}.",
    "A {profession} from {city}, living at {street}.",
    "Works as {profession}. Home: {street}, {city} {zip}.",
    "<His> address is {street}, {city} {zip}; by trade a {profession}.",
    "Social history: {profession}, home address {street}, {zip} {city}.",
    "Lives alone at {street} in {city}; {profession}.",
)
COURSE = (
    "Risk noted: [risk].",
    "[Test] pointed to [name].",
    "Diagnosis: [name], after [test].",
    "[Name] was confirmed by [test].",
    "<He> was given [treatment] and improved.",
    "We began [treatment] the same day.",
    "Treatment with [treatment] was well tolerated.",
    "There was no sign of [complication].",
    "We warned of [complication].",
    "Cause thought to be [cause].",
    "History: [risk], otherwise healthy.",
    "Second diagnosis: [other].",
    "No earlier [other] is known.",
    "[Other treatment] for [other] was continued.",
    "Pain fell from {n} to {m} of 10.",
    "Pulse {n}{m}, breathing calm, temperature 3{d}.{m}.",
    "Weight {n}{m} kg, no weight loss.",
)
HOME = (
    "Went home on {discharged}.",
    "Discharged on {discharged} in good condition.",
    "<He> left on {discharged} with [treatment].",
    "On {discharged} <he> could go home.",
    "Home since {discharged}, feeling better.",
)
CONTACT = (
    "Call {phone} or write to {email}.",
    "Phone {phone}; portal login {username}.",
    "Contact: {phone}, {email}.",
    "Results go to {email}; portal user {username}.",
    "Questions to <him> at {phone}. Signed {doctor}.",
    "Portal account {username}, telephone {phone}.",
    "Next of kin reached at {phone}. Mail: {email}.",
)
_FIELD = re.compile(r"\{(\w+)\}|\[([A-Za-z ]+)\]|<(\w+)>")
_PRONOUNS = {"He": "She", "he": "she", "him": "her", "His": "Her", "his": "her"}


def _fact(key: str, disease: Disease, other: Disease) -> str:
    capital = key[0].isupper()
    subject, relation = disease, key.lower()
    if relation.startswith("other"):
        subject, relation = other, relation.removeprefix("other").strip() or "name"
    value = subject.name if relation == "name" else subject.facts[relation]
    return value[0].upper() + value[1:] if capital else value


def render(note_id: str, values: dict[str, str], rng: random.Random, pool: str = "eval") -> Note:
    """One note of the patient with these slot values; about 150 to 300 tokens of the bundled base.

    The offsets of its PHI are right by construction: values are written and tagged in one step.
    The two pools tell of different diseases: long phrases of the knowledge base would otherwise
    make an attacked note a near-duplicate of one that the base was trained on.
    """
    disease, other = rng.sample(diseases()[pool == "base" :: 2], 2)
    plan = [rng.choice(HEADING), rng.choice(ARRIVAL), rng.choice(LIFE)]
    plan += rng.sample(COURSE, rng.randint(3, 6))
    plan += [rng.choice(HOME), rng.choice(CONTACT)]
    woman = is_woman(values)
    text, spans = "", []
    for sentence in plan:
        text += " " if text else ""
        last = 0
        for field in _FIELD.finditer(sentence):
            text += sentence[last : field.start()]
            last = field.end()
            slot, fact, pronoun = field.groups()
            if slot in SLOTS:
                spans.append(PhiSpan(len(text), len(text) + len(values[slot]), *SLOTS[slot]))
                text += values[slot]
            elif slot:
                text += str(rng.randint(6, 9) if slot == "d" else rng.randint(1, 9))
            elif fact:
                text += _fact(fact, disease, other)
            else:
                text += _PRONOUNS[pronoun] if woman else pronoun
        text += sentence[last:]
    return Note(note_id, note_id, text, tuple(spans), synthetic=True)


def generate(count: int, seed: int, pool: str = "eval") -> list[Note]:
    """`count` notes of as many patients, no slot value shared between two of them.

    Raises DataError for more than `MAX_PATIENTS`.
    """
    if count > MAX_PATIENTS:
        raise DataError(
            f"synthetic notes: {count} asked for, but only {MAX_PATIENTS} patients share no value"
        )
    letters = {"eval": "p", "base": "b"}[pool]
    notes = []
    for index in range(count):
        rng = random.Random(f"note/{pool}/{seed}/{index}")
        notes.append(render(f"{letters}{seed}-{index:04d}", identity(index, seed, pool), rng, pool))
    return notes
