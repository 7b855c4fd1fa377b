"""Zip archives, read so that they have one meaning: `.keras` and `.npz`."""
