from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorlite.ids import PROCESS_ID_BYTES, actor_id, number_of, object_id, owner_of, process_id

OWNER = process_id(bytes(range(8)))


def test_ids_are_fixed_and_printable():
    assert OWNER == "0001020304050607"
    assert object_id(OWNER, 10) == actor_id(OWNER, 10) == "0001020304050607-00000000000a"


@pytest.mark.parametrize("size", [0, PROCESS_ID_BYTES - 1, PROCESS_ID_BYTES + 1])
def test_a_process_id_is_made_from_eight_bytes(size):
    with pytest.raises(ValueError, match=f"8 random bytes, not {size}"):
        process_id(bytes(size))


@given(st.binary(min_size=8, max_size=8), st.integers(0, 16**12 - 1), st.sampled_from([object_id, actor_id]))
def test_an_id_names_its_owner_and_number_in_a_fixed_width(raw, number, make):
    owner = process_id(raw)
    identifier = make(owner, number)
    assert len(identifier) == 16 + 1 + 12
    assert owner_of(identifier) == owner
    assert number_of(identifier) == number


@given(st.integers(0, 16**12 - 1), st.integers(0, 16**12 - 1))
def test_ids_of_one_owner_sort_like_their_numbers(first, second):
    assert (object_id(OWNER, first) < object_id(OWNER, second)) == (first < second)
