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
