"""Scores of generated texts against their references, by every public definition at once.

    predictions   a predictions file, checked line by line
    normal_form   one form for texts that a reader would call the same
    pairs         a prediction beside its reference; segmentation, once a text
    bleu, rouge   what the definitions count
    scorings      one entry a definition of BLEU-4 and ROUGE
    statistics    what the texts are like
    summary       all of it for one file
    table         how a terminal shows it

docs/metrics.md says what each number means. Nothing here knows about models or tuning methods, and
jieba, nltk and rouge_chinese are imported when first needed.
"""

from glmtune.metrics.normal_form import normal_form
from glmtune.metrics.pairs import Pair, asked_values
from glmtune.metrics.predictions import read_predictions
from glmtune.metrics.protocols import DEFAULT_PROTOCOL, PROTOCOLS, get_protocol
from glmtune.metrics.scorings import METRICS, SCORINGS
from glmtune.metrics.statistics import STATISTICS
from glmtune.metrics.summary import FileScores, score_predictions
from glmtune.metrics.table import describe_scores

__all__ = [
    "DEFAULT_PROTOCOL",
    "METRICS",
    "PROTOCOLS",
    "SCORINGS",
    "STATISTICS",
    "FileScores",
    "Pair",
    "asked_values",
    "describe_scores",
    "get_protocol",
    "normal_form",
    "read_predictions",
    "score_predictions",
]
