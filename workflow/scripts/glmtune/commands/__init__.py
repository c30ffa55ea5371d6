"""The command `glmtune`: one file for each of its subcommands."""
