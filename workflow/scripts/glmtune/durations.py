"""How long something took, as terminals and reports show it."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    """Example: 5.25 -> "5.2 s", 75 -> "1 min 15 s", 7500 -> "2 h 5 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
