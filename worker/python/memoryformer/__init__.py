"""PyTorch models whose parameters and tables are on MemoryFormer's servers; docs/PYTORCH.md of the project."""

from ._native import StepRecord
from .embedding_bag import Embedding, EmbeddingBag
from .errors import Error, InvalidError, OtherRunError
from .keyed_rows import cross, key, keys
from .memory_layer import Hash, Hashed, Lookup, MemoryLayer
from .optimizers import SGD, Adagrad, AdamW, Optimizer, Schedule, constant, cosine
from .reader import Reader
from .run import Embedded, Run, embedded
from .work import Work

__all__ = ["SGD", "Adagrad", "AdamW", "Embedded", "Embedding", "EmbeddingBag", "Error", "Hash", "Hashed",
           "InvalidError", "Lookup", "MemoryLayer", "Optimizer", "OtherRunError", "Reader", "Run", "Schedule", "StepRecord",
           "Work", "constant", "cosine", "cross", "embedded", "key", "keys"]
