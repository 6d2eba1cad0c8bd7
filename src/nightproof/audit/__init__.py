"""The record of every input, output, decision and access: durable before the answer goes out."""
