"""Audit and apply results as terminal text, JSON and the formats of CI systems."""
