"""The projected copy: made, verified and published whole, or not at all."""
