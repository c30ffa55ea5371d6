"""What params.yaml may hold: each key with its type, its range or choices, and what it is for.

There are no defaults: all values are in params.yaml, which explains them in full. The JSON schema
for editors is made of these classes by `make schema`, the sentences about mistakes in
`sentences.py`.
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
    Bits,
    Count,
    Dropout,
    LearningRate,
    Limit,
    NotNegative,
    Positive,
    PositiveShare,
    Seed,
    Seeds,
    Share,
    ShortText,
    Text,
    TokenLimit,
)

# Of a key that may be left out. Null is not the same: it is a value, and checked.
ABSENT: Any = None


class Section(BaseModel):
    """A section of keys: no others than these, and each of exactly its type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class UserFiles(Section):
    """`dataset:` of the user's own files."""

    train: Text
    """The file of the training rows; a relative path counts from the repository."""
    dev: Text
    """The file of the rows that are answered and scored."""
    format: ShortText = ABSENT
    """A format of docs/data.md, when it is not recognised."""
    prompt_column: ShortText = ABSENT
    """The column of the prompts, when it has another name."""
    response_column: ShortText = ABSENT
    """The column of the answers, when it has another name."""
    history_column: ShortText = ABSENT
    """The column of earlier turns, when it has another name."""


class Sample(Section):
    """Size of the synthetic data set."""

    train_rows: Count
    """Rows to train on."""
    dev_rows: Count
    """Rows to answer and score."""


class Data(Section):
    """What is done with the rows, whatever the data set is."""

    on_bad_rows: Literal["error", "skip"]
    """Whether a row that cannot be used ends the run, or is left out and counted."""
    max_train_rows: Limit
    """Train on a random subset of so many rows; null: on all."""
    max_dev_rows: Limit
    """Answer a random subset of so many dev rows; null: all."""
    max_leakage: Share
    """Refuse the data when more than this share of the dev rows is in train, too."""
    adgen_sources: Annotated[list[ShortText], Field(max_length=16)]
    """For `adgen`: URLs or local archives to try before the known places."""


class Model(Section):
    """One entry of `models:`: a row group of the report."""

    family: Literal["chatglm-6b", "chatglm2-6b", "chatglm3-6b-base", "glm-4-9b"] = ABSENT
    """The model family; may be left out when it is the entry's name."""
    source: Text
    """`miniature`, `random`, a local folder such as ./weights, or a hub id such as owner/name."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] = ABSENT
    """The 40 digits of a hub model's commit."""
    tokenizer: Text = ABSENT
    """A folder or file with a vocabulary, for `miniature` and `random`."""
    template: Text = ABSENT
    """Another form of the prompt than the family's first."""
    config: dict[str, Any] = ABSENT
    """Values of the configuration to override, for `random`."""


class Miniature(Section):
    """How the miniatures are built and trained before any fine-tuning."""

    vocab_size: Annotated[int, Field(ge=64)]
    """Tokens of the miniature's own vocabulary."""
    hidden_size: Annotated[int, Field(ge=16, multiple_of=8)]
    """Width of the model; a multiple of 8 x num_heads."""
    num_layers: Count
    """Layers of the model."""
    num_heads: Count
    """Attention heads of each layer."""
    rows: Count
    """Rows to train on."""
    literal_share: Share
    """The share of rows that list the attributes literally."""
    general_share: Share
    """The share of general questions and answers."""
    lr: LearningRate
    """Peak learning rate."""
    max_steps: Count
    """Steps of the optimizer."""
    batch_size: Count
    """Rows of each step."""


class Training(Section):
    """How every method trains unless its entry says otherwise."""

    max_steps: Count
    """Steps of the optimizer."""
    batch_size: Count
    """Rows that are computed at once."""
    gradient_accumulation_steps: Count
    """Batches of each step: as if one batch were so many times larger."""
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """How the learning rate falls after its peak."""
    warmup_ratio: Share
    """The share of the steps in which the learning rate rises to its peak."""
    weight_decay: NotNegative
    """How strongly trained weights are pulled to 0."""
    max_grad_norm: Positive
    """Longer gradients are shortened to this norm."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor"]
    """AdamW, AdamW with moments in 8 bits, or Adafactor, which keeps next to none."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logging_steps: Count
    """The loss is logged every so many steps."""
    save_steps: Count
    """A killed training resumes from the last multiple of so many steps."""
    eval_steps: Limit
    """Measure the dev loss every so many steps; null: at the end only."""
    keep_best: bool
    """Keep the weights of the lowest dev loss instead of the last ones."""
    early_stopping_patience: Limit
    """Stop after so many dev losses without a lower one; null: never."""


def _may_be_absent(field: FieldInfo) -> tuple[Any, FieldInfo]:
    field = copy(field)
    field.default = ABSENT
    return field.annotation, field


