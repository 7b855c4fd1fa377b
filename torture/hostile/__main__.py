"""Write every hostile file into a directory of its own."""

import sys
from pathlib import Path

from torture.hostile import CASES

for case in CASES:
    directory = Path(sys.argv[1]) / case.name
    directory.mkdir(parents=True, exist_ok=True)
    case.make(directory)
