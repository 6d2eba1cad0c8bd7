"""How true and how costly the watching is: false alarms, detection, published streams, rivals beside it."""
