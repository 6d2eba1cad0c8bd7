"""The only room that touches files and databases: state folder, ledger, keys, quarantine, bundles, registry.

Each store owns one file and its connection. Faults of the disk come out as two kinds, since they call for two
answers: `StorageUnavailable` (nothing was written) and `StorageOutcomeUnknown` (neither yes nor no).
"""
