"""The streaming arithmetic: tensors measured and projected in blocks, within a memory budget."""
