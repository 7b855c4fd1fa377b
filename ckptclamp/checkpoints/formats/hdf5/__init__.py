"""The HDF5 format: described in a sandbox, read and copied by byte ranges."""
