"""From measurements to verdicts, and what else is learned by looking at a checkpoint."""
