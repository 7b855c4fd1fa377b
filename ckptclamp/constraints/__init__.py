"""The mathematics of constraints: NumPy in, NumPy out, no files."""
