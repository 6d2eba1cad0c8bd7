"""What the server knows of itself: counters, health, logs."""
