"""Which ids were seen, in a dozen bytes each."""

from __future__ import annotations

from array import array
from hashlib import blake2b

CROWD = 32  # entries of a bucket, on average, at which the buckets are doubled


class SeenIds:
    """A set of 64-bit hashes of ids: about 11 bytes an id, where a set of text takes over 100.

    Two ids with one hash count as the same: for 10 million ids the chance of any such pair is
    3 in a million.
    """

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(16)]
        self._count = 0

    def add(self, id: str) -> bool:
        """Whether the id is new; it is not from now on."""
        digest = blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = int.from_bytes(digest, "little")
        bucket = self._buckets[value % len(self._buckets)]
        if value in bucket:
            return False
        bucket.append(value)
        self._count += 1
        if self._count > CROWD * len(self._buckets):
            self._double()
        return True

    def _double(self) -> None:
        """Each bucket's upper half of the next hash bit moves to a new bucket, one by one."""
        size = len(self._buckets)
        for index in range(size):
            bucket = self._buckets[index]
            self._buckets[index] = array("Q", (v for v in bucket if not v & size))
            self._buckets.append(array("Q", (v for v in bucket if v & size)))
