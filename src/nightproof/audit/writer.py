"""Write batches of entries to the log: their keys first, then rows, tree and checkpoint in one commit.

Owned by the writer's program (`writing.py`), and by nobody else; it blocks. Promises: when `write` returns, every entry
is durable, in the tree, and its content can be opened again; after StorageUnavailable none of them is there.
The tree in memory is replaced only after the commit. Several gateways may write to one PostgreSQL log: what the
others wrote is taken into the tree under the lock of the log's head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightproof.audit.record import Entry
from nightproof.audit.seal import Signer, checkpoint_note
from nightproof.audit.tree import TILE_WIDTH, Tree, leaf_hash
from nightproof.base.clock import monotonic_s, utc_us
from nightproof.storage.ledger_protocol import LedgerWriting
from nightproof.storage.ledger_rows import Checkpoint, Head, Row, Tile
from nightproof.storage.sqlite import StorageOutcomeUnknown
from nightproof.storage.vault_store import WrappedKey

_PAGE = 1_000


class LogWriter:
    """The log as its one writer holds it: the store, the tree over it, and the key that signs."""

    def __init__(
        self,
        store: LedgerWriting,
        *,
        keep_keys: Callable[[Sequence[WrappedKey]], None],
        signer: Signer | None,
        seal_every_s: float,
        on_sealed: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> None:
        self.store = store
        self._keep_keys = keep_keys
        self._signer = signer
        self._seal_every_s = seal_every_s
        self._on_sealed = on_sealed
        last = store.last_checkpoint()
        if last is None and store.size() >= TILE_WIDTH and store.tile_count(0) == 0:
            _grow_over_all(store)
        self._tree = Tree.recover(store)
        self._sealed_size = last.size if last is not None else 0
        self._sealed_s = monotonic_s() - seal_every_s

    @property
    def size(self) -> int:
        """The number of entries in the log, as far as this writer knows."""
        return self._tree.size

    def write(self, entries: Sequence[Entry]) -> int:
        """Make the entries durable, and a checkpoint over them if one is due; return the first one's place."""
        keys = {key.kid: key for entry in entries for key in entry.keys}
        if keys:
            self._keep_keys(list(keys.values()))
        return self._commit([entry.row for entry in entries], must_seal=False)

    def place_of(self, row: Row) -> int | None:
        """Return the place of a row that a writer before this one may have written; None where it has not.

        Asked under the log's head, which in PostgreSQL a commit of a writer that is gone may still hold: whoever
        looked past it would not see that commit, and write the batch a second time.
        """
        head = self.store.begin()
        try:
            if head.size != self._tree.size:
                self._take_in_others(head)
            return next((one.seq for one in self.store.by_id(row.id) if one.leaf == row.leaf), None)
        finally:
            self.store.abandon()

    def seal(self) -> None:
        """Sign a checkpoint over all there is, unless the last one covers it."""
        if self._signer is not None and self._tree.size > self._sealed_size:
            self._sealed_s = monotonic_s()  # a store that says no is asked again when the next one is due
            self._commit([], must_seal=True)

    @property
    def seal_due_in_s(self) -> float | None:
        """Seconds until a checkpoint is due; None while the last one covers everything."""
        if self._signer is None or self._tree.size <= self._sealed_size:
            return None
        return max(0.0, self._sealed_s + self._seal_every_s - monotonic_s())

    def _commit(self, rows: Sequence[Row], *, must_seal: bool) -> int:
        head = self.store.begin()
        try:
            if head.size != self._tree.size:
                self._take_in_others(head)
            first = self._tree.size
            tree = self._tree.copy()
            tiles = tree.append([leaf_hash(row.leaf) for row in rows])
            checkpoint = self._checkpoint(tree) if must_seal or self._is_due() else None
            root = tree.root() if head.root is not None else None
            self.store.append(first, rows, tiles, root, checkpoint, edge=tree.edge if checkpoint else b"")
        except BaseException:
            self.store.abandon()
            raise
        self._tree = tree
        if checkpoint is not None:
            self._sealed_size, self._sealed_s = checkpoint.size, monotonic_s()
            self._on_sealed(checkpoint)
        return first

    def _is_due(self) -> bool:
        return self._signer is not None and monotonic_s() - self._sealed_s >= self._seal_every_s

    def _checkpoint(self, tree: Tree) -> Checkpoint | None:
        if self._signer is None or tree.size == 0:
            return None
        root = tree.root()
        note = checkpoint_note(self._signer.name, tree.size, root, [self._signer])
        return Checkpoint(tree.size, utc_us(), root, note)

    def _take_in_others(self, head: Head) -> None:
        """Take what other gateways wrote since into our tree, and hold it to the root that they left."""
        tree = self._tree.copy()
        while tree.size < head.size:
            leaves = self.store.leaves(tree.size, min(_PAGE, head.size - tree.size))
            if not leaves:
                break
            tree.append([leaf_hash(leaf) for leaf in leaves])
        if tree.size != head.size or (head.root is not None and tree.root() != head.root):
            raise StorageOutcomeUnknown(
                f"The log's head says {head.size} entries, and its entries do not agree with that.",
                hint="Run `nightproof audit verify`; somebody else may have written to the log.",
            )
        self._tree = tree


def _grow_over_all(store: LedgerWriting) -> None:
    """Make the tiles of a log that was taken over from a form without a tree; nothing to do for any other."""
    head = store.begin()
    tree = Tree()
    tiles: list[Tile] = []
    while tree.size < head.size:
        tiles += tree.append([leaf_hash(leaf) for leaf in store.leaves(tree.size, _PAGE)])
    store.append(head.size, [], tiles, tree.root() if head.root is not None else None, None)
