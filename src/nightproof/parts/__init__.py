"""The parts that releases play in the running server: who is live, who stands by, who is on trial."""
