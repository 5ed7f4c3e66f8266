"""The model of a configuration in plain PyTorch on a GPU, all tables there: what training is without this project.

    gpu_torch.py --config FILE --data FILE.bin [--layers dense,memory] [--seconds N] [--device cuda|cpu]

Reuses the reference (tests/reference/memoryformer.py). Memory layers are embedding_bag, attention and RMSNorm are
PyTorch's own where it has them, matrix products may be TF32, the optimizer is its fused AdamW, nothing is compiled. A step is forward, backward,
the norm clipped at 1 and the update, for as many tokens as a step of the configuration has: in one batch if
that fits the GPU's memory, which is fastest, else in 2, 4, ... parts. Prints a line of JSON per kind of layer when it is done:
{"layers", "tokens_per_second" of the median step, "parts", "steps", "losses"}. --device cpu is to try the script.
Exit code 77: there is no PyTorch here, or it sees no GPU.
"""

import argparse
import json
import os
import statistics
import sys
import time
import tomllib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))

try:
    import numpy as np
    import torch
    import torch.nn.functional as functional
except ImportError as error:
    print(f"gpu_torch.py: {error}", file=sys.stderr)
    sys.exit(77)

from memoryformer import EPS, Config, Indices, MemoryFormer
from torch_training import initial

WARM_UP = 2  # steps: kernels are chosen and memory is taken in the first ones
STEPS = 3    # at least, that are timed


class GpuMemoryFormer(MemoryFormer):
    """The same model on a device, for one probe: without the reference's sorting of neighbours."""

    def __init__(self, config: Config, device: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(config, initial(config), dtype)
        if config.probes != 1:
            raise ValueError("probes: only 1 is done here")
        self.parameters = {name: value.detach().to(device).requires_grad_(True)
                           for name, value in self.parameters.items()}

    def _memory(self, block: str, name: str, x: torch.Tensor, indices: Indices) -> torch.Tensor:
        part = f"{block}.{name.split('.')[1]}"
        tables = self.parameters[f"{part}.tables"]
        K, rows, width = tables.shape
        z = x.reshape(x.shape[0], K, -1)
        above = z.detach() >= 0
        places = (above * 2 ** torch.arange(z.shape[2])).sum(dim=2) + torch.arange(K) * rows
        agreement = torch.where(above, z, -z)
        weights = functional.logsigmoid(2 * agreement / self.config.temperature).sum(dim=2).exp()
        if self.config.score == "scaled":
            weights = weights * agreement.sum(dim=2)
        sums = functional.embedding_bag(places, tables.view(K * rows, width), mode="sum", per_sample_weights=weights)
        return sums + self.parameters[f"{part}.bias"]

    def _norm(self, name: str, x: torch.Tensor, kind: str | None = None) -> torch.Tensor:
        gain = self.parameters[f"{name}.weight"]
        if (kind or self.config.norm) == "rmsnorm" and hasattr(functional, "rms_norm"):  # PyTorch 2.4
            return functional.rms_norm(x, gain.shape, gain, EPS)
        return super()._norm(name, x, kind)

    def _attention(self, qkv: torch.Tensor, sequences: int, length: int) -> torch.Tensor:
        if not hasattr(functional, "scaled_dot_product_attention"):  # before PyTorch 2
            return super()._attention(qkv, sequences, length)
        heads, width = self.config.heads, self.config.d
        q, k, v = qkv.reshape(sequences, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(self._rotary(q), self._rotary(k), v, is_causal=True)
        return mixed.transpose(1, 2).reshape(sequences * length, width)


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def train_step(model: GpuMemoryFormer, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, parts: int) -> float:
    """One step over `tokens` [sequences, length + 1]; its loss before the update."""
    positions = tokens.shape[0] * (tokens.shape[1] - 1)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=tokens.device)
    for part in tokens.chunk(parts):
        loss, _ = model.loss(part[:, :-1], part[:, 1:], Indices(), reduction="sum")
        loss = loss / positions
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(list(model.parameters.values()), 1.0)
    optimizer.step()
    return float(total)


def measure(config: Config, shape: dict[str, int], data: torch.Tensor, device: str, parts: int,
            seconds: float) -> dict[str, object]:
    """Trains for `seconds`, at least WARM_UP + STEPS steps. Raises torch's error if the memory does not suffice."""
    length, sequences = shape["sequence"], shape["sequences"]
    model = GpuMemoryFormer(config, device)
    decayed = config.decayed()
    named = model.parameters.items()
    more = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.AdamW(
        [{"params": [value for name, value in named if name in decayed], "weight_decay": 0.1},
         {"params": [value for name, value in named if name not in decayed], "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8, **more)
    windows = torch.arange(sequences, device=device)[:, None] * length + torch.arange(length + 1, device=device)
    times: list[float] = []
    losses: list[float] = []
    while len(times) < WARM_UP + STEPS or sum(times) < seconds:
        tokens = data[(windows + len(times) * sequences * length) % len(data)]
        wait(device)
        start = time.perf_counter()
        losses.append(train_step(model, optimizer, tokens, parts))
        wait(device)
        times.append(time.perf_counter() - start)
    return {"tokens_per_second": sequences * length / statistics.median(times[WARM_UP:]), "parts": parts,
            "steps": len(times), "losses": losses}


def measure_in_parts(config: Config, shape: dict[str, int], data: torch.Tensor, device: str,
                     seconds: float) -> dict[str, object]:
    """With as few parts as the GPU's memory allows."""
    for parts in (2**i for i in range(10)):
        if parts > 1 and parts > shape["sequences"]:
            break
        try:
            return measure(config, shape, data, device, parts, seconds)
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one, and where there is none, too
            if "out of memory" not in str(error):
                raise
        torch.cuda.empty_cache()  # here, where the error no longer holds the step's frames
    raise RuntimeError("the GPU's memory does not hold a step of one sequence")


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, help="TOML file, as the worker takes it")
    parser.add_argument("--data", required=True, help="u16 tokens")
    parser.add_argument("--layers", default="dense,memory")
    parser.add_argument("--seconds", type=float, default=10, help="of training, per kind of layer")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda":
        if not torch.cuda.is_available():
            print("gpu_torch.py: this PyTorch sees no GPU", file=sys.stderr)
            sys.exit(77)
        torch.set_float32_matmul_precision("high")  # TF32
        torch.set_default_device("cuda")            # for what the reference makes by itself
    with open(options.config, "rb") as file:
        file_keys = tomllib.load(file)
    model, train = file_keys["model"], file_keys.get("train", {})
    # Defaults are those of worker/config/config.h.
    shape = {"sequence": model.get("sequence", 256),
             "sequences": train.get("batch", 4) * train.get("micro_batches", 4)}
    keys = {key: model[key] for key in ("d", "layers", "heads", "K", "tau", "vocabulary")}
    data = torch.from_numpy(np.fromfile(options.data, "<u2").astype(np.int64)).to(options.device)
    for layers in options.layers.split(","):
        config = Config(**keys, expand_bits=model.get("expand_bits", 2), projection=layers)
        result = measure_in_parts(config, shape, data, options.device, options.seconds)
        print(json.dumps({"layers": layers, **result}), flush=True)


if __name__ == "__main__":
    main()
