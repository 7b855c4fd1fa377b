"""Specs: what a checkpoint must obey, read from YAML, options or Python."""
