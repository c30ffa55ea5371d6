"""What the doctor sees, one line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was seen; `fix` says what to do when it is not as it should be."""

    what: str
    fix: str = ""
    stops: bool = False

    def __str__(self) -> str:
        sign = "✗" if self.stops else "!" if self.fix else "✓"
        return f"{sign} {self.what}" + (f"\n    → {self.fix}" if self.fix else "")