_overrides: Any = {name: _may_be_absent(field) for name, field in Training.model_fields.items()}
# An entry of `methods:` that trains: it may override each key of `training`.
TrainedEntry: Any = create_model("TrainedEntry", __base__=Section, **_overrides)


class Untuned(Section):
    """The untuned model: the baseline every other row is compared with."""

    method: Literal["none"] = ABSENT
    """The method; may be left out when it is the entry's name."""


class PTuning(TrainedEntry):
    """P-Tuning v2: a trained prefix of keys and values in every layer; the base stays frozen."""

    method: Literal["ptuning"] = ABSENT
    """The method; may be left out when it is the entry's name."""
    lr: LearningRate = ABSENT
    """Peak learning rate, if not the one at the top of the file."""
    pre_seq_len: Count = ABSENT
    """Length of the prefix, if not the one at the top of the file."""
    prefix_projection: bool
    """Reparametrise the prefix by a small network."""
    prefix_dropout: Dropout
    """The share of the prefix that a training step leaves out."""


class LoRA(TrainedEntry):
    """LoRA: trained products of two narrow matrices beside frozen weights."""

    method: Literal["lora"] = ABSENT
    """The method; may be left out when it is the entry's name."""
    lr: LearningRate
    """Peak learning rate."""
    rank: Count
    """Width of the matrices: larger has more capacity and takes more memory."""
    alpha: Positive
    """Their product is scaled by alpha / rank."""
    dropout: Dropout
    """The share of their inputs that a training step leaves out."""
    target_modules: Annotated[list[Text], Field(min_length=1)]
    """Names of the modules that get them, e.g. query_key_value."""


class FullTuning(TrainedEntry):
    """Every weight is trained."""

    method: Literal["full"] = ABSENT
    """The method; may be left out when it is the entry's name."""
    lr: LearningRate
    """Peak learning rate."""


# What an entry of `methods:` may hold, by its method.
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
    """Longer answers are cut."""
    batch_size: Count | Literal["auto"]
    """Rows that are answered at once; `auto`: what the device's memory holds, up to 256."""
    do_sample: bool
    """Sample each token instead of taking the likeliest."""
    top_p: PositiveShare
    """Draw from the likeliest tokens that together have this probability."""
    temperature: Positive
    """Lower: likelier tokens; higher: more variety."""


def _kind_of_dataset(value: Any) -> str:
    return "files" if isinstance(value, dict | UserFiles) else "name"


class ParamsFile(Section):
    """All of params.yaml."""

    lr: LearningRate
    """Peak learning rate of `ptuning`."""
    pre_seq_len: Count
    """Length of the prefix of `ptuning`."""
    seed: Seed
    """Seeds the sample data, subsets, the miniatures, the training order and sampling."""
    seeds: Seeds
    """Tune with each of these seeds instead."""
    torch_threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads inside one step; they can change the last digits."""
    dataset: Annotated[
        Annotated[Literal["sample", "adgen"], Tag("name")] | Annotated[UserFiles, Tag("files")],
        Discriminator(_kind_of_dataset),
    ]
    """The synthetic data set, AdvertiseGen, or files of your own."""
    sample: Sample
    data: Data
    max_source_tokens: TokenLimit
    """Longer prompts are cut to so many tokens, special tokens included."""
    max_target_tokens: TokenLimit
    """Longer answers are cut to so many tokens, special tokens included."""
    long_history: Literal["shorten", "official"]
    """Whether a too long conversation loses its oldest turns or is cut as THUDM's scripts do."""
    models: Annotated[dict[str, Model], Field(min_length=1)]
    """The models, by names of your choice."""
    miniature: Miniature
    methods: Annotated[dict[str, Method], Field(min_length=1)]
    """The tuning methods, by names of your choice."""
    training: Training
    quantization_bit: Bits
    """Hold the frozen base in so many bits while tuning."""
    generation: Generation
    protocol: Text
    """How answers are decoded for scoring, and whose definition of the scores is shown."""
    examples: list[Text]
    """Your own prompts, answered by every model and method."""

    @field_validator("methods", mode="before")
    @classmethod
    def _name_is_method(cls, methods: Any) -> Any:
        """Give each entry that names no method its own name as its method."""
        if not isinstance(methods, Mapping):
            return methods
        return {
            name: {"method": name, **entry} if isinstance(entry, Mapping) else entry
            for name, entry in methods.items()
        }

    @field_serializer("methods", mode="wrap")
    def _leave_out_names(self, methods: Any, dump: SerializerFunctionWrapHandler) -> Any:
        """Leave out each method that is its entry's name, as the file may do."""
        return {
            name: {key: value for key, value in entry.items() if (key, value) != ("method", name)}
            for name, entry in dump(methods).items()
        }
