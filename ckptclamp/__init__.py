"""Audit and fix the weight constraints of neural-network checkpoints."""

from ckptclamp._version import __version__ as __version__
