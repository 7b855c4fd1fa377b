"""The isolated process in which untrusted files are parsed."""
