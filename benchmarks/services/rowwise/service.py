"""The fast model with batching off, as for a model whose cost grows with its rows."""

from measurements import Tumour

from nightproof import Service

service = Service("rowwise", model=Tumour, deadline_ms=1_000, max_batch=1)
