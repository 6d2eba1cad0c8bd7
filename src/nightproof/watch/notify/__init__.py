"""Tell receivers: Alertmanager, a signed webhook, and what Apprise knows. One courier each, in order, with an end."""
