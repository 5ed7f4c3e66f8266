"""A small byte-level BPE as tokenizer.json files with everything that those of GPT-2, GPT-NeoX and Pythia have, and
more added tokens than they: gpt2.json, neox.json (NFC, runs of spaces as added tokens) and prefix.json (a space before
the first word, tokens that take white space along or stand alone). Its merges, merges.txt, were trained on lines.py's
lines. Usage: make_json.py FOLDER, or make_json.py --train MERGES > merges.txt"""

import collections
import json
import os
import random
import re
import sys

import lines


def alphabet() -> list[str]:
    """The characters that stand for bytes (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def train(texts: list[str], merges: int) -> list[tuple[str, str]]:
    """Of words as white space cuts them: good enough for a test."""
    byte = alphabet()
    counts = collections.Counter(tuple(byte[b] for b in word.encode())
                                 for text in texts for word in re.findall(r" ?[^ ]+| +", text))
    words = [[list(word), count] for word, count in sorted(counts.items())]
    found = []
    for _ in range(merges):
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        for entry in words:
            word, at = entry[0], 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at:at + 2] = ["".join(best)]
                at += 1
    return found


def added(content: str, **how: bool) -> dict:
    token = {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return token | how


def document(merges: list[tuple[str, str]], tokens: list[dict], nfc: bool, prefix: bool, lists: bool) -> dict:
    texts = dict.fromkeys(sorted(alphabet()) + ["".join(pair) for pair in merges])
    vocab = {text: number for number, text in enumerate(texts)}
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    ids = vocab | {}
    for token in tokens:
        ids.setdefault(token["content"], len(ids))
    beside = [token | {"id": ids[token["content"]]} for token in tokens]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": beside,
            "normalizer": {"type": "NFC"} if nfc else None, "pre_tokenizer": level,
            "post_processor": level | {"trim_offsets": False}, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "vocab": vocab,
                      "merges": [list(pair) if lists else " ".join(pair) for pair in merges]}}


def write(folder: str) -> list[str]:
    """The paths of the files."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "merges.txt"), encoding="utf-8") as file:
        merges = [tuple(line.split(" ")) for line in file.read().splitlines()]
    end = added("<|endoftext|>", special=True)
    spaces = [added(" " * count, normalized=True) for count in range(24, 1, -1)]
    odd = [added("<pad>", lstrip=True, rstrip=True, special=True), added("the", single_word=True),
           added("e\u0301", normalized=True), added("<|padding|>", rstrip=True), added("<|pad", lstrip=True)]
    files = {"gpt2": document(merges, [end | {"normalized": True}], False, False, False),
             "neox": document(merges, [end, added("<|padding|>", special=True), *spaces], True, False, False),
             "prefix": document(merges, [end, *odd], True, True, True)}
    paths = []
    for name, content in files.items():
        paths.append(os.path.join(folder, name + ".json"))
        with open(paths[-1], "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
    return paths


def main() -> None:
    if sys.argv[1] != "--train":
        write(sys.argv[1])
        return
    draw, by_script = random.Random(7), lines.scripts()
    texts = [lines.line(draw, by_script, sorted(by_script)).replace("<", "(") for _ in range(1500)]
    for pair in train(texts, int(sys.argv[2])):
        print(*pair)


if __name__ == "__main__":
    main()
