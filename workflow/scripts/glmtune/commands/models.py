"""Lists the models of a results folder and the methods they were tuned with.

glmtune models
glmtune models --json
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from glmtune.commands.flags import RESULTS, parser
from glmtune.families.registry import get_family
from glmtune.serving.catalog import read_results


def main(arguments: Sequence[str]) -> None:
    """Print a line for each model and method."""
    from pathlib import Path

    flags = parser("models", __doc__)
    flags.add_argument("--results", type=Path, default=RESULTS, help="default: results")
    flags.add_argument("--json", action="store_true", help="as JSON Lines")
    given = flags.parse_args(arguments)
    catalog = read_results(given.results)
    width = max(map(len, catalog))
    for served in catalog.values():
        if given.json:
            print(json.dumps({"name": served.name, "family": served.family, "kind": served.kind}))
        else:
            print(f"{served.name:<{width}}  {served.kind:<8}{get_family(served.family).title}")
