"""The processes that train together: which one this is, what they share, what they tell each other.

torchrun starts them and numbers them by environment variables; a process alone has none of these.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from glmtune.training.settings import ZERO_STAGES

T = TypeVar("T")

# Bytes: what DeepSpeed sends and holds whole at once; smaller weights than KEPT stay whole.
BUCKET, KEPT = 2**28, 2**16


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def count_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def machines() -> int:
    """On how many machines they run."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def use_own_gpu() -> None:
    """Let CUDA, where there is any, use this process's card of its machine's."""
    if torch.cuda.is_available() and count() > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def of_first(value: T) -> T:
    """The first process's value."""
    if count() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def wait_for_all() -> None:
    """Return once every process has called this."""
    gathered(None)


def is_shard(weight: torch.nn.Parameter) -> bool:
    """Whether this process holds only a part of the weight."""
    return hasattr(weight, "ds_id")


def has_lost_a_peer(error: BaseException) -> bool:
    """Whether an error only says that another process has gone, which has its own reason."""
    return isinstance(error, distributed.DistError) or "closed by peer" in str(error)


@contextmanager
def whole(weights: Iterable[torch.nn.Parameter], *, written: bool = False) -> Iterator[None]:
    """Meanwhile each of these weights is complete here, even if it is sharded.

    Every process has to enter. If `written`, what the first process writes into them stays.
    """
    sharded = [weight for weight in weights if is_shard(weight)]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=0 if written else None):
        yield


def deepspeed_config(sharding: str, dtype: str) -> dict[str, Any] | None:
    """DeepSpeed's configuration, which TrainingArguments complete; None without sharding.

    Weights and what is sent stay in float32 and products are autocast to `dtype`, as with one
    process.
    """
    stage = ZERO_STAGES[sharding]
    if not stage:
        return None
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if stage == 3:  # else each casts all weights and keeps them to the end of a pass
        torch.set_autocast_cache_enabled(False)
    # It warns of steps with several passes, which DeepSpeed counts and accelerate does not.
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)
    # It is only for CPUs and compiled at the first start; a killed compilation blocks later ones.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "torch_autocast": {
            "enabled": dtype != "float32",
            "dtype": dtype,
            "lower_precision_safe_modules": [],  # whose gradients would be sent in `dtype`
        },
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": BUCKET // 4,
            "allgather_bucket_size": BUCKET // 4,
            "stage3_prefetch_bucket_size": BUCKET // 4,
            "stage3_max_live_parameters": BUCKET,
            "stage3_max_reuse_distance": BUCKET,
            "stage3_param_persistence_threshold": KEPT // 4,
        },
    }
