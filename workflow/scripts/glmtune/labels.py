"""Labels of tokens, as the families write them and the loss reads them."""

IGNORED_LABEL = -100
"""The label of a token that the model is not trained to write; PyTorch's own default."""
