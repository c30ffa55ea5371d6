"""Every random number of a step comes from one seed."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int, threads: int) -> None:
    """Seed every generator and fix the number of CPU threads: both decide the last digits."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
