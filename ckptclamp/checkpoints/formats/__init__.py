"""A format each: a file described as frozen data, and how a copy of it is patched."""
