"""Hostile files: each kind with the exit code and a word of the message that it must meet.

`python -m torture.hostile DIRECTORY` writes all of them, for trying other programs.
"""

from torture.hostile import archives, hdf5, indexes, keras_configs, safetensors, specs
from torture.hostile.case import Case

__all__ = ["CASES", "Case"]

CASES: tuple[Case, ...] = (
    *safetensors.CASES,
    *indexes.CASES,
    *hdf5.CASES,
    *archives.CASES,
    *keras_configs.CASES,
    *specs.CASES,
)
