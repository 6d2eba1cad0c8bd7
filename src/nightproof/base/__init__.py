"""The ground floor: names, values, the clock, strict JSON and schemas. Imports nothing of ours."""
