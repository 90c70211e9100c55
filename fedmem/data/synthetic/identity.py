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

# the scarcest slot (profession, 1308 values in two pools) bounds the patients of a pool
MAX_PATIENTS = 500


def in_pool(value: str, pool: str) -> bool:
    """Whether a slot's value belongs to `pool` (`base` or `eval`); each is in exactly one."""
    return (blake2s(value.encode()).digest()[0] & 1 == 0) == (pool == "base")


@lru_cache(maxsize=1024)
def _column(slot: str, pool: str, seed: int, count: int) -> tuple[str, ...]:
    size, value = SPACES[slot]
    rng = random.Random(f"{pool}/{seed}/{slot}")
    out: list[str] = []
    seen: set[int] = set()
    while len(out) < count:
        index = rng.randrange(size)
        if index not in seen and in_pool(value(index), pool):
            seen.add(index)
            out.append(value(index))
    return tuple(out)


@lru_cache(maxsize=64)
def _discharges(pool: str, seed: int, count: int) -> tuple[str, ...]:
    # 2 to 30 days after the admission, of this pool, and nobody else's: so it is drawn in order
    days = {_day(_VISIT0, i): i for i in range(_VISIT_DAYS)}
    rng = random.Random(f"{pool}/{seed}/discharged")
    out: list[str] = []
    for admitted in _column("admitted", pool, seed, count):
        stays = rng.sample(range(2, 31), 29)
        later = (_day(_VISIT0, days[admitted] + stay) for stay in stays)
        out.append(next(d for d in later if in_pool(d, pool) and d not in out))
    return tuple(out)


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
    values = {slot: _column(slot, pool, seed, MAX_PATIENTS)[index] for slot in SPACES}
    values["discharged"] = _discharges(pool, seed, MAX_PATIENTS)[index]
    return {slot: values[slot] for slot in SLOTS}


def is_woman(values: dict[str, str]) -> bool:
    """Whether the patient's first name stands in the list of women's names."""
    return values["patient"].split()[0] in w.WOMEN
