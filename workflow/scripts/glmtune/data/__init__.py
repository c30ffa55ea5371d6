"""Data sets: users' files read strictly, and the normalised folder that all later steps read.

    text, json_values, tables   bytes -> text -> values
    containers                  which of these a file is
    messages, formats           a value -> a row
    recognising                 which format a file has
    reading                     a user's file, checked whole
    leakage, card, splits       the normalised folder, and what its rows are like

Knows nothing about tokenizers.
"""

from glmtune.data.formats import FORMATS, Columns
from glmtune.data.reading import ReadOptions, UserFile, check_file, read_rows
from glmtune.data.rows import Row
from glmtune.data.splits import FILES, DataSet, Subset, write_dataset

__all__ = [
    "FILES",
    "FORMATS",
    "Columns",
    "DataSet",
    "ReadOptions",
    "Row",
    "Subset",
    "UserFile",
    "check_file",
    "read_rows",
    "write_dataset",
]
