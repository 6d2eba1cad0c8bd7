"""Not imported: its `sitecustomize` is found first by the Python of a stage's server, where a disk or a clock fails."""
