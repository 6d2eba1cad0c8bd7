"""The Merkle tree over the log's leaves, after RFC 6962 (hashing and proofs) and C2SP tlog-tiles (its stored form).

The writer grows a `Tree`, which holds the right edge only; full tiles of 256 hashes go to the store. Proofs are
made from the stored tiles and the leaves behind the last full one, so one record among millions costs a few
reads. Pure but for the reader that is handed in; never opens, signs or decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol

from nightproof.storage.ledger_rows import Tile

TILE_WIDTH = 256
_TILE_HEIGHT = 8
HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
_PAGE = 4_096


class TileSource(Protocol):
    """Where tiles and leaves are read from."""

    def size(self) -> int:
        """Return the number of leaves."""

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return leaves."""

    def tiles(self, level: int, first: int = 0, most: int = 100) -> list[Tile]:
        """Return full tiles."""

    def tile_roots(self, level: int, first: int = 0, most: int = 1_000) -> list[bytes]:
        """Return the roots of full tiles."""


class TreeBroken(ValueError):
    """The stored tiles do not belong to the leaves that are there."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf: SHA-256(0x00 ‖ leaf)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two nodes into their parent: SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the Merkle root of hashes of one level (RFC 6962 §2.1): the left part is the largest power of two."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        paired = [sha256(b"\x01" + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        if len(row) % 2:
            paired.append(row[-1])  # alone at the right edge: it moves up as it is
        row = paired
    return row[0]


class Tree:
    """The right edge of the tree: at each level of tiles, the hashes of the tile that is not yet full."""

    __slots__ = ("_edges", "size")

    def __init__(self) -> None:
        self.size = 0
        self._edges: list[list[bytes]] = [[]]

    @classmethod
    def recover(cls, source: TileSource, size: int | None = None) -> Tree:
        """Rebuild the edge from stored tiles and the leaves behind them. Raises TreeBroken where some are missing."""
        tree = cls()
        tree.size = source.size() if size is None else size
        tree._edges = []
        level, width = 0, tree.size
        while True:
            full, rest = divmod(width, TILE_WIDTH)
            edge: list[bytes] = []
            if rest and level == 0:
                edge = [leaf_hash(leaf) for leaf in source.leaves(full * TILE_WIDTH, rest)]
            elif rest:
                edge = source.tile_roots(level - 1, full * TILE_WIDTH, rest)
            if len(edge) != rest:
                raise TreeBroken(f"level {level} of the tree should end in {rest} hashes and has {len(edge)}")
            tree._edges.append(edge)
            if not full:
                return tree
            level, width = level + 1, full

    def append(self, hashes: Iterable[bytes]) -> list[Tile]:
        """Add leaf hashes; return the tiles that became full, lower levels first."""
        tiles: list[Tile] = []
        edge = self._edges[0]
        size = self.size
        for one in hashes:
            edge.append(one)
            size += 1
            if len(edge) == TILE_WIDTH:
                self._close_tile(0, size // TILE_WIDTH - 1, tiles)
                edge = self._edges[0]
        self.size = size
        return tiles

    def _close_tile(self, level: int, place: int, tiles: list[Tile]) -> None:
        edge = self._edges[level]
        root = root_of(edge)
        tiles.append(Tile(level, place, root, b"".join(edge)))
        self._edges[level] = []
        if level + 1 == len(self._edges):
            self._edges.append([])
        above = self._edges[level + 1]
        above.append(root)
        if len(above) == TILE_WIDTH:
            self._close_tile(level + 1, place // TILE_WIDTH, tiles)

    def root(self) -> bytes:
        """Return the root over all leaves."""
        below: list[bytes] = []
        for edge in self._edges:
            # What is left of the level below is one node at the right of this level.
            row = [*edge, *below]
            below = [root_of(row)] if row else []
        return below[0] if below else EMPTY_ROOT

    @property
    def edge(self) -> bytes:
        """The leaf hashes behind the last full tile, joined."""
        return b"".join(self._edges[0])

    def copy(self) -> Tree:
        """Return a tree of its own, to be grown and perhaps thrown away."""
        other = Tree()
        other.size = self.size
        other._edges = [edge[:] for edge in self._edges]
        return other

    def __repr__(self) -> str:
        return f"<Tree size={self.size}>"


class _Nodes:
    """Nodes of a tree of a given size, read from a source; each tile and each stretch of roots once."""

    def __init__(self, source: TileSource, size: int) -> None:
        self._source = source
        self._size = size
        self._rows: dict[tuple[int, int], list[bytes]] = {}

    def subtree(self, first: int, end: int) -> bytes:
        """Return the root over the leaves first ≤ i < end; `first` is a multiple of the part's whole size."""
        width = end - first
        if width == 1:
            return self._hash(0, first)
        if width & (width - 1) == 0 and first % width == 0:
            height = width.bit_length() - 1
            level, above = divmod(height, _TILE_HEIGHT)
            count = 1 << above
            at = first >> (level * _TILE_HEIGHT)
            row = self._row(level, at // TILE_WIDTH)
            within = at % TILE_WIDTH
            return root_of(row[within : within + count])
        split = 1 << ((width - 1).bit_length() - 1)
        return node_hash(self.subtree(first, first + split), self.subtree(first + split, end))

    def _hash(self, level: int, at: int) -> bytes:
        return self._row(level, at // TILE_WIDTH)[at % TILE_WIDTH]

    def _row(self, level: int, place: int) -> list[bytes]:
        """Return the hashes of a tile, or of what there is of it."""
        row = self._rows.get((level, place))
        if row is not None:
            return row
        first = place * TILE_WIDTH
        there = min(TILE_WIDTH, (self._size >> (level * _TILE_HEIGHT)) - first)
        if there == TILE_WIDTH and (found := self._source.tiles(level, place, 1)):
            flat = found[0].hashes
            row = [flat[at : at + HASH_BYTES] for at in range(0, len(flat), HASH_BYTES)]
        elif level == 0:
            row = [leaf_hash(leaf) for leaf in self._source.leaves(first, there)]
        else:
            row = self._source.tile_roots(level - 1, first, there)
        if len(row) < there:
            raise TreeBroken(f"tile {level}/{place} should hold {there} hashes and holds {len(row)}")
        self._rows[level, place] = row
        return row


def root_at(source: TileSource, size: int) -> bytes:
    """Return the root over the first `size` leaves."""
    return _Nodes(source, size).subtree(0, size) if size else EMPTY_ROOT


def inclusion_proof(source: TileSource, index: int, size: int) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1), lowest node first.

    Raises IndexError where the leaf is not in that tree, TreeBroken where tiles are missing.
    """
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} is not in a tree of {size}")
    nodes = _Nodes(source, size)
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        split = first + (1 << ((end - first - 1).bit_length() - 1))
        if index < split:
            path.append(nodes.subtree(split, end))
            end = split
        else:
            path.append(nodes.subtree(first, split))
            first = split
    return path[::-1]


def consistency_proof(source: TileSource, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `new` leaves begins with the tree of `old` ones (RFC 6962 §2.1.2)."""
    if not 0 <= old <= new:
        raise IndexError(f"a tree of {new} cannot begin with one of {old}")
    if old in (0, new):
        return []
    nodes = _Nodes(source, new)

    def part(first: int, end: int, is_whole: bool) -> list[bytes]:
        if end == old:
            return [] if is_whole else [nodes.subtree(first, end)]
        split = first + (1 << ((end - first - 1).bit_length() - 1))
        if old <= split:
            return [*part(first, split, is_whole), nodes.subtree(split, end)]
        return [*part(split, end, False), nodes.subtree(first, split)]

    return part(0, new, True)


def root_from_inclusion(one: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root that a leaf's hash and its audit path lead to (RFC 9162 §2.1.3.2).

    Raises ValueError where the path has a length that no such tree has.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    node, last, found = index, size - 1, one
    for sibling in proof:
        if last == 0:
            raise ValueError("the audit path is too long")
        if node % 2 or node == last:
            found = node_hash(sibling, found)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ValueError("the audit path is too short")
    return found


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether the proof shows that the newer tree begins with the older one (RFC 9162 §2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)  # the old tree is a whole subtree: its root is not repeated in the proof
    if not path:
        return False
    node, last = old - 1, new - 1
    while node % 2:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node % 2 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
