"""Goal: `worker tasks` tells what the PyTorch reference tells, on 200 examples of each published form: every
log-likelihood, and so every accuracy. And it says in words what is no task.
Usage: tasks_test.py PATH_OF_WORKER"""

import collections
import gzip
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))

try:
    import torch
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

import convert
import memoryformer
import selftest
import tensorfile

WORKER = ""
SEQUENCE = 64
EXAMPLES = 200
END_OF_TEXT = 256
# A sign of a number that is so small may be another one in the worker's float32; the model then answers
# something else.
BORDER = 2e-5
MODEL = {"d": 32, "layers": 2, "heads": 4, "K": 8, "tau": 4, "expand_bits": 1, "vocabulary": 257}
VARIANTS = {
    "scaled, 1 probe": memoryformer.Config(**MODEL),
    "softmax, 2 probes": memoryformer.Config(**MODEL, score="softmax", probes=2, norm="layernorm"),
    "dense": memoryformer.Config(**MODEL, projection="dense"),
}


def rows(form: str, count: int, seed: int) -> list[dict]:
    """Records as the task was published, of nonsense."""
    draw = random.Random(f"{form} {seed}")

    def words(least: int, most: int) -> str:
        return " ".join("".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 7)))
                        for _ in range(draw.randint(least, most)))

    def choices(count: int) -> list[str]:
        return [words(1, 6) for _ in range(count)]

    def row() -> dict:
        if form == "arc":
            texts = choices(draw.choice((3, 4, 5)))
            labels = "ABCDE"[:len(texts)]
            return {"question": {"stem": words(3, 12) + "?",
                                 "choices": [{"text": text, "label": label} for text, label in zip(texts, labels)]},
                    "answerKey": draw.choice(labels)}
        if form == "piqa":
            return {"goal": words(2, 9), "sol1": words(1, 9), "sol2": words(1, 9), "label": draw.randrange(2)}
        if form == "winogrande":
            return {"sentence": f"{words(1, 6)} _ {words(1, 5)}.", "option1": words(1, 1), "option2": words(1, 1),
                    "answer": str(draw.randint(1, 2))}
        if form == "wsc":
            return {"text": words(3, 12), "target": {"span1_text": words(1, 2), "span2_text": "it", "span2_index": 1},
                    "label": draw.random() < 0.5}
        if form == "logiqa":
            return {"context": words(3, 9), "query": words(2, 5), "options": choices(4),
                    "correct_option": draw.randrange(4)}
        if form == "lambada":
            return {"text": words(5, 14)}
        return {"activity_label": words(1, 2), "ctx_a": words(2, 6) + ".", "ctx_b": words(1, 2),
                "endings": [f"{words(1, 4)} [title] {words(1, 2)} [step]" for _ in range(4)],
                "label": str(draw.randrange(4))}

    return [row() for _ in range(count)]


class Seen(memoryformer.Indices):
    """How near a sign, or the choice between two neighbours, came to being another one."""

    nearest = math.inf

    def choose(self, name: str, z: torch.Tensor, probes: int) -> torch.Tensor:
        sizes = z.abs().sort(dim=2).values
        self.nearest = min(self.nearest, float(sizes[..., 0].min()))
        if probes > 1:
            self.nearest = min(self.nearest, float((sizes[..., 1:] - sizes[..., :-1]).min()))
        return super().choose(name, z, probes)


def expected(model: memoryformer.MemoryFormer, example: dict) -> tuple[list[float], bool, float]:
    """(log-likelihoods, whether the first choice is the likeliest text, the nearest border)."""
    count = len(example["choices"])
    contexts = example["context"] if isinstance(example["context"], list) else [example["context"]] * count
    sums, greedy, nearest = [], True, math.inf
    for context, choice in zip(contexts, example["choices"]):
        before = list(context.rstrip().encode()) or [END_OF_TEXT]
        ids = list((context[len(context.rstrip()):] + choice).encode())
        text = torch.tensor((before + ids)[-(SEQUENCE + 1):])
        seen = Seen()
        with torch.no_grad():
            logits = model.logits(text[None, :-1], seen)[-len(ids):]
        of_ids = logits.log_softmax(dim=1).gather(1, text[-len(ids):, None])
        sums.append(float(of_ids.sum()))
        greedy &= bool((logits.argmax(dim=1) == text[-len(ids):]).all())
        nearest = min(nearest, seen.nearest)
    return sums, greedy, nearest


