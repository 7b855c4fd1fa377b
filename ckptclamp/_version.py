"""The version of ckptclamp, read by the build and by ``--version``."""

__version__ = "0.1.0"
