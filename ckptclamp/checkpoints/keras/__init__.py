"""Keras' own containers: a .keras archive, a directory, split weights."""