class Tasks(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_worker(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run([WORKER, "tasks", *arguments], capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def write_model(self, config: memoryformer.Config) -> str:
        path = self.folder / "model.safetensors"
        metadata = selftest.metadata_of(config)
        described = json.loads(metadata["config"])
        described["model"]["sequence"] = SEQUENCE
        tensorfile.write(path, selftest.random_tensors(config, seed=5), {"config": json.dumps(described)})
        return str(path)

    def write_task(self, name: str, examples: list[dict]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(example) + "\n" for example in examples), "utf-8")
        return str(path)

    def compare(self, config: memoryformer.Config, count: int) -> None:
        path = self.write_model(config)
        model = memoryformer.MemoryFormer.load(pathlib.Path(path))
        tasks = {form: convert.convert(form, rows(form, count, 1)) for form in convert.FORMS}
        tasks["lambada"] += self.likely_words(model, tasks["lambada"])
        tasks["piqa"] += [{"context": "", "choices": [" a", "b"], "answer": 1},
                          {"context": "ends in space  ", "choices": ["a", "bc"], "answer": 0}]
        files = {form: self.write_task(form, examples) for form, examples in tasks.items()}
        said = [json.loads(line) for line in
                self.run_worker("--model", path, "--tasks", *files.values(), "--each", "--json").stdout.splitlines()]
        each = collections.defaultdict(list)
        for line in said:
            each[line["task"]].append(line)
        compared = near = 0  # examples, and those of them that differ with a reason
        for form, examples in tasks.items():
            *lines, total = each[files[form]]
            self.assertEqual([line["line"] for line in lines], list(range(1, len(examples) + 1)))
            right, nll = [], []
            for line, example in zip(lines, examples):
                sums, greedy, nearest = expected(model, example)
                compared += 1
                alike = all(abs(ours - theirs) <= 1e-4 * (1 + abs(theirs))
                            for ours, theirs in zip(line["log_likelihoods"], sums, strict=True))
                if not alike and nearest < BORDER:
                    near += 1
                    sums = line["log_likelihoods"]
                else:
                    self.assertTrue(alike, f"{form}: {line}, not {sums}")
                    self.assertEqual(line.get("greedy", False), len(sums) == 1 and greedy)
                best = line["greedy"] if len(sums) == 1 else sums.index(max(sums)) == example["answer"]
                lengths = [len(choice.lstrip()) for choice in example["choices"]]
                mean = [value / length for value, length in zip(sums, lengths)]
                right.append((best, best if len(sums) == 1 else mean.index(max(mean)) == example["answer"]))
                nll.append(-sums[example["answer"]])
            for key, found in zip(("accuracy", "accuracy_per_character"), zip(*right)):
                self.assertAlmostEqual(total[key], statistics.fmean(found), places=9)
                self.assertAlmostEqual(total[key + "_stderr"], statistics.stdev(found) / math.sqrt(len(found)), places=9)
            self.assertAlmostEqual(math.log(total["perplexity"]), statistics.fmean(nll), places=3)
            self.assertEqual(total["examples"], len(examples))
        print(f"{compared - near} of {compared} examples agree, {near} met a border")
        self.assertLess(near, 0.02 * compared)

    @staticmethod
    def likely_words(model: memoryformer.MemoryFormer, examples: list[dict]) -> list[dict]:
        """Examples whose word the model would write by itself: by chance there is none."""
        found = []
        for example in examples[:20]:
            text = list(example["context"].rstrip().encode())
            ids = []
            for _ in range(2):
                with torch.no_grad():
                    logits = model.logits(torch.tensor((text + ids)[-SEQUENCE:])[None], memoryformer.Indices())
                ids.append(int(logits[-1].argmax()))
            if all(32 < value < 127 for value in ids):
                found.append({"context": example["context"].rstrip(), "choices": [bytes(ids).decode()], "answer": 0})
        return found

    def test_agrees_with_the_reference(self) -> None:
        for number, (name, config) in enumerate(VARIANTS.items()):
            with self.subTest(name):
                self.compare(config, EXAMPLES if number == 0 else EXAMPLES // 5)

    def test_words(self) -> None:
        model = self.write_model(VARIANTS["dense"])
        good = {"context": "a", "choices": ["b", "c"], "answer": 0}
        for bad, why in (
                ({"choices": ["b"], "answer": 0}, '"context" is neither a text nor a list'),
                (good | {"context": ["a"]}, '"context" is neither a text nor a list'),
                (good | {"choices": []}, '"choices" is no list of texts'),
                (good | {"choices": "b"}, '"choices" is no list of texts'),
                (good | {"answer": 2}, '"answer" is not the number of a choice, from 0 to 1'),
                (good | {"answer": "0"}, '"answer" is not the number of a choice'),
                (good | {"choices": ["b", ""]}, "a choice is empty"),
                (good | {"choices": ["b" * 65, "c"]}, "a choice of 65 tokens, and model.sequence is 64"),
        ):
            path = self.write_task("bad", [good, bad])
            self.assertIn(f"{path}: line 2: {why}", "".join(self.run_worker("--model", model, "--tasks", path, code=2).stderr
                                                           .splitlines()[:1]).replace("error: ", "", 1))
        text = self.folder / "task.txt"
        text.write_text("a\n")
        self.assertIn("its name ends in .jsonl", self.run_worker("--model", model, "--tasks", str(text), code=2).stderr)
        empty = self.write_task("empty", [])
        self.assertIn("no example", self.run_worker("--model", model, "--tasks", empty, code=2).stderr)
        # Packed, and only some of it; the table says the same as JSON.
        packed = self.folder / "packed.jsonl.gz"
        packed.write_bytes(gzip.compress("".join(json.dumps(good) + "\n" for _ in range(3)).encode()))
        table = self.run_worker("--model", model, "--tasks", str(packed), "--examples", "2").stdout.splitlines()
        line = json.loads(self.run_worker("--model", model, "--tasks", str(packed), "--examples", "2", "--json").stdout)
        self.assertEqual(table[1].split(), ["2", f"{line['accuracy']:.4f}", "+-", f"{line['accuracy_stderr']:.4f}",
                                            f"{line['accuracy_per_character']:.4f}", "+-",
                                            f"{line['accuracy_per_character_stderr']:.4f}",
                                            f"{line['perplexity']:.2f}", str(packed)])

    def test_published_forms(self) -> None:
        """What a row becomes, by hand."""
        for form, row, example in (
                ("arc", {"question": "Q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
                 {"context": "Question: Q?\nAnswer:", "choices": [" x", " y"], "answer": 1}),
                ("winogrande", {"sentence": "Ann beat Bo as _ was fast.", "option1": "Ann", "option2": "Bo", "answer": "1"},
                 {"context": ["Ann beat Bo as Ann", "Ann beat Bo as Bo"], "choices": [" was fast."] * 2, "answer": 0}),
                ("wsc", {"text": "Ann said she was n't late .", "span1_text": "Ann", "span2_text": "she", "span2_index": 2,
                         "label": 1},
                 {"context": "Passage: Ann said *she* wasn't late.\nQuestion: In the passage above, does the pronoun \"*she*\" refer to \"*Ann*\"?\n"
                             "Answer:", "choices": [" no", " yes"], "answer": 1}),
                ("lambada", {"text": "a b c"}, {"context": "a b", "choices": [" c"], "answer": 0}),
                ("hellaswag", {"activity_label": "Cook", "ctx_a": "She stirs.", "ctx_b": "then she",
                               "endings": ["eats [title] More [step] salt", "b", "c", "d"], "label": "3"},
                 {"context": "Cook: She stirs. Then she", "choices": [" eats. More salt", " b", " c", " d"], "answer": 3}),
        ):
            self.assertEqual(convert.convert(form, [row]), [example])
        for form in convert.FORMS:  # of test splits, whose answers are nobody's
            row = rows(form, 1, 2)[0]
            for key in set(convert.ANSWERS[form]) & set(row):
                self.assertEqual(convert.convert(form, [row | {key: ""}]), [], form)
                self.assertEqual(convert.convert(form, [{name: row[name] for name in row if name != key}]), [], form)
        labels, data = self.folder / "labels.lst", self.folder / "piqa.jsonl"
        labels.write_text("1\n")
        data.write_text(json.dumps({"goal": "g", "sol1": "a", "sol2": "b"}) + "\n")
        self.assertEqual(convert.convert("piqa", convert.read("piqa", [str(data), str(labels)])),
                         [{"context": "Question: g\nAnswer:", "choices": [" a", " b"], "answer": 1}])


if __name__ == "__main__":
    torch.set_num_threads(1)  # other tests run beside this one
    WORKER = sys.argv.pop(1)
    unittest.main()
