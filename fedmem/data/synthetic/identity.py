"""Identities of synthetic patients: typed slots over fixed spaces, no value shared by two patients.

Every slot is a finite space of values of known size (`SPACES`). A value belongs to the pool `base`
(pre-training corpus) or `eval` (canaries and twins) by its hash, so that the bundled base has seen
no value of a note that is attacked, whatever the seed. Within a pool and a seed, values are drawn
without replacement: the i-th patient's values do not depend on how many patients are drawn.

Only safe values: 555-01xx telephone numbers, example.org, invented towns and hospitals.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from hashlib import blake2s

from fedmem.data.synthetic import words as w
from fedmem.errors import DataError

# slot -> (category, type) as in i2b2/n2c2 2014
SLOTS: dict[str, tuple[str, str]] = {
    "patient": ("NAME", "PATIENT"),
    "doctor": ("NAME", "DOCTOR"),
    "username": ("NAME", "USERNAME"),
    "profession": ("PROFESSION", "PROFESSION"),
    "hospital": ("LOCATION", "HOSPITAL"),
    "city": ("LOCATION", "CITY"),
    "street": ("LOCATION", "STREET"),
    "zip": ("LOCATION", "ZIP"),
    "dob": ("DATE", "DATE"),
    "admitted": ("DATE", "DATE"),
    "discharged": ("DATE", "DATE"),
    "phone": ("CONTACT", "PHONE"),
    "email": ("CONTACT", "EMAIL"),
    "mrn": ("ID", "MEDICALRECORD"),
    "plan": ("ID", "HEALTHPLAN"),
}

FIRST_NAMES = w.WOMEN + w.MEN
_DOB0, _DOB_DAYS = date(1931, 1, 1), 27_000
_VISIT0, _VISIT_DAYS = date(2001, 1, 1), 8_000


def _pick(index: int, *lists: tuple[str, ...] | list[str]) -> list[str]:
    out = []
    for values in lists:
        index, k = divmod(index, len(values))
        out.append(values[k])
    return out


def _size(*lists: tuple[str, ...] | list[str]) -> int:
    size = 1
    for values in lists:
        size *= len(values)
    return size


def _day(start: date, offset: int) -> str:
    day = start + timedelta(days=offset)
    return f"{day.day} {w.MONTHS[day.month - 1]} {day.year}"


def _phone(i: int) -> str:
    area, line = divmod(i, 100)
    return f"({200 + area}) 555-01{line:02d}"


def _plan(i: int) -> str:
    number, letters = i % 100_000, i // 100_000
    return f"{w.LETTERS[letters // 24]}{w.LETTERS[letters % 24]}{number:05d}"


def _street(i: int) -> str:
    i, number = divmod(i, 400)
    name, kind = _pick(i, w.STREET_NAMES, w.STREET_KINDS)
    return f"{number + 1} {name} {kind}"


def _mail(i: int) -> str:
    i, number = divmod(i, 100)
    return "".join(_pick(i, w.MAIL_WORDS, w.MAIL_WORDS)) + f"{number:02d}@example.org"


def _user(i: int) -> str:
    i, number = divmod(i, 100)
    a, b = _pick(i, tuple(w.LETTERS.lower()), w.SURNAMES)
    return f"{a}{b.lower()}{number:02d}"


# slot -> (number of values, index -> value)
SPACES: dict[str, tuple[int, Callable[[int], str]]] = {
    "patient": (
        _size(FIRST_NAMES, w.SURNAMES),
        lambda i: " ".join(_pick(i, FIRST_NAMES, w.SURNAMES)),
    ),
    "doctor": (
        _size(FIRST_NAMES, w.SURNAMES),
        lambda i: "Dr. " + " ".join(_pick(i, FIRST_NAMES, w.SURNAMES)),
    ),
    "username": (24 * 100 * len(w.SURNAMES), _user),
    "profession": (_size(w.JOB_KINDS, w.JOBS), lambda i: " ".join(_pick(i, w.JOB_KINDS, w.JOBS))),
    "hospital": (
        _size(w.TOWN_STARTS, w.TOWN_ENDS, w.HOSPITAL_KINDS),
        lambda i: "{}{} {}".format(*_pick(i, w.TOWN_STARTS, w.TOWN_ENDS, w.HOSPITAL_KINDS)),
    ),
    "city": (
        _size(w.TOWN_STARTS, w.TOWN_ENDS),
        lambda i: "".join(_pick(i, w.TOWN_STARTS, w.TOWN_ENDS)),
    ),
    "street": (400 * _size(w.STREET_NAMES, w.STREET_KINDS), _street),
    "zip": (90_000, lambda i: f"{i + 10_000}"),
    "dob": (_DOB_DAYS, lambda i: _day(_DOB0, i)),
    "admitted": (_VISIT_DAYS, lambda i: _day(_VISIT0, i)),
    "phone": (78_000, _phone),
    "email": (100 * _size(w.MAIL_WORDS, w.MAIL_WORDS), _mail),
    "mrn": (9_000_000, lambda i: f"{i + 1_000_000}"),
    "plan": (24 * 24 * 100_000, _plan),
}

# what bounds the patients of a pool: 1800 towns in two pools, of which a patient takes two
MAX_PATIENTS = 400

# slots whose values could stand inside each other's: no two of a kind share a name, town or day
KINDS = {
    "patient": "name",
    "doctor": "name",
    "city": "town",
    "hospital": "town",
    "dob": "day",
    "admitted": "day",
    "discharged": "day",
}


def core(slot: str, value: str) -> str:
    """The part of a value that identifies: a doctor's name, a hospital's town, else all of it."""
    if slot == "doctor":
        return value.removeprefix("Dr. ")
    return value.split()[0] if slot == "hospital" else value


def in_pool(slot: str, value: str, pool: str) -> bool:
    """Whether a slot's value belongs to `pool` (`base` or `eval`); each is in exactly one."""
    digest = blake2s(core(slot, value).encode()).digest()
    return (digest[0] & 1 == 0) == (pool == "base")


