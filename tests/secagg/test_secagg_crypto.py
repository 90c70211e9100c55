"""The primitives against published vectors, and what each of them refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.secagg import crypto

# RFC 8439, appendix A.1, test vectors 1 and 2: key and nonce zero, blocks 0 and 1
BLOCKS = bytes.fromhex(
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
)


def test_masks_are_chacha20_key_streams() -> None:
    vector = np.zeros(32, np.uint32)
    crypto.add_masks(vector, [bytes(32)], [])
    assert vector.astype("<u4").tobytes() == BLOCKS


@pytest.mark.parametrize("words", [0, 1, 5, crypto.BLOCK // 4, crypto.BLOCK // 4 + 3, 100_000])
def test_masks_do_not_depend_on_blocks_and_cancel(words: int) -> None:
    keys = [bytes([i]) * 32 for i in range(4)]
    vector = np.arange(words, dtype=np.uint32)
    one = vector.copy()
    crypto.add_masks(one, keys[:2], keys[2:])
    for operation, chosen in ((np.add, keys[:2]), (np.subtract, keys[2:])):
        for key in chosen:
            stream = np.zeros(words, np.uint32)
            crypto.add_masks(stream, [key], [])
            vector = operation(vector, stream)
    np.testing.assert_array_equal(one, vector)
    crypto.add_masks(one, keys[2:], keys[:2])
    np.testing.assert_array_equal(one, np.arange(words))


@given(st.binary(min_size=16, max_size=16), st.integers(2, 6), st.integers(0, 3), st.randoms())
def test_threshold_shares_make_the_secret_and_fewer_do_not(
    secret: bytes, threshold: int, more: int, random: object
) -> None:
    shares = dict(enumerate(crypto.split(secret, threshold, threshold + more)))
    chosen = random.sample(sorted(shares), threshold)  # type: ignore[attr-defined]
    assert crypto.combine({i: shares[i] for i in chosen}, threshold) == secret
    if threshold > 2:
        fewer = {i: shares[i] for i in chosen[:-1]}
        assert crypto.combine(fewer, threshold - 1) != secret


def test_two_clients_agree_and_a_third_does_not() -> None:
    a, b, c = (crypto.private_key(bytes([i]) * 16, "mask") for i in range(3))
    assert crypto.agree(a, crypto.public_bytes(b)) == crypto.agree(b, crypto.public_bytes(a))
    assert crypto.agree(a, crypto.public_bytes(b)) != crypto.agree(c, crypto.public_bytes(b))
    with pytest.raises(ValueError):
        crypto.agree(a, bytes(32))  # a point of low order


def test_a_key_is_for_one_purpose_and_context() -> None:
    made = {
        crypto.derive(b"s" * 16, purpose, *context)
        for purpose in ("a", "b")
        for context in ((), (1,), (1, 2), (12,))
    }
    assert len(made) == 8


def test_what_is_sealed_opens_only_as_it_was_sealed() -> None:
    key = bytes(32)
    sealed = crypto.seal(key, b"x" * 32, b"round 1 from 0 to 1")
    assert len(sealed) == crypto.SEALED
    assert crypto.unseal(key, sealed, b"round 1 from 0 to 1") == b"x" * 32
    for other_key, text, associated in (
        (b"k" * 32, sealed, b"round 1 from 0 to 1"),
        (key, sealed[:-1] + b"?", b"round 1 from 0 to 1"),
        (key, sealed, b"round 2 from 0 to 1"),
    ):
        with pytest.raises(ValueError, match="does not open"):
            crypto.unseal(other_key, text, associated)
