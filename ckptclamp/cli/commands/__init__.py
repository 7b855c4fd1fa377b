"""The commands: a module each, or one for those of a kind."""
