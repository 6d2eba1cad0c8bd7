"""Train the classifier of chat services, and hold its detectors to their truth on sources they never saw."""
