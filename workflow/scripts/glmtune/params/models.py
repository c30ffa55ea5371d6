"""The keys of params.yaml: the type, the range or choices, and the description of each.

There are no defaults: params.yaml sets every value and explains it in full. `make schema` writes
the JSON schema for editors from these classes; `sentences.py` words the mistakes that they find.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    create_model,
    field_serializer,
    field_validator,
)
from pydantic.fields import FieldInfo

from glmtune.params.ranges import (
    AtLeastOne,
    Bits,
    Count,
    CountOrAll,
    CountOrAuto,
    Dropout,
    LearningRate,
    Limit,
    NotNegative,
    PartialShare,
    Positive,
    PositiveShare,
    Seed,
    Seeds,
    Share,
    ShareBelowAll,
    ShortText,
    Targets,
    Text,
    TokenLimit,
)

# For an optional key. Null is different: it is a value and is checked.
ABSENT: Any = None


class Section(BaseModel):
    """A section that accepts only its own keys, each with exactly its type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Part(Section):
    """A part of the training rows."""

    path: Text
    """A file, or one of `sample`, `adgen` and `general`, the project's general questions."""
    share: ShareBelowAll = ABSENT
    """Share of all training rows to draw from it; without it, all of its rows are used."""


def _kind_of_train(value: Any) -> str:
    return "parts" if isinstance(value, list) else "path"


def _kind_of_split(value: Any) -> str:
    return "share" if isinstance(value, int | float) else "path"


Parts = Annotated[list[Part], Field(min_length=1, max_length=100)]
Train = Annotated[
    Annotated[Text, Tag("path")] | Annotated[Parts, Tag("parts")], Discriminator(_kind_of_train)
]
Split = Annotated[
    Annotated[Text, Tag("path")] | Annotated[PartialShare, Tag("share")],
    Discriminator(_kind_of_split),
]


class UserFiles(Section):
    """`dataset:` with the user's own files."""

    train: Train
    """File with the training rows, or a list of parts; relative paths start at the repository."""
    dev: Split
    """File with the dev rows, which are answered and scored; a number holds out that share."""
    valid: Split = ABSENT
    """Rows that `keep_best` and early stopping use instead of dev: a file or a share."""
    format: ShortText = ABSENT
    """A format of docs/data.md, if it is not recognised."""
    prompt_column: ShortText = ABSENT
    """Column of the prompts, if it has another name."""
    response_column: ShortText = ABSENT
    """Column of the answers, if it has another name."""
    history_column: ShortText = ABSENT
    """Column of the earlier turns, if it has another name."""


class Sample(Section):
    """Size of the synthetic data set."""

    train_rows: Count
    """Training rows."""
    dev_rows: Count
    """Dev rows, which are answered and scored."""


class Data(Section):
    """Options for any data set."""

    on_bad_rows: Literal["error", "skip"]
    """For unusable rows. `error`: stop with a message; `skip`: drop, count and report them."""
    max_train_rows: Limit
    """Train on a random subset of this many rows; null: all rows."""
    max_dev_rows: Limit
    """Evaluate a random subset of this many dev rows; null: all rows."""
    max_leakage: Share
    """Refuse the data if more than this share of the dev rows also appears in train."""
    adgen_sources: Annotated[list[ShortText], Field(max_length=16)]
    """For `adgen`: URLs or local archives to try before the known mirrors."""


class Model(Section):
    """One entry of `models:`: a group of rows in the report."""

    family: Literal["chatglm-6b", "chatglm2-6b", "chatglm3-6b-base", "glm-4-9b"] = ABSENT
    """The model family; optional if it is the entry's name."""
    source: Text
    """`miniature`, `random`, a folder such as ./weights, a hub id, or modelscope:owner/name."""
    revision: ShortText = ABSENT
    """Of a hub id its commit, a hash of 40 digits; on ModelScope a commit, tag or branch."""
    tokenizer: Text = ABSENT
    """Folder or file with a vocabulary, for `miniature` and `random`."""
    template: Text = ABSENT
    """Prompt template, if not the family's default."""
    config: dict[str, Any] = ABSENT
    """Configuration values to override, for `random`."""


