"""python -m glmtune.commands: the same as `glmtune`."""

from glmtune.commands.main import run

run()
