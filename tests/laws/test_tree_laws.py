"""Laws of the log's tree: it is RFC 6962's, whatever the size, however it grew, and whoever reads it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nightproof.audit import tree as trees
from nightproof.audit.tree import (
    EMPTY_ROOT,
    TILE_WIDTH,
    Tree,
    TreeBroken,
    check_consistency,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_from_inclusion,
)
from nightproof.storage.ledger_rows import Row, Tile
from nightproof.storage.ledger_store import LedgerReader, LedgerStore

LAW = settings(max_examples=100, deadline=None)
SIZES = 600
"""Two full tiles and a part of a third."""
TALL = 66_000
"""More than a full tile of tiles, which takes 65,536 leaves."""
LEAVES = [b"%d of many" % number for number in range(TALL)]
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
"""The leaves of the reference tests of Certificate Transparency."""
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Their roots, by the number of leaves."""


class Naive:
    """RFC 6962 §2.1 word for word, by recursion over the leaves; roots of parts are remembered."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._leaves = leaves
        self._known: dict[tuple[int, int], bytes] = {}

    def root(self, first: int, end: int) -> bytes:
        """MTH(D[first:end])."""
        if first == end:
            return sha256(b"").digest()
        if end - first == 1:
            return sha256(b"\x00" + self._leaves[first]).digest()
        found = self._known.get((first, end))
        if found is None:
            middle = first + split(end - first)
            found = sha256(b"\x01" + self.root(first, middle) + self.root(middle, end)).digest()
            self._known[first, end] = found
        return found

    def path(self, index: int, first: int, end: int) -> list[bytes]:
        """PATH(index, D[first:end]), the index counted from `first`."""
        if end - first == 1:
            return []
        middle = split(end - first)
        if index < middle:
            return [*self.path(index, first, first + middle), self.root(first + middle, end)]
        return [*self.path(index - middle, first + middle, end), self.root(first, first + middle)]

    def consistency(self, old: int, size: int) -> list[bytes]:
        """PROOF(old, D[0:size])."""
        return self._subproof(old, 0, size, is_known=True)

    def _subproof(self, old: int, first: int, end: int, *, is_known: bool) -> list[bytes]:
        if old == end - first:
            return [] if is_known else [self.root(first, end)]
        middle = split(end - first)
        if old <= middle:
            below = self._subproof(old, first, first + middle, is_known=is_known)
            return [*below, self.root(first + middle, end)]
        below = self._subproof(old - middle, first + middle, end, is_known=False)
        return [*below, self.root(first, first + middle)]


def split(width: int) -> int:
    """Return the largest power of two smaller than the width."""
    power = 1
    while power * 2 < width:
        power *= 2
    return power


class Shelf:
    """Leaves and tiles in memory, as a store would give them."""

    def __init__(self, leaves: Sequence[bytes], tiles: Sequence[Tile]) -> None:
        self._leaves = leaves
        self._tiles = {(tile.level, tile.place): tile for tile in tiles}

    def without(self, level: int, place: int) -> Shelf:
        """Return a shelf on which a tile is missing."""
        return Shelf(self._leaves, [tile for at, tile in self._tiles.items() if at != (level, place)])

    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._leaves)

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return leaves."""
        return list(self._leaves[first_seq : first_seq + most])

    def tiles(self, level: int, first: int = 0, most: int = 100) -> list[Tile]:
        """Return full tiles."""
        wanted = ((level, place) for place in range(first, first + most))
        return [self._tiles[at] for at in wanted if at in self._tiles]

    def tile_roots(self, level: int, first: int = 0, most: int = 1_000) -> list[bytes]:
        """Return the roots of full tiles."""
        return [tile.root for tile in self.tiles(level, first, most)]


def grown(leaves: Sequence[bytes]) -> tuple[Tree, Shelf]:
    """Grow a tree over leaves at once; return it and what a store would then hold."""
    tree = Tree()
    tiles = tree.append([leaf_hash(leaf) for leaf in leaves])
    return tree, Shelf(leaves, tiles)


