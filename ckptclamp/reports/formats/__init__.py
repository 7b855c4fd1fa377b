"""One module a format: each renders the same report and the same list of findings."""
