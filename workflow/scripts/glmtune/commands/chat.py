"""Chat with a model in the terminal; /help lists the commands.

glmtune chat chatglm2-6b/ptuning
glmtune chat weights/chatglm2-6b --prefix results/checkpoints/chatglm2-6b/ptuning
glmtune chat chatglm3-6b-base/lora --system "用一句话回答。"
glmtune chat chatglm2-6b/lora < questions.txt      (one question a line, plain answers)
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glmtune.commands.flags import (
    add_memory,
    add_model,
    add_place,
    add_sampling,
    choose,
    device_of,
    parser,
)
from glmtune.commands.texts import LANGUAGES, TEXTS, language_of_locale
from glmtune.errors import DataError, UserError, shown_name
from glmtune.families.registry import get_family
from glmtune.serving.catalog import find
from glmtune.serving.ranges import HOTTEST, SEEDS, SMALLEST_TOP_P

if TYPE_CHECKING:
    from glmtune.serving.session import Session

# Setting -> its type, and whether a value will do.
SETTINGS: dict[str, tuple[Callable[[str], Any], Callable[[Any], bool], str]] = {
    "temperature": (float, lambda value: 0 <= value <= HOTTEST, "0 <= temperature <= 10"),
    "top_p": (float, lambda value: SMALLEST_TOP_P <= value <= 1, "0 < top_p <= 1"),
    "seed": (int, lambda value: 0 <= value < SEEDS, "0, 1, 2, …"),
    "max_new_tokens": (int, lambda value: value >= 1, "1, 2, 3, …"),
}


def main(arguments: Sequence[str]) -> None:
    """Converse until the input ends."""
    flags = parser("chat", __doc__)
    add_model(flags)
    flags.add_argument("--system", help="a system message at the start of the conversation")
    flags.add_argument("--lang", choices=LANGUAGES, help="default: from the locale")
    add_sampling(flags)
    add_memory(flags)
    add_place(flags)
    given = flags.parse_args(arguments)
    session = _open(given)
    chat = Chat(session, TEXTS[given.lang or language_of_locale()])
    chat.converse() if sys.stdin.isatty() else chat.answer_lines()


def _open(given: argparse.Namespace) -> Session:
    """The session that the flags ask for; mistakes are reported before torch is imported."""
    catalog, served = choose(given)
    from glmtune.serving.answering import Choosing
    from glmtune.serving.library import Library, Limits
    from glmtune.serving.session import Session

    limits = Limits(given.max_memory, max_rows=1, quantization_bit=given.quantization_bit)
    choosing = Choosing(given.temperature, given.top_p, given.seed)
    library = Library(device_of(given), limits)
    return Session(catalog, library, served, choosing, given.max_new_tokens, given.system)


class Chat:
    """A session in a terminal."""

    def __init__(self, session: Session, texts: Any) -> None:
        self.session = session
        self.texts = texts
        self.commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(texts["help"]),
            "again": self.again,
            "compare": self.compare,
            "model": self.switch,
            "history": self.show_history,
            "clear": self.clear,
            "system": self.set_system,
            "as": self.say_as,
            "set": self.set_value,
            "quit": self.quit,
        }

    def converse(self) -> None:
        """Read lines with readline, where there is one, and answer them."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # editing and history of lines, by being imported
        session = self.session
        title = get_family(session.served.family).title
        device = session.library.device.name
        self.tell("welcome", name=session.served.name, title=title, device=device)
        while True:
            try:
                self.take(self.read())
            except KeyboardInterrupt:
                print()
            except EOFError:
                print()
                self.tell("bye")
                return

    def answer_lines(self) -> None:
        """Answer each line of a pipe with one line, without anything around it.

        A line without an answer is empty, and what was wrong goes to stderr.
        """
        failed = 0
        for line in sys.stdin.buffer:
            text = line.decode("utf-8", errors="replace").strip()
            if text.startswith("/"):
                try:
                    self.take(text)
                except EOFError:
                    break
                continue
            answer = ""
            try:
                answer = "".join(self.session.ask(text)) if text else ""
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
            print(answer.replace("\n", "\\n"), flush=True)
        if failed:
            raise DataError(f"{failed} of the lines have no answer; the errors above say why")

    def read(self) -> str:
        """A line, with those that follow a backslash at its end."""
        text = input(self.texts["you"])
        while text.endswith("\\"):
            text = text[:-1] + "\n" + input("… ")
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()

    def take(self, text: str) -> None:
        """Do what a line asks for; report a user's mistake and go on."""
        try:
            if not text.startswith("/"):
                if text:
                    self.show(self.session.ask(text))
                return
            name, _, rest = text[1:].partition(" ")
            if name not in self.commands:
                near = difflib.get_close_matches(name, self.commands, 1) or list(self.commands)
                shown = ", ".join(f"/{command}" for command in near)
                self.tell("unknown", name=f"/{shown_name(name)}", near=shown)
                return
            self.commands[name](rest.strip())
        except UserError as error:
            print(f"error: {error}")

    def show(self, parts: Iterator[str]) -> None:
        """Print an answer as it comes; Ctrl-C ends it."""
        try:
            for part in parts:
                print(part, end="", flush=True)
            print()
            if self.session.was_cut:
                self.tell("cut", limit=self.session.max_new_tokens)
        except KeyboardInterrupt:
            print()
            self.tell("stopped")

    def again(self, _: str) -> None:
        """Ask the current model the last question again."""
        question = self.session.take_back()
        if question is None:
            self.tell("no_question")
        else:
            self.show(self.session.ask(question["content"], question["role"]))

    def compare(self, text: str) -> None:
        """Let every method answer; the conversation stays as it was."""
        history, question = self.session.history, self.session.asked
        if text:
            question = {"role": "user", "content": text}
        elif question is None:
            self.tell("no_question")
            return
        elif question in history[-2:-1]:
            history = history[:-2]
        for served in self.session.siblings():
            print(f"[{served.name}]")
            self.show(self.session.stream(served, [*history, question]))

    def switch(self, name: str) -> None:
        """Switch to another model."""
        if not name:
            for served in self.session.catalog.values():
                print(f"{'*' if served is self.session.served else ' '} {served.name}")
            return
        catalog = self.session.catalog
        base = self.session.served.name.partition("/")[0]
        method = f"{base}/{name}".removesuffix("/none")
        self.session.served = catalog.get(method) or find(catalog, name)
        self.tell("now", name=self.session.served.name)

    def show_history(self, _: str) -> None:
        """Print the conversation."""
        if self.session.system:
            print(f"system: {self.session.system}")
        if not self.session.history:
            self.tell("no_history")
        for message in self.session.history:
            print(f"{message['role']}: {message['content']}")

    def clear(self, _: str) -> None:
        """Clear the conversation."""
        self.session.history, self.session.asked = [], None
        self.tell("cleared")

    def set_system(self, text: str) -> None:
        """Set or remove the system message."""
        self.session.system = text or None
        self.tell("system" if text else "no_system", text=text)

    def say_as(self, text: str) -> None:
        """Add a message in another role; user and observation get an answer."""
        role, _, content = text.partition(" ")
        if not content.strip():
            self.tell("nothing_said")
        elif role in ("user", "observation"):
            self.show(self.session.ask(content, role))
        else:
            self.session.say(role, content)

    def set_value(self, text: str) -> None:
        """Show the settings, or set one."""
        name, _, value = text.partition(" ")
        if not name:
            for key in SETTINGS:
                print(f"{key} {self._value(key)}")
        elif name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, 1) or list(SETTINGS)
            self.tell("unknown_key", name=shown_name(name), near=", ".join(near))
        else:
            self._set(name, value.strip())

    def quit(self, _: str) -> None:
        """End."""
        raise EOFError

    def tell(self, key: str, /, **values: Any) -> None:
        """Print one of the texts."""
        print(self.texts[key].format(**values))

    def _value(self, key: str) -> Any:
        holder = self.session if key == "max_new_tokens" else self.session.choosing
        return getattr(holder, key)

    def _set(self, name: str, text: str) -> None:
        kind, is_right, expected = SETTINGS[name]
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_right(value):
            self.tell("bad_value", name=name, value=shown_name(text), expected=expected)
        elif name == "max_new_tokens":
            self.session.max_new_tokens = value
        else:
            self.session.choosing = replace(self.session.choosing, **{name: value})