@contextmanager
def ledger_with(leaves: Sequence[bytes], cuts: Sequence[int]) -> Iterator[tuple[Tree, LedgerReader]]:
    """Write leaves into a ledger's file, one batch from cut to cut; give the tree in memory and a reader."""
    tree = Tree()
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(leaves)}), len(leaves)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with closing(LedgerStore(path)) as store:
            for first, end in pairwise(edges):
                tiles = tree.append([leaf_hash(leaf) for leaf in leaves[first:end]])
                rows = [
                    Row(f"id-{seq}", seq, "request", "", "", "", "", "", None, leaves[seq], None)
                    for seq in range(first, end)
                ]
                store.append(first, rows, tiles)
            with closing(LedgerReader(path)) as reader:
                yield tree, reader


@pytest.fixture(scope="module")
def naive() -> Naive:
    """Give the RFC's own tree over all leaves."""
    return Naive(LEAVES)


@pytest.fixture(scope="module")
def tall() -> tuple[Tree, Shelf]:
    """Give a tree of three levels of tiles."""
    return grown(LEAVES)


@pytest.mark.parametrize("size", range(9))
def test_the_reference_tree_of_certificate_transparency_has_its_known_roots(size: int) -> None:
    tree, shelf = grown(CT_LEAVES[:size])

    assert tree.root().hex() == CT_ROOTS[size]
    assert trees.root_at(shelf, size).hex() == CT_ROOTS[size]
    assert Naive(CT_LEAVES).root(0, size).hex() == CT_ROOTS[size], "what the laws compare with is right too"


