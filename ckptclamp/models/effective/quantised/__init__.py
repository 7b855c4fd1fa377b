"""Weights of codes with scales: which formats there are, and how each is computed."""
