"""The tuning methods.

To add one: a file here, a line in METHODS, its keys in settings.py and params/models.py.
"""

from __future__ import annotations

from glmtune.errors import ParamsError
from glmtune.tuning.full import FULL
from glmtune.tuning.lora import LORA
from glmtune.tuning.method import TuningMethod
from glmtune.tuning.none import NONE
from glmtune.tuning.ptuning import PTUNING

METHODS: dict[str, TuningMethod] = {
    "none": NONE,
    "ptuning": PTUNING,
    "lora": LORA,
    "full": FULL,
}


def get_method(name: str) -> TuningMethod:
    """The method called `name`; ParamsError with the choices for an unknown name."""
    if name not in METHODS:
        raise ParamsError(f"unknown tuning method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name]
