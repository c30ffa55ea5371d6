"""The command `glmtune`: finds the subcommand; each imports what it needs once it runs."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from glmtune.errors import ParamsError, run_script

# Subcommand -> what it does; its module here has `main(arguments)`.
COMMANDS = {
    "download": "download a published model, verified",
    "chat": "chat with a model in the terminal, switch methods, compare answers",
    "serve": "start an OpenAI-compatible server, with a page that compares methods",
    "answer": "answer a file of prompts; resumes after a kill",
    "score": "compute BLEU-4 and ROUGE of a predictions file",
    "export": "write a model folder for other tools, LoRA merged",
    "models": "list the models and methods in the results",
}


# As shells count the signal SIGINT.
INTERRUPTED = 130


def main() -> None:
    """Run a subcommand."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_text())
    elif name == "--version":
        from glmtune import __version__

        print(f"glmtune {__version__}")
    else:
        find_command(name)(arguments)


def run() -> None:
    """The entry point: a user's mistake is one message and exit code 2."""
    try:
        run_script(main)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def find_command(name: str) -> Callable[[Sequence[str]], None]:
    """The function of a subcommand; ParamsError with the nearest names for any other."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS) or list(COMMANDS)
        raise ParamsError(
            f"glmtune: unknown command {name[:100]!r}; expected {' or '.join(near)}; "
            "`glmtune --help` explains them"
        )
    command: Callable[[Sequence[str]], None] = import_module(f"glmtune.commands.{name}").main
    return command


def help_text() -> str:
    """The subcommands, one per line."""
    lines = [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: glmtune COMMAND [flags]      (glmtune COMMAND --help explains its flags)",
            "",
            *lines,
            "",
            "example: glmtune chat chatglm2-6b/ptuning",
        ]
    )
