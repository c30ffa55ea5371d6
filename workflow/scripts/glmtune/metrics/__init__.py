"""Scores generated texts against their references under every public definition at once.

    predictions   a predictions file, checked line by line
    pairs         a prediction with its reference; segmentation, once per text
    bleu, rouge   the underlying counts and scores
    scorings      one entry per definition of BLEU-4 and ROUGE
    statistics    properties of the texts
    summary       all scores and statistics of one file
    table         terminal output

docs/metrics.md explains each number. Knows nothing about models or tuning methods; jieba, nltk and
rouge_chinese are imported on first use.
"""
