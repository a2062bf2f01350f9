"""The `reval` command. Each file here has the commands of one subject and prints their results; the work is done in
pipeline/. Imports wait until a command needs them, so that `reval --help` is quick.
"""

from flows.cli.main import app, main

__all__ = ["app", "main"]