class Miniature(Section):
    """How the miniatures are built and trained before any fine-tuning."""

    vocab_size: Annotated[int, Field(ge=64)]
    """Size of the miniature's own vocabulary."""
    hidden_size: Annotated[int, Field(ge=16, multiple_of=8)]
    """Hidden size; a multiple of 8 x num_heads."""
    num_layers: Count
    """Number of layers."""
    num_heads: Count
    """Attention heads per layer."""
    rows: Count
    """Training rows."""
    literal_share: Share
    """Share of the rows that list the attributes literally."""
    general_share: Share
    """Share of the rows that are general questions and answers."""
    lr: LearningRate
    """Peak learning rate."""
    max_steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Rows per step."""


class Launcher(Section):
    """How many processes train together, and what is sharded across them."""

    processes: CountOrAll
    """Processes of each machine, each with a GPU of its own if there are any; `all`: every GPU."""
    sharding: Literal["none", "zero2", "zero3"]
    """What is sharded. zero2: gradients and optimizer; zero3: the weights as well."""


class Training(Section):
    """Training defaults; an entry of `methods:` may override them."""

    max_steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Rows per forward and backward pass."""
    gradient_accumulation_steps: Count
    """Batches per optimizer step: the effective batch is this many times larger."""
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """Schedule of the learning rate after its peak."""
    warmup_ratio: Share
    """Share of the steps in which the learning rate rises to its peak."""
    weight_decay: NotNegative
    """Weight decay: how strongly trained weights are pulled towards 0."""
    max_grad_norm: Positive
    """Gradients are clipped to this norm."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor"]
    """AdamW, AdamW with 8-bit moments, or Adafactor, which stores almost no moments."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logging_steps: Count
    """Steps between two entries of the loss curve."""
    save_steps: Count
    """Steps between two checkpoints; a killed training resumes from the last one."""
    eval_steps: Limit
    """Steps between two measurements of the dev loss; null: only at the end."""
    keep_best: bool
    """Keep the weights with the lowest dev loss instead of the last ones."""
    early_stopping_patience: Limit
    """Stop after this many measurements without a lower dev loss; null: never."""
    report_to: list[Literal["tensorboard", "swanlab", "wandb"]]
    """Programs that show the losses while training runs; changes no result and reruns nothing."""
    launcher: Launcher
    """Processes that train together. Changes speed and memory: reruns nothing."""


def _may_be_absent(field: FieldInfo) -> tuple[Any, FieldInfo]:
    field = copy(field)
    field.default = ABSENT
    return field.annotation, field


_overrides: Any = {name: _may_be_absent(field) for name, field in Training.model_fields.items()}
# An entry of `methods:` that trains: it may override any key of `training`.
TrainedEntry: Any = create_model("TrainedEntry", __base__=Section, **_overrides)


class Untuned(Section):
    """The untuned model: the baseline every other row is compared with."""

    method: Literal["none"] = ABSENT
    """The method; optional if it is the entry's name."""


class PTuning(TrainedEntry):
    """P-Tuning v2: a trained prefix of keys and values in every layer; the base stays frozen."""

    method: Literal["ptuning"] = ABSENT
    """The method; optional if it is the entry's name."""
    lr: LearningRate = ABSENT
    """Peak learning rate, instead of the top-level `lr`."""
    pre_seq_len: Count = ABSENT
    """Length of the prefix, instead of the top-level `pre_seq_len`."""
    prefix_projection: bool
    """Reparametrise the prefix with a small network."""
    prefix_dropout: Dropout
    """Dropout rate of the prefix during training."""


class LoRA(TrainedEntry):
    """LoRA: trained low-rank updates of frozen weights."""

    method: Literal["lora"] = ABSENT
    """The method; optional if it is the entry's name."""
    lr: LearningRate
    """Peak learning rate."""
    rank: Count
    """Rank of the updates. Higher: more capacity and memory."""
    alpha: Positive
    """The updates are scaled by alpha / rank."""
    dropout: Dropout
    """Dropout rate of the adapter inputs during training."""
    target_modules: Targets
    """Names of the modules to adapt, e.g. query_key_value; `all-linear`: all but the output."""
    rslora: bool = ABSENT
    """Scale by alpha / sqrt(rank) instead; default false."""
    dora: bool = ABSENT
    """Train the length of each row of a weight apart from its direction; default false."""
    init: Literal["default", "pissa", "olora"] = ABSENT
    """Start: an update of zero (default), principal components (pissa), QR (olora)."""
    lora_plus_ratio: AtLeastOne = ABSENT
    """LoRA+: the learning rate of B is this many times that of A; default 1."""