@lru_cache(maxsize=64)
def _columns(pool: str, seed: int) -> dict[str, list[str]]:
    """Slot -> the values of all `MAX_PATIENTS` patients of a seed, drawn without replacement."""
    taken: dict[str, set[str]] = {}
    out: dict[str, list[str]] = {}
    for slot, (size, value) in SPACES.items():
        rng = random.Random(f"{pool}/{seed}/{slot}")
        used = taken.setdefault(KINDS.get(slot, slot), set())
        out[slot] = []
        while len(out[slot]) < MAX_PATIENTS:
            drawn = value(rng.randrange(size))
            if in_pool(slot, drawn, pool) and core(slot, drawn) not in used:
                used.add(core(slot, drawn))
                out[slot].append(drawn)
    # 2 to 40 days after the admission, of this pool, and nobody else's day
    days = {_day(_VISIT0, i): i for i in range(_VISIT_DAYS)}
    rng = random.Random(f"{pool}/{seed}/discharged")
    used = taken["day"]
    out["discharged"] = []
    for admitted in out["admitted"]:
        later = (_day(_VISIT0, days[admitted] + stay) for stay in rng.sample(range(2, 41), 39))
        day = next(d for d in later if in_pool("discharged", d, pool) and d not in used)
        used.add(day)
        out["discharged"].append(day)
    return out


def identity(index: int, seed: int, pool: str = "eval") -> dict[str, str]:
    """Slot -> value of the `index`-th patient of a seed.

    Raises DataError past `MAX_PATIENTS`: more would share values, and a shared value
    cannot be attributed.
    """
    if not 0 <= index < MAX_PATIENTS:
        raise DataError(
            f"synthetic notes: patient {index + 1} asked for, the word lists hold "
            f"{MAX_PATIENTS} patients without a shared value; ask for fewer notes"
        )
    columns = _columns(pool, seed)
    return {slot: columns[slot][index] for slot in SLOTS}


def is_woman(values: dict[str, str]) -> bool:
    """Whether the patient's first name stands in the list of women's names."""
    return values["patient"].split()[0] in w.WOMEN
