"""The types of params.yaml's values: numbers in a range, strings of a limited length.

Our own checks carry the end of their message; `sentences.py` has those of pydantic's checks.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


def _whole_or_null(value: Any) -> Any:
    if value is not None and type(value) is not int:
        raise PydanticCustomError("whole_or_null", "expected a whole number or null")
    return value


def _packable(bits: int | None) -> int | None:
    if bits not in (None, 8, 4):
        raise PydanticCustomError("packable", "expected one of null, 8, 4")
    return bits


def _names_or_all(value: Any) -> Any:
    if not isinstance(value, list) and value != "all-linear":
        raise PydanticCustomError("names_or_all", 'expected a list of names, or "all-linear"')
    return value


def _whole_or(word: str, value: Any) -> Any:
    if type(value) is not int and value != word:
        raise PydanticCustomError("whole_or_word", f'expected a whole number, or "{word}"')
    return value


def _count_or_word(value: Any) -> str:
    return "word" if isinstance(value, str) else "count"


def _each_once(items: list[Any]) -> list[Any]:
    if len(set(items)) < len(items):
        raise PydanticCustomError("each_once", "expected no duplicates")
    return items


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


# A number kept as written: a float would write 32.0 into results where params.yaml has 32.
AS_WRITTEN = WrapValidator(_as_written)

Count = Annotated[int, Field(ge=1)]
Limit = Annotated[Count | None, BeforeValidator(_whole_or_null)]
Bits = Annotated[
    int | None,
    BeforeValidator(_whole_or_null),
    AfterValidator(_packable),
    Field(json_schema_extra={"enum": [None, 8, 4]}),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Seeds = Annotated[
    list[Seed],
    AfterValidator(_each_once),
    Field(max_length=1000, json_schema_extra={"uniqueItems": True}),
]
TokenLimit = Annotated[int, Field(ge=8)]
Share = Annotated[float, Field(ge=0, le=1), AS_WRITTEN]
PositiveShare = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]
# Of a whole of which something else must be left.
PartialShare = Annotated[float, Field(gt=0, lt=1), AS_WRITTEN]
ShareBelowAll = Annotated[float, Field(ge=0, lt=1), AS_WRITTEN]
Dropout = Annotated[float, Field(ge=0, lt=1), AS_WRITTEN]
LearningRate = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]
Positive = Annotated[float, Field(gt=0), AS_WRITTEN]
NotNegative = Annotated[float, Field(ge=0), AS_WRITTEN]
AtLeastOne = Annotated[float, Field(ge=1), AS_WRITTEN]
Text = Annotated[str, Field(min_length=1)]
Targets = Annotated[
    Annotated[list[Text], Field(min_length=1), Tag("names")]
    | Annotated[Literal["all-linear"], Tag("all")],
    Discriminator(lambda value: "names" if isinstance(value, list) else "all"),
    BeforeValidator(_names_or_all),
]
CountOrAuto = Annotated[
    Annotated[Count, Tag("count")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(_count_or_word),
    BeforeValidator(partial(_whole_or, "auto")),
]
CountOrAll = Annotated[
    Annotated[Count, Tag("count")] | Annotated[Literal["all"], Tag("word")],
    Discriminator(_count_or_word),
    BeforeValidator(partial(_whole_or, "all")),
]
# Becomes a command-line flag, whose length the operating system limits.
ShortText = Annotated[str, Field(min_length=1, max_length=1000)]
