"""Downloads a published model: resumes after a kill, verifies every file, records their hashes.

glmtune download chatglm3-6b-base
glmtune download chatglm2-6b --from modelscope --out weights/chatglm2-6b
glmtune download owner/name --revision COMMIT

Weights, configuration and vocabulary only, never code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glmtune.commands.flags import parser
from glmtune.hubs.downloading import RECORD, download_model
from glmtune.hubs.sites import SITES, check_model

WEIGHTS = Path("weights")


def main(arguments: Sequence[str]) -> None:
    """Download, and say what params.yaml then names."""
    flags = parser("download", __doc__)
    flags.add_argument("model", help="a name such as chatglm3-6b-base, or owner/name")
    flags.add_argument(
        "--from", dest="site", choices=SITES, help="default: each in turn until one has the model"
    )
    flags.add_argument("--revision", help="commit, branch or tag; default: the newest commit")
    flags.add_argument("--out", type=Path, help="a folder; default: weights/NAME")
    given = flags.parse_args(arguments)
    check_model(given.model)
    name = given.model.rpartition("/")[2]
    folder = given.out or WEIGHTS / name
    sites = {given.site: SITES[given.site]} if given.site else SITES
    listing = download_model(given.model, folder, sites, given.revision)
    shown = folder if folder.is_absolute() else f"./{folder}"
    print(
        f"{shown}: {listing.repository} at {listing.revision}, complete and verified; {RECORD} has "
        f"the hashes\nin params.yaml:  models: {{ {name.lower()}: {{ source: {shown} }} }}"
    )
