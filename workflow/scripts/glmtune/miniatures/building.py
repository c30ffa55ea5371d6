"""Build a miniature: a tiny model of a family's real architecture, pre-trained on the grammar.

It lists attributes literally and knows some ad copy and some general questions, so that tuning it
shows the same effects as tuning a 6B model, in seconds and without a download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmtune.checkpoints.building import build_model
from glmtune.checkpoints.saving import save_model
from glmtune.checkpoints.sources import open_tokenizer
from glmtune.families.registry import get_family
from glmtune.families.tokenized import from_examples
from glmtune.miniatures.corpus import corpus, write_vocabulary
from glmtune.miniatures.settings import ModelSettings
from glmtune.seeding import seed_everything
from glmtune.training.settings import TrainingSettings
from glmtune.training.train import train

# Training settings that nobody needs to choose for the pre-training.
SCHEDULE: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.05,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "optimizer": "adamw",
    "gradient_checkpointing": False,
    "logging_steps": 50,
    "save_steps": 300,
    "eval_steps": None,
    "keep_best": False,
    "early_stopping_patience": None,
}
# It averages over fewer steps than the default; 0.95 was measurably worse.
ADAM_BETA2 = 0.98
NO_LIMITS = {"max_source_tokens": 512, "max_target_tokens": 512}


def build_miniature(settings: ModelSettings, folder: Path, work: Path) -> None:
    """Write a trained miniature with its vocabulary into the empty folder `folder`.

    `work` keeps the checkpoints from which a killed run resumes.
    """
    size = settings.miniature
    assert size is not None, "a miniature has its settings"
    assert settings.torch_threads is not None, "and its number of threads"
    family = get_family(settings.family)
    seed_everything(settings.seed, settings.torch_threads)
    write_vocabulary(settings, folder)
    tokenizer = open_tokenizer(folder, family.name)
    template = family.template()
    config = family.miniature_config(
        tokenizer,
        hidden_size=size.hidden_size,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
    )
    model = build_model(config, family.name)
    examples = (
        template.encode_example(tokenizer, row["content"], row["summary"], **NO_LIMITS)
        for row in corpus(settings)
    )
    schedule = TrainingSettings(
        seed=settings.seed,
        lr=size.lr,
        max_steps=size.max_steps,
        batch_size=size.batch_size,
        **SCHEDULE,
    )
    train(
        model.train(),
        from_examples(examples),
        None,
        schedule,
        pad_token_id=tokenizer.pad_token_id,
        work=work,
        adam_beta2=ADAM_BETA2,
    )
    save_model(model, folder)
