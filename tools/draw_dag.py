"""Put the picture of the steps, as Snakemake draws it, into the READMEs; `--check`: is it the same?

The picture is Mermaid text between two marks, which code hosts draw.
"""

from __future__ import annotations

import re
import subprocess
import sys

from readme_marks import READMES, is_there, put

MARKS = ("<!-- steps: drawn by `make dag` -->", "<!-- end of steps -->")


def main() -> int:
    """Write the picture, or say whether it is stale."""
    picture = f"```mermaid\n{draw()}```"
    if "--check" in sys.argv[1:]:
        stale = [
            file for language, file in READMES.items() if not is_there(picture, *MARKS, language)
        ]
        for file in stale:
            print(f"{file}: the picture of the steps is stale; `make dag` draws it")
        return int(bool(stale))
    for language in READMES:
        put(picture, *MARKS, language)
    return 0


def draw() -> str:
    """The graph of the rules, left to right, in Snakemake's own order without its colours."""
    command = ["snakemake", "--forceall", "--rulegraph", "mermaid-js"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout[done.stdout.index("flowchart") :].splitlines()
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", done.stdout))
    edges = sorted(
        f"    {names[start]} --> {names[end]}"
        for start, end in (line.split(" --> ") for line in map(str.strip, lines) if "-->" in line)
        if names[end] != "all"
    )
    return "\n".join(["flowchart LR", *edges, ""])


if __name__ == "__main__":
    sys.exit(main())
