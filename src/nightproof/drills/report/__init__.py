"""The readiness report: one value, shown in the terminal, as JSON, as JUnit XML and as one page of HTML."""
