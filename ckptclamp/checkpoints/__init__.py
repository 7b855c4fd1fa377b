"""Where the bytes of a checkpoint lie: one module a format behind one small interface."""
