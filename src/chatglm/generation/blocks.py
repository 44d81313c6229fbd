"""Blocks of the cache: how many hold each, and which are kept for whoever needs them again. No
tensors here.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

BLOCK_SIZE = 16
"""Tokens in a block; the native kernel counts on it."""


class BlockPool:
    """Counts who holds each block, and knows the content of full ones by their keys.

    A block that nobody holds is free. Free blocks without a known content are taken first, then
    the one that was given back longest ago.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.counts = [0] * num_blocks
        self.keys: list[bytes | None] = [None] * num_blocks
        self.known: dict[bytes, int] = {}
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self.free)

    def take(self, num_blocks: int) -> list[int]:
        """Blocks of nobody's; what they held is forgotten."""
        assert num_blocks <= len(self.free)
        taken = []
        for _ in range(num_blocks):
            block, _ = self.free.popitem(last=False)
            self.forget(block)
            self.counts[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """Hold blocks once more."""
        for block in blocks:
            if not self.counts[block]:
                del self.free[block]
            self.counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back; of a sequence's, the last are taken again first."""
        for block in reversed(blocks):
            assert self.counts[block] > 0
            self.counts[block] -= 1
            if not self.counts[block]:
                self.free[block] = None
                if self.keys[block] is None:
                    self.free.move_to_end(block, last=False)

    def keep(self, block: int, key: bytes) -> None:
        """Remember what a block holds, unless another holds the same."""
        if key not in self.known:
            self.forget(block)
            self.known[key] = block
            self.keys[block] = key

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of as many leading keys as are known."""
        found = []
        for key in keys:
            block = self.known.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def forget(self, block: int) -> None:
        """Drop the key of a block."""
        key = self.keys[block]
        if key is not None:
            del self.known[key]
            self.keys[block] = None

    def forget_all(self) -> None:
        """Drop all keys, as after a change of the weights."""
        self.known.clear()
        self.keys = [None] * self.num_blocks


def root_key(*parts: str | None) -> bytes:
    """Where a chain of keys starts: sequences of unlike parts share nothing."""
    return blake2b(repr(parts).encode(), digest_size=16).digest()


def extend_keys(
    keys: list[bytes], tokens: Sequence[int], root: bytes, block_size: int = BLOCK_SIZE
) -> None:
    """Append the keys of the full blocks of `tokens` that `keys` does not have yet.

    A key stands for the tokens of its block and of all before it.
    """
    for i in range(len(keys), len(tokens) // block_size):
        content = array("q", tokens[i * block_size : (i + 1) * block_size]).tobytes()
        before = keys[-1] if keys else root
        keys.append(blake2b(before + content, digest_size=16).digest())
