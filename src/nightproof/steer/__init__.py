"""An operator's way: status, quarantine, keys, drain and the tick. Nothing else changes what the server does."""
