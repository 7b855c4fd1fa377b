"""Measuring and projecting tensors in blocks, within a memory budget."""
