"""Whether the trackers of `training.report_to` can start, and where their logs are; no torch.

The logs are no output of a rule: they are not versioned, and no result depends on them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from glmtune.errors import ResourceError
from glmtune.locations import main_repository

# The names that `report_to` may have, each that of a package.
TRACKERS = ("tensorboard", "swanlab", "wandb")


def tracker_folder(workspace: Path) -> Path:
    """The folder of all logs; those of a queued experiment outlive its workspace there."""
    return main_repository(workspace) / ".glmtune" / "trackers"


def require_trackers(names: Iterable[str]) -> None:
    """Raise ResourceError if a tracker's package is not installed."""
    missing = sorted({name for name in names if not _is_installed(name)})
    if missing:
        packages = ",".join(missing)
        raise ResourceError(
            f"params.yaml: training.report_to: found {', '.join(missing)}, not installed; install "
            f"what is missing (pip install -e '.[{packages}]') or remove it from the list"
        )


def _is_installed(package: str) -> bool:
    """A folder of logs with the package's name, such as wandb/, also has a spec, but no file."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
