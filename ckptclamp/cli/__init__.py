"""The command line: parse, call, choose the exit code. Nothing here looks at weights."""

from ckptclamp.cli.main import main as main