def test_the_reference_tree_has_its_known_proofs() -> None:
    _, shelf = grown(CT_LEAVES)

    assert [one.hex() for one in consistency_proof(shelf, 1, 8)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [one.hex() for one in consistency_proof(shelf, 6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [one.hex() for one in inclusion_proof(shelf, 0, 8)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_an_empty_tree_has_the_hash_of_nothing_for_its_root() -> None:
    assert Tree().root() == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == CT_ROOTS[0]
    assert repr(Tree()) == "<Tree size=0>"


def test_at_every_size_the_growing_tree_has_the_root_of_the_rfc(naive: Naive) -> None:
    tree = Tree()

    for size in range(SIZES + 1):
        assert tree.size == size
        assert tree.root() == naive.root(0, size), size
        first_of_edge = size - size % TILE_WIDTH
        assert tree.edge == b"".join(leaf_hash(leaf) for leaf in LEAVES[first_of_edge:size])
        tree.append([leaf_hash(LEAVES[size])])


def test_at_every_size_a_tree_read_back_from_tiles_is_the_one_that_grew(naive: Naive) -> None:
    _, shelf = grown(LEAVES[:SIZES])

    for size in range(SIZES + 1):
        found = Tree.recover(shelf, size)
        assert (found.size, found.root()) == (size, naive.root(0, size))
        assert trees.root_at(shelf, size) == naive.root(0, size)


def test_every_leaf_of_every_small_tree_is_proven_as_in_the_rfc(naive: Naive) -> None:
    _, shelf = grown(LEAVES[:40])

    for size in range(1, 41):
        for index in range(size):
            proof = inclusion_proof(shelf, index, size)
            assert proof == naive.path(index, 0, size)
            assert root_from_inclusion(leaf_hash(LEAVES[index]), index, size, proof) == naive.root(0, size)


def test_every_two_small_trees_are_proven_consistent_as_in_the_rfc(naive: Naive) -> None:
    _, shelf = grown(LEAVES[:40])

    for new in range(1, 41):
        for old in range(1, new + 1):
            proof = consistency_proof(shelf, old, new)
            assert proof == naive.consistency(old, new)
            assert check_consistency(old, naive.root(0, old), new, naive.root(0, new), proof)
        assert consistency_proof(shelf, 0, new) == [], "every tree begins with the empty one"
        assert check_consistency(0, EMPTY_ROOT, new, naive.root(0, new), [])


@LAW
@given(sizes=st.lists(st.integers(0, SIZES), max_size=8))
def test_however_the_leaves_come_the_tiles_and_the_root_are_the_same(sizes: list[int]) -> None:
    whole, shelf = grown(LEAVES[:SIZES])
    tree, tiles = Tree(), []

    for first, end in zip([0, *sorted(sizes)], [*sorted(sizes), SIZES], strict=True):
        tiles += tree.append([leaf_hash(leaf) for leaf in LEAVES[first:end]])

    assert tiles == shelf.tiles(0)
    assert (tree.size, tree.root(), tree.edge) == (whole.size, whole.root(), whole.edge)


@LAW
@given(size=st.integers(0, SIZES), more=st.integers(1, 300))
def test_a_copy_grows_without_the_one_it_was_copied_from(size: int, more: int) -> None:
    tree, _ = grown(LEAVES[:size])
    before = (tree.size, tree.root(), tree.edge)

    copied = tree.copy()
    copied.append([leaf_hash(leaf) for leaf in LEAVES[size : size + more]])

    assert (tree.size, tree.root(), tree.edge) == before
    assert copied.root() == grown(LEAVES[: size + more])[0].root()


@LAW
@example(size=TALL, index=65_535)
@example(size=TALL, index=65_536)
@example(size=65_536, index=0)
@example(size=65_537, index=65_536)
@given(size=st.integers(1, TALL), index=st.integers(0, TALL - 1))
def test_any_leaf_of_any_tree_is_proven_from_tiles_as_in_the_rfc(
    naive: Naive, tall: tuple[Tree, Shelf], size: int, index: int
) -> None:
    index %= size

    proof = inclusion_proof(tall[1], index, size)

    assert proof == naive.path(index, 0, size)
    assert root_from_inclusion(leaf_hash(LEAVES[index]), index, size, proof) == naive.root(0, size)


@LAW
@example(old=65_536, new=TALL)
@example(old=65_535, new=65_537)
@example(old=256, new=65_536)
@given(old=st.integers(0, TALL), new=st.integers(0, TALL))
def test_any_two_trees_are_proven_consistent_from_tiles_as_in_the_rfc(
    naive: Naive, tall: tuple[Tree, Shelf], old: int, new: int
) -> None:
    old, new = sorted((old, new))

    proof = consistency_proof(tall[1], old, new)

    assert proof == ([] if old == 0 else naive.consistency(old, new))
    assert check_consistency(old, naive.root(0, old), new, naive.root(0, new), proof)


@LAW
@example(size=TALL)
@example(size=65_536)
@example(size=65_535)
@given(size=st.integers(0, TALL))
def test_a_tree_of_any_height_read_back_from_tiles_goes_on_as_the_one_that_grew(
    naive: Naive, tall: tuple[Tree, Shelf], size: int
) -> None:
    found = Tree.recover(tall[1], size)
    root = found.root()
    more = found.append([leaf_hash(leaf) for leaf in LEAVES[size : size + 700]])

    assert root == naive.root(0, size)
    assert found.root() == naive.root(0, min(size + 700, TALL))
    assert len([tile for tile in more if tile.level == 0]) == found.size // TILE_WIDTH - size // TILE_WIDTH
    assert (
        more == [tile for at in {tile[:2] for tile in more} for tile in tall[1].tiles(*at, 1)]
        or len(more) > 1
    )
    for tile in more:
        assert tall[1].tiles(tile.level, tile.place, 1) == [tile]


def test_the_tree_has_tiles_of_tiles_as_c2sp_lays_them_out(tall: tuple[Tree, Shelf]) -> None:
    tree, shelf = tall

    (upper,) = shelf.tiles(1, 0, 10)

    assert tree.size == TALL
    assert len(shelf.tiles(0, 0, 1_000)) == TALL // TILE_WIDTH
    assert upper.hashes == b"".join(shelf.tile_roots(0, 0, TILE_WIDTH))
    assert shelf.tiles(0, 3, 1)[0].hashes == b"".join(leaf_hash(leaf) for leaf in LEAVES[768:1024])


@LAW
@given(size=st.integers(2, SIZES), index=st.integers(0, SIZES), bit=st.integers(0, 255), data=st.data())
def test_a_proof_with_any_bit_changed_leads_to_another_root(
    naive: Naive, size: int, index: int, bit: int, data: st.DataObject
) -> None:
    index %= size
    proof = naive.path(index, 0, size)
    at = data.draw(st.integers(0, len(proof) - 1))
    spoilt = [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]]
    root, leaf = naive.root(0, size), leaf_hash(LEAVES[index])

    assert root_from_inclusion(leaf, index, size, spoilt) != root
    assert root_from_inclusion(flipped(leaf, bit), index, size, proof) != root


@LAW
@given(size=st.integers(2, SIZES), index=st.integers(0, SIZES))
def test_a_proof_of_a_wrong_length_is_refused(naive: Naive, size: int, index: int) -> None:
    index %= size
    proof = naive.path(index, 0, size)
    leaf = leaf_hash(LEAVES[index])

    with pytest.raises(ValueError, match="too short"):
        root_from_inclusion(leaf, index, size, proof[:-1])
    with pytest.raises(ValueError, match="too long"):
        root_from_inclusion(leaf, index, size, [*proof, proof[0]])
    with pytest.raises(ValueError, match="not in a tree"):
        root_from_inclusion(leaf, size, size, proof)


@LAW
@given(old=st.integers(1, SIZES), new=st.integers(1, SIZES), bit=st.integers(0, 255), data=st.data())
def test_no_changed_proof_shows_that_one_tree_begins_with_another(
    naive: Naive, old: int, new: int, bit: int, data: st.DataObject
) -> None:
    old, new = sorted((old, new))
    first, second, proof = naive.root(0, old), naive.root(0, new), naive.consistency(old, new)

    assert check_consistency(old, first, new, second, proof)
    assert not check_consistency(old, flipped(first, bit), new, second, proof)
    assert not check_consistency(old, first, new, flipped(second, bit), proof)
    assert not check_consistency(old, first, new, second, [*proof, second])
    assert not check_consistency(new, first, old, second, proof) or old == new
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not check_consistency(
            old, first, new, second, [*proof[:at], flipped(proof[at], bit), *proof[at + 1 :]]
        )
        assert not check_consistency(old, first, new, second, [*proof[:at], *proof[at + 1 :]])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_what_is_not_in_a_tree_is_not_proven(index: int, size: int) -> None:
    _, shelf = grown(LEAVES[:3])

    with pytest.raises(IndexError):
        inclusion_proof(shelf, index, size)
    with pytest.raises(IndexError):
        consistency_proof(shelf, size + 1, size)


@pytest.mark.parametrize(("level", "place"), [(0, 0), (0, 200), (0, 256), (1, 0)])
def test_a_tree_with_a_tile_missing_is_called_broken(
    tall: tuple[Tree, Shelf], level: int, place: int
) -> None:
    spoilt = tall[1].without(level, place)
    size = 65_536 + 512 if level or place == 256 else 60_000

    with pytest.raises(TreeBroken):
        Tree.recover(spoilt, size)


def test_a_tree_with_leaves_missing_behind_its_tiles_is_called_broken() -> None:
    _, shelf = grown(LEAVES[:300])

    with pytest.raises(TreeBroken):
        Tree.recover(shelf, 301)
    with pytest.raises(TreeBroken):
        inclusion_proof(shelf, 0, 301)


@settings(max_examples=12, deadline=None)
@example(size=TILE_WIDTH, cuts=[])
@example(size=2 * TILE_WIDTH + 1, cuts=[255, 256, 257])
@given(size=st.integers(0, SIZES), cuts=st.lists(st.integers(0, SIZES), max_size=5))
def test_a_tree_recovered_from_a_ledgers_file_is_the_one_that_wrote_it(
    naive: Naive, size: int, cuts: list[int]
) -> None:
    with ledger_with(LEAVES[:size], cuts) as (tree, reader):
        found = Tree.recover(reader)

        assert (found.size, found.root(), found.edge) == (tree.size, tree.root(), tree.edge)
        assert found.root() == naive.root(0, size)
        for index in {0, size // 2, size - 1} if size else ():
            assert inclusion_proof(reader, index, size) == naive.path(index, 0, size)
            assert consistency_proof(reader, index + 1, size) == naive.consistency(index + 1, size)


def flipped(hashed: bytes, bit: int) -> bytes:
    """Return the hash with one bit changed."""
    return bytes(one ^ (1 << bit % 8 if at == bit // 8 else 0) for at, one in enumerate(hashed))
