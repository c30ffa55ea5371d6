"""glmtune: fine-tune the ChatGLM family and know which parameters produced which number.

    load_model(path, *, prefix=None, adapter=None, dtype=None, device=None)
    load_tokenizer(path)
    chat(model, tokenizer, query, history=(), *, max_new_tokens=512, do_sample=False, ...)

`load_model` takes the device and dtype of the workflow's steps unless told otherwise, and `chat`
answers where the model is. All are imported on first use, because torch and transformers take
seconds to import and most steps of the workflow need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmtune.checkpoints.loading import load_model
    from glmtune.families.loading import load_tokenizer
    from glmtune.generation.chat import chat

__all__ = ["chat", "load_model", "load_tokenizer"]
__version__ = "0.1.1"


# Where each name lives. Texts, so that a step which imports neither does not depend on their code.
_HOMES = {
    "chat": "glmtune.generation.chat",
    "load_model": "glmtune.checkpoints.loading",
    "load_tokenizer": "glmtune.families.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'glmtune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
