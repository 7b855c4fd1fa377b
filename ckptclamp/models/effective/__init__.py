"""Weights that a checkpoint stores in parts, computed box by box as their own libraries do."""
