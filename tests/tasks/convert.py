#!/usr/bin/env python3
"""Tasks as they were published, as examples for `worker tasks`.

  convert.py FORM FILE... > TASK.jsonl     FORM: arc, hellaswag, lambada, logiqa, piqa, winogrande, wsc

FILE holds JSON lines: the published files (of PIQA also the file of labels, as a second FILE; not LogiQA's, which are
no JSON), or the rows that the `datasets` library gives, written with to_json(). Prompts follow those of the public
evaluation harness of EleutherAI, version 0.4, from memory: compare one of your own before you compare numbers. Lines without an answer (test splits) are left out.
"""

import json
import re
import sys
from collections.abc import Iterable

Example = dict[str, object]


def untokenized(text: str) -> str:
    """Without the blanks that a tokenizer has put before signs."""
    for apart, together in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(apart, together)
    return re.sub(" (['.,])", r"\1", text)


def arc(row: dict) -> Example:
    """ARC-Easy and ARC-Challenge."""
    question, choices = row["question"], row.get("choices")
    if isinstance(question, dict):  # as published; `datasets` has it in columns
        texts = [choice["text"] for choice in question["choices"]]
        labels = [choice["label"] for choice in question["choices"]]
        question = question["stem"]
    else:
        texts, labels = choices["text"], choices["label"]
    return {"context": f"Question: {question}\nAnswer:", "choices": [f" {text}" for text in texts],
            "answer": labels.index(row["answerKey"])}


def piqa(row: dict) -> Example:
    return {"context": f"Question: {row['goal']}\nAnswer:", "choices": [f" {row['sol1']}", f" {row['sol2']}"],
            "answer": int(row["label"])}


def winogrande(row: dict) -> Example:
    """What follows the gap is the same for both names: the contexts differ."""
    before, _, after = row["sentence"].partition("_")
    return {"context": [before + row["option1"], before + row["option2"]], "choices": [f" {after.strip()}"] * 2,
            "answer": int(row["answer"]) - 1}


def wsc(row: dict) -> Example:
    """SuperGLUE's form of the Winograd schemas. The pronoun is marked in the passage, too: span2_index counts words."""
    names = row.get("target", row)
    pronoun = names["span2_text"]
    before = " ".join(row["text"].split()[:names["span2_index"]])
    passage = untokenized(f"{before} *{pronoun}*" + row["text"][len(before) + 1 + len(pronoun):])
    context = (f"Passage: {passage}\nQuestion: In the passage above, does the pronoun "
               f"\"*{pronoun}*\" refer to \"*{names['span1_text']}*\"?\nAnswer:")
    return {"context": context, "choices": [" no", " yes"], "answer": int(row["label"])}


def logiqa(row: dict) -> Example:
    """Rows of `datasets`; the published text files have to be brought into that form."""
    options = row["options"]
    question = row["question"] if "question" in row else row["query"]
    answer = "abcd".index(row["label"]) if "label" in row else int(row["correct_option"])
    letters = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCD", options))
    context = f"Passage: {row['context']}\nQuestion: {question}\nChoices:\n{letters}Answer:"
    return {"context": context, "choices": [f" {option}" for option in options], "answer": answer}


def lambada(row: dict) -> Example:
    """The last word of a passage."""
    before, _, word = row["text"].rpartition(" ")
    return {"context": before, "choices": [f" {word}"], "answer": 0}


def hellaswag(row: dict) -> Example:
    def plain(text: str) -> str:
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {"context": plain(context), "choices": [f" {plain(ending)}" for ending in row["endings"]],
            "answer": int(row["label"])}


FORMS = {form.__name__: form for form in (arc, hellaswag, lambada, logiqa, piqa, winogrande, wsc)}

# Where a row says which choice is right; LAMBADA's is in the text.
ANSWERS = {"arc": ["answerKey"], "hellaswag": ["label"], "lambada": [], "logiqa": ["label", "correct_option"],
           "piqa": ["label"], "winogrande": ["answer"], "wsc": ["label"]}


def convert(form: str, rows: Iterable[dict]) -> list[Example]:
    """Examples of all rows that have an answer."""
    keys = ANSWERS[form]

    def answered(row: dict) -> bool:
        given = [row[key] for key in keys if key in row]
        return not keys or (bool(given) and given[0] not in ("", None, -1, "-1"))

    return [FORMS[form](row) for row in rows if answered(row)]


def read(form: str, paths: list[str]) -> list[dict]:
    with open(paths[0], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if form == "piqa" and len(paths) == 2:
        with open(paths[1], encoding="ascii") as file:
            for row, label in zip(rows, file.read().split(), strict=True):
                row["label"] = label
    return rows


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in FORMS:
        sys.exit(__doc__)
    try:
        examples = convert(sys.argv[1], read(sys.argv[1], sys.argv[2:]))
    except (OSError, ValueError) as error:  # of JSON, too
        sys.exit(f"{sys.argv[2]}: {error}")
    except KeyError as error:
        sys.exit(f"{sys.argv[2]}: a row has no {error}: is it of {sys.argv[1]}?")
    for example in examples:
        print(json.dumps(example, ensure_ascii=False))
