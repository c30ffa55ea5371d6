"""What a model family is: its texts as token ids and back, its templates, its sizes. No torch."""
