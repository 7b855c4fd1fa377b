"""The sets that weights may be held to: a small class each."""
