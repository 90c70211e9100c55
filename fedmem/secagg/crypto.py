"""The primitives, from `cryptography` and PyCryptodome, with the sizes that the protocol uses.

Every key has one purpose and one round: it is derived by HKDF-SHA256 from a fresh secret, with
purpose, round and the two clients in its context. So nonces may be zero.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

Words = NDArray[np.uint32]

KEY = 32  # bytes of a public key, and of every derived one
SECRET = 16  # bytes of a shared secret, and of a share of it
SEALED = 2 * SECRET + 16  # two shares and the tag
DIGEST = 32
BLOCK = 1 << 16  # bytes of masks made at a time: they stay in the processor's cache


def derive(secret: bytes, purpose: str, *context: int) -> bytes:
    """A key of 32 bytes for one purpose; `context` are numbers such as round and clients."""
    info = f"fedmem secagg 1 {purpose} {' '.join(map(str, context))}".encode()
    return HKDF(algorithm=SHA256(), length=KEY, salt=None, info=info).derive(secret)


def private_key(secret: bytes, purpose: str) -> X25519PrivateKey:
    """An X25519 key made from a secret of 16 bytes, so that one Shamir split shares it."""
    return X25519PrivateKey.from_private_bytes(derive(secret, purpose))


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def agree(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    """The secret of two clients. Raises ValueError for a key that is none (of low order)."""
    return mine.exchange(X25519PublicKey.from_public_bytes(theirs))


def seal(key: bytes, text: bytes, associated: bytes) -> bytes:
    """Encrypt and authenticate, once a key."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), text, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """What `seal` was given. Raises ValueError where the key or `associated` is another."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, associated)
    except InvalidTag:
        raise ValueError("does not open") from None


def digest(secret: bytes) -> bytes:
    """A commitment to 128 or more random bits."""
    return sha256(b"fedmem secagg 1 " + secret).digest()


def same(a: bytes, b: bytes) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(a, b)


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Shamir's shares of 16 bytes; holder i has the i-th, of index i + 1."""
    return [share for _, share in Shamir.split(threshold, holders, secret, False)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, from `threshold` of the shares by holder's place."""
    chosen = sorted(shares.items())[:threshold]
    secret: bytes = Shamir.combine([(place + 1, share) for place, share in chosen], False)
    return secret


def add_masks(vector: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add and subtract, in place mod 2^32, the ChaCha20 key streams of these keys.

    Block by block over all keys: the vector goes through the cache once, not once a key.
    """
    streams = [
        (Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor(), operation)
        for keys, operation in ((plus, np.add), (minus, np.subtract))
        for key in keys
    ]
    zeros, stream = bytes(BLOCK), np.empty(BLOCK, np.uint8)
    words, into = stream.view("<u4"), stream.data
    for start in range(0, len(vector), BLOCK // 4):
        part = vector[start : start + BLOCK // 4]
        nothing = zeros[: part.nbytes]
        for encryptor, operation in streams:
            encryptor.update_into(nothing, into)
            operation(part, words[: len(part)], out=part)
