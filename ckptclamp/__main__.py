"""``python -m ckptclamp``."""

from ckptclamp.cli import main

if __name__ == "__main__":
    main()
