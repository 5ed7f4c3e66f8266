"""Rules by which the servers update what they hold, and the learning rate over the steps of a run.

The servers compute as `torch.optim.AdamW` (decoupled weight decay), `torch.optim.Adagrad` and `torch.optim.SGD`
without momentum do, in float32. One schedule holds for the whole run; a tensor's own rate is a multiple of it.
"""

from __future__ import annotations

import dataclasses
import math

from . import _native
from .checks import whole
from .errors import InvalidError


_ROW_WISE = {_native.OptimizerKind.adam: _native.OptimizerKind.row_adam,
             _native.OptimizerKind.adagrad: _native.OptimizerKind.row_adagrad}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup` steps to `peak`, then a cosine to `end` at step `steps`, where it stays."""

    peak: float
    warmup: int = 0
    end: float = 0.0
    steps: int | None = None  # None: the run's

    def native(self, run_steps: int) -> _native.RateSchedule:
        """As servers know it, for a run of so many steps."""
        steps = run_steps if self.steps is None else self.steps
        whole("steps", steps, 1)
        whole("warmup", self.warmup, 0)
        if self.peak < 0 or not 0 <= self.end <= self.peak or not 0 <= self.warmup <= steps:
            raise InvalidError(f"learning rate: {self} needs 0 <= end <= peak and 0 <= warmup <= {steps} steps")
        rates = _native.RateSchedule()
        rates.peak = self.peak
        # Servers have ceil(ratio * steps) of them: half a step less is safe from rounding.
        rates.warmup_ratio = max(0.0, (self.warmup - 0.5) / steps)
        rates.min_ratio = self.end / self.peak if self.peak > 0 else 1.0
        rates.steps = 0 if self.steps is None else self.steps
        return rates


def cosine(peak: float, warmup: int = 0, end: float | None = None, steps: int | None = None) -> Schedule:
    """Up to `peak` in `warmup` steps, then down a cosine to `end` (a hundredth of the peak) at the run's last step,
    or at `steps`."""
    return Schedule(peak, warmup, peak / 100 if end is None else end, steps)


def constant(rate: float, warmup: int = 0) -> Schedule:
    """Always `rate`, after `warmup` steps of linear rise."""
    return Schedule(rate, warmup, rate)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What all have. `lr`: a number, `cosine(...)` or `constant(...)`."""

    lr: float | Schedule
    weight_decay: float = 0.0

    def schedule(self) -> Schedule:
        """Of the learning rate."""
        return self.lr if isinstance(self.lr, Schedule) else constant(self.lr)

    def native(self, lazy: bool = False, row_wise: bool = False) -> _native.OptimizerSettings:
        """As servers know it. `lazy`: nothing happens to rows in steps that did not hit them. `row_wise`: one number
        for the squares of many columns."""
        settings = _native.OptimizerSettings()
        settings.sparse_update = _native.SparseUpdate.lazy if lazy else _native.SparseUpdate.exact
        self._fill(settings)
        if row_wise:
            if settings.kind not in _ROW_WISE:
                raise InvalidError(f"row_wise: {type(self).__name__} keeps no squares; use AdamW or Adagrad")
            settings.kind = _ROW_WISE[settings.kind]
        return settings

    def _fill(self, settings: _native.OptimizerSettings) -> None:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay; defaults as of torch.optim.AdamW."""

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def _fill(self, settings: _native.OptimizerSettings) -> None:
        settings.kind = _native.OptimizerKind.adam
        try:
            settings.beta1, settings.beta2 = self.betas
        except (TypeError, ValueError):
            raise InvalidError(f"betas: {self.betas!r} are not two numbers") from None
        settings.eps = self.eps


@dataclasses.dataclass(frozen=True)
class Adagrad(Optimizer):
    """As torch.optim.Adagrad, with decoupled weight decay."""

    eps: float = 1e-10

    def _fill(self, settings: _native.OptimizerSettings) -> None:
        settings.kind = _native.OptimizerKind.adagrad
        settings.eps = self.eps


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Plain gradient descent, with decoupled weight decay."""

    def _fill(self, settings: _native.OptimizerSettings) -> None:
        settings.kind = _native.OptimizerKind.sgd


def checked(optimizer: Optimizer) -> Optimizer:
    """The optimizer; InvalidError for what is none (torch.optim's classes among them)."""
    if not isinstance(optimizer, Optimizer) or type(optimizer) is Optimizer:
        raise InvalidError(f"optimizer: {optimizer!r} is none of memoryformer's AdamW, Adagrad and SGD; the servers "
                           "update what they hold")
    if not math.isfinite(optimizer.schedule().peak):
        raise InvalidError(f"optimizer: {optimizer!r} has no finite learning rate")
    return optimizer
