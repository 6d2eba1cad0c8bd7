"""What alerts: counts over windows, rules, the state machine, and who is told. Pure: values and `now` go in."""
