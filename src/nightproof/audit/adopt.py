"""Take entries of the ledger's first form, which held content in the clear, into the present one.

Called by the store while it migrates an old ledger, once per entry, in order. The facts stay as they were
recorded; the content is sealed; the leaf is made anew and says that it was adopted. Tree and checkpoints
begin with that migration: nothing before it was signed.
"""

from __future__ import annotations

import orjson

from nightproof.audit.record import make_entry
from nightproof.audit.vault import Part, Vault
from nightproof.storage.ledger_rows import Row
from nightproof.storage.ledger_store import StoredV1
from nightproof.storage.vault_store import VaultStoring

_MADE_ANEW = ("v", "kind", "id", "at", "boot")


def adopt(old: StoredV1, vault: Vault, keys: VaultStoring) -> Row:
    """Return the entry in the present form; the keys of its content are kept when this returns."""
    facts = orjson.loads(old.leaf)
    for name in _MADE_ANEW:
        facts.pop(name, None)
    facts["adopted"] = True
    payload = None
    if old.payload is not None:
        sealed = vault.seal(
            [Part("content", old.payload, ())],
            entry_id=old.id,
            kind=old.kind,
            caller=facts.get("key", ""),
            at_us=old.at_us,
        )
        if sealed.new_keys:
            keys.add(sealed.new_keys)
        payload = sealed.payload
    return make_entry(old.kind, old.id, old.at_us, facts, payload=payload, idem=old.idem).row