class FullTuning(TrainedEntry):
    """Full fine-tuning: all weights are trained."""

    method: Literal["full"] = ABSENT
    """The method; optional if it is the entry's name."""
    lr: LearningRate
    """Peak learning rate."""


# The keys of an entry of `methods:`, by its method.
METHODS: dict[str, type[Section]] = {
    "none": Untuned,
    "ptuning": PTuning,
    "lora": LoRA,
    "full": FullTuning,
}
Method = Annotated[Untuned | PTuning | LoRA | FullTuning, Field(discriminator="method")]


class Generation(Section):
    """How texts are generated."""

    max_new_tokens: Count
    """Longest answer, in tokens."""
    batch_size: CountOrAuto
    """Rows generated at once; `auto`: as many as the device's memory holds, up to 256."""
    do_sample: bool
    """Sample each token instead of taking the most likely one."""
    top_p: PositiveShare
    """Sample from the most likely tokens that together have this probability."""
    temperature: Positive
    """Sampling temperature. Lower: more predictable; higher: more varied."""


def _kind_of_dataset(value: Any) -> str:
    return "files" if isinstance(value, dict | UserFiles) else "name"


def _kind_of_examples(value: Any) -> str:
    return "list" if isinstance(value, list) else "name"


class ParamsFile(Section):
    """All of params.yaml."""

    lr: LearningRate
    """Peak learning rate of `ptuning`."""
    pre_seq_len: Count
    """Length of the prefix of `ptuning`."""
    seed: Seed
    """Seed of the sample data, subsets, miniatures, the training order and sampling."""
    seeds: Seeds
    """Train once with each of these seeds instead."""
    torch_threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads of each step; can change the last digits of results."""
    dataset: Annotated[
        Annotated[Literal["sample", "adgen"], Tag("name")] | Annotated[UserFiles, Tag("files")],
        Discriminator(_kind_of_dataset),
    ]
    """The synthetic data set, AdvertiseGen, or files of your own."""
    sample: Sample
    data: Data
    max_source_tokens: TokenLimit
    """Longest prompt in tokens, special tokens included; longer ones are truncated."""
    max_target_tokens: TokenLimit
    """Longest answer in tokens, special tokens included; longer ones are truncated."""
    long_history: Literal["shorten", "official"]
    """Overlong conversations: `shorten` drops whole old turns, `official` truncates as THUDM."""
    models: Annotated[dict[str, Model], Field(min_length=1)]
    """The models, by names of your choice."""
    miniature: Miniature
    methods: Annotated[dict[str, Method], Field(min_length=1)]
    """The tuning methods, by names of your choice."""
    training: Training
    quantization_bit: Bits
    """Bits per weight of the frozen base model during training; null: not quantized."""
    generation: Generation
    protocol: Text
    """How answers are decoded for scoring, and whose metric definitions the report shows."""
    examples: Annotated[
        Annotated[Literal["auto"], Tag("name")] | Annotated[list[Text], Tag("list")],
        Discriminator(_kind_of_examples),
    ]
    """Your own prompts, answered by every model and method; `auto`: some that suit the data set."""

    @field_validator("methods", mode="before")
    @classmethod
    def _name_is_method(cls, methods: Any) -> Any:
        """Set the method of each entry that names none to the entry's name."""
        if not isinstance(methods, Mapping):
            return methods
        return {
            name: {"method": name, **entry} if isinstance(entry, Mapping) else entry
            for name, entry in methods.items()
        }

    @field_serializer("methods", mode="wrap")
    def _leave_out_names(self, methods: Any, dump: SerializerFunctionWrapHandler) -> Any:
        """Omit each method that is its entry's name, as the file may."""
        return {
            name: {key: value for key, value in entry.items() if (key, value) != ("method", name)}
            for name, entry in dump(methods).items()
        }
