"""MemoryFormer (NeurIPS 2024) in plain PyTorch: the model of this folder, for inference and fine-tuning.

With the `transformers` library it is loaded as other models are,

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

and without it by `load(FOLDER)`. Equations are those of the paper. Every fully connected layer is K tables: the
input of K * tau numbers is cut into K pieces z of tau numbers, the signs of a piece are a row's number b (eq. 6),
and the output is the sum over the tables of w_b times row b, plus a bias (eq. 8 and 9). `probes` above 1 also
reads the rows of the numbers that differ in the sign of one of the smallest |z_i|.
"""

import json
import math
import os
import struct

import torch
import torch.nn.functional as F
from torch import nn

try:
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput
except ImportError:  # what of them is needed here

    class PretrainedConfig:
        def __init__(self, **keys):
            self.__dict__.update(keys)

    class PreTrainedModel(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config

        def post_init(self):
            pass

    class GenerationMixin:
        pass

    class CausalLMOutput(dict):
        def __init__(self, loss, logits):
            super().__init__(loss=loss, logits=logits)
            self.loss, self.logits = loss, logits


EPS = 1e-5
ROTARY_BASE = 10000.0


class MemoryFormerConfig(PretrainedConfig):
    model_type = "memoryformer"

    def __init__(self, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, tables=16, bits=8, expand_bits=2,
                 vocab_size=257, max_position_embeddings=256, score="scaled", probes=1, temperature=1.0, norm="rmsnorm",
                 projection="memory", rotary_pct=0.25, **others):
        self.hidden_size = hidden_size  # = tables * bits
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.tables = tables  # K
        self.bits = bits  # tau
        self.expand_bits = expand_bits  # tables of M2 have so many bits more
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.score = score
        self.probes = probes
        self.temperature = temperature
        self.norm = norm
        self.projection = projection
        self.rotary_pct = rotary_pct
        others.setdefault("tie_word_embeddings", False)
        super().__init__(**others)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPS) * self.weight


def make_norm(kind, width):
    return nn.LayerNorm(width, eps=EPS) if kind == "layernorm" else RmsNorm(width)


class Linear(nn.Module):
    """y = x W + b, with W as [inputs, outputs]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x):
        return x @ self.weight + self.bias


class MemoryLayer(nn.Module):
    """[..., tables * bits] to [..., outputs] by rows of tables."""

    def __init__(self, config, bits, outputs):
        super().__init__()
        self.bits, self.probes, self.score = bits, config.probes, config.score
        self.temperature = config.temperature
        self.tables = nn.Parameter(torch.empty(config.tables, 2**bits, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.tables, std=0.02)

    def buckets(self, z):
        """Row numbers [T, K, probes] for z [T, K, bits]: bit i is set where z_i >= 0."""
        values = 2 ** torch.arange(self.bits, device=z.device)
        first = ((z >= 0).long() * values).sum(dim=2, keepdim=True)
        smallest = z.abs().sort(dim=2, stable=True).indices[:, :, : self.probes - 1]
        return torch.cat([first, first ^ values[smallest]], dim=2)

    def forward(self, x):
        count, rows, outputs = self.tables.shape
        z = x.reshape(-1, count, self.bits)
        buckets = self.buckets(z.detach())
        positions = torch.arange(self.bits, device=z.device)
        signs = ((buckets.unsqueeze(3) >> positions) & 1).to(z.dtype) * 2 - 1
        agreement = signs * z.unsqueeze(2)
        # The probability of bucket b, eq. 9, is a product over the bits.
        weights = F.logsigmoid(2 * agreement / self.temperature).sum(dim=3).exp()
        if self.score == "scaled":
            weights = weights * agreement.sum(dim=3)
        places = buckets + torch.arange(count, device=z.device)[:, None] * rows
        y = F.embedding_bag(places.flatten(1), self.tables.reshape(-1, outputs), mode="sum",
                            per_sample_weights=weights.flatten(1))
        return (y + self.bias).reshape(*x.shape[:-1], outputs)


def rotate(x, share):
    """Rotary embedding of [batch, heads, length, width]: pairs (i, i + half) of the first `share` of each head."""
    half = math.floor(x.shape[3] * share / 2)
    frequencies = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64, device=x.device) / max(half, 1))
    angles = torch.arange(x.shape[2], dtype=torch.float64, device=x.device)[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=3)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.hidden_size
        self.heads, self.rotary_pct = config.num_attention_heads, config.rotary_pct
        self.memory = config.projection == "memory"
        self.norm1 = make_norm(config.norm, d)
        self.norm2 = make_norm(config.norm, d)
        if self.memory:
            wide = config.tables * (config.bits + config.expand_bits)
            self.qkv = MemoryLayer(config, config.bits, 3 * d)
            self.m1 = MemoryLayer(config, config.bits, wide)
            self.mid_norm = make_norm("layernorm", wide)
            self.m2 = MemoryLayer(config, config.bits + config.expand_bits, d)
        else:
            self.qkv, self.out = Linear(d, 3 * d), Linear(d, d)
            self.fc1, self.fc2 = Linear(d, 4 * d), Linear(4 * d, d)

    def attend(self, qkv, hidden):
        batch, length, width = qkv.shape
        q, k, v = qkv.reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, self.rotary_pct), rotate(k, self.rotary_pct)
        scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(hidden, -math.inf)
        return (scores.softmax(dim=3) @ v).transpose(1, 2).reshape(batch, length, width // 3)

    def forward(self, x, hidden):
        mixed = self.attend(self.qkv(self.norm1(x)), hidden)
        if self.memory:  # eq. 13
            x = x + mixed
            return x + self.m2(self.mid_norm(self.m1(self.norm2(x))))
        x = x + self.out(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class MemoryFormerForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MemoryFormerConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_norm = make_norm(config.norm, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        pass  # done where parameters are made

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        most = self.config.max_position_embeddings
        mask = None if attention_mask is None else attention_mask[:, -most:]
        return {"input_ids": input_ids[:, -most:], "attention_mask": mask}

    def forward(self, input_ids, attention_mask=None, labels=None, **_):
        """Logits [batch, length, vocabulary]; with `labels` also the mean loss of the tokens after the first."""
        length = input_ids.shape[1]
        hidden = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).triu(1)[None, None]
        if attention_mask is not None:  # a token always sees itself: rows of padding stay finite
            itself = torch.eye(length, dtype=torch.bool, device=input_ids.device)
            hidden = hidden | (attention_mask[:, None, None, :] == 0) & ~itself
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, hidden)
        logits = self.head(self.final_norm(x))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def read_safetensors(path):
    """Tensors of float32 by name."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            tensors[name] = torch.frombuffer(bytearray(file.read(end - begin)), dtype=torch.float32).reshape(entry["shape"])
    return tensors


def load(folder):
    """The model of a folder, without the transformers library."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        model = MemoryFormerForCausalLM(MemoryFormerConfig(**json.load(file)))
    index = os.path.join(folder, "model.safetensors.index.json")
    names = ["model.safetensors"]
    if os.path.exists(index):
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    tensors = {}
    for name in names:
        tensors.update(read_safetensors(os.path.join(folder, name)))
    model.load_state_dict(tensors)
    return model.eval()
