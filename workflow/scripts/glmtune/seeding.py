"""Derive every random number of a step from one seed."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
import torch.utils.deterministic


def seed_everything(seed: int, threads: int) -> None:
    """Seed every generator and fix the number of CPU threads: both affect the last digits."""
    # cuBLAS is deterministic only with a workspace of fixed size, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # It would fill every new tensor, only to make reads of uninitialized memory deterministic.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
