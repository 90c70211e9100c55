import sys

from hypothesis import given
from hypothesis import strategies as st

from fedmem.data.ids import SeenIds


@given(st.lists(st.text(max_size=3), max_size=200))
def test_an_id_is_new_once(ids):
    seen, plain = SeenIds(), set()
    for id in ids:
        assert seen.add(id) is (id not in plain)
        plain.add(id)


def test_ids_are_kept_apart_and_found_again_as_the_table_grows():
    seen = SeenIds()
    count = 100_000
    assert all(seen.add(f"row-{n}") for n in range(count))
    assert not any(seen.add(f"row-{n}") for n in range(0, count, 7))
    held = sys.getsizeof(seen._buckets) + sum(map(sys.getsizeof, seen._buckets))
    assert held / count <= 16


def test_half_a_character_is_an_id_too():
    seen = SeenIds()
    assert seen.add("\ud800")
    assert not seen.add("\ud800")
