"""Detects rows that known keys mark as unsuitable for training.

label: false, kto_tag: false     an answer that people rejected (KTO)
split: test, deleted: true       another split, or withdrawn
chosen, rejected, images, …      meant for another kind of training or model
"""

from __future__ import annotations

from typing import Any

from glmtune.data.rows import RowMistake, Unwanted

# With one of these keys, `label` judges the answer: the formats of KTO data.
JUDGED = ("messages", "conversations", "completion")
SPLITS = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation", "eval", "test"),
}
DELETED = ("deleted", "is_deleted")
PREFERENCES = ("chosen", "rejected", "rejected_response", "rejected_messages")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")


def refuse_unwanted(value: Any, split: str | None) -> None:
    """Raise Unwanted for a row to leave out of this split, RowMistake for another task's row."""
    if not isinstance(value, dict):
        return
    is_judged = any(key in value for key in JUDGED)
    if value.get("kto_tag") is False or (value.get("label") is False and is_judged):
        raise Unwanted("marked as a bad answer (label: false) and left out")
    if any(value.get(key) is True for key in DELETED):
        raise Unwanted("marked as deleted and left out")
    marked = value.get("split")
    for other, names in SPLITS.items():
        if split not in (None, other) and isinstance(marked, str) and marked.lower() in names:
            raise Unwanted(f"marked as {marked.lower()} (split) and left out of {split}")
    preferences = [key for key in PREFERENCES if value.get(key)]
    if preferences:
        raise RowMistake(
            f"a preference pair ('{preferences[0]}'); expected one answer per row; keep the "
            "preferred answer under the key of your other answers, and remove the rejected one"
        )
    media = [key for key in MEDIA if value.get(key)]
    if media:
        raise RowMistake(
            f"not only text ('{media[0]}'); expected text only, since these models read nothing "
            "else; remove the row, or the column if the text makes sense without it"
        )
