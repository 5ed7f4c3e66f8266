"""Random numbers that follow from a place in the run, whoever computes there."""

from __future__ import annotations

import random

import numpy as np
import torch

_MASK = (1 << 64) - 1


def _mixed(x: int) -> int:
    """A bijection of 64 bits whose values look drawn by chance (SplitMix64's finaliser; Steele, Lea, Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def seed_all(*place: int) -> None:
    """Seeds the generators of torch (all devices), NumPy and Python by some numbers."""
    key = 0
    for number in place:
        key = _mixed(key ^ _mixed(number & _MASK))
    torch.manual_seed(key >> 1)
    np.random.seed(key & 0xFFFFFFFF)
    random.seed(key)
