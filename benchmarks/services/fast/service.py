"""The fast model, batching on: one call costs about the same for 1 row and for 64."""

from measurements import Tumour

from nightproof import Service

service = Service("fast", model=Tumour, deadline_ms=1_000)
