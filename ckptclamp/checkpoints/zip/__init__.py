"""Zip archives, read strictly and rewritten byte for byte."""
