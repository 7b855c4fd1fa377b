"""The safetensors format: one file, or a sharded set with its index."""
