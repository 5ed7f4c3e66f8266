"""Lines of text that tokenizers find hard: every script of Unicode, combining marks in any order, code, numbers,
emoji, all kinds of white space, contractions, and what stands for the end of a text. One JSON string a line; the same
for the same seed. Usage: lines.py COUNT [SEED]"""

import json
import random
import sys
from unicodedata import ucd_3_2_0 as unicode

CODE = ["def f(x):\n\treturn x**2  # don't\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }", "<a href=\"x?y=1&z=2\">it's</a>",
        "SELECT * FROM t WHERE a >= 1e-5;", "\\frac{1}{2}\\,x^{2}", "#!/bin/sh\nset -e\n\n\nexit 0\n", "0x1F600 + 0b1010"]
WORDS = ("the don't I'll we've THEY'RE it's 's 'S 'd 'm ' '' \" ... --- naïve café Straße ǅ ﬁre ½ ² Ⅷ ٣ 12345 3.14 "
         "1,000,000 e\u0301 a\u0323\u0307 \u1e9b\u0323 \ufb01 \u212b \u00c5 \u0344 \uac00 \u1100\u1161\u11a8").split()
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\u200b", "\u180e",
          "\x0b", "\x0c", "\x85", "\x1c", "                    "]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "☃", "\ufe0f", "\u200d"]
ENDS = ["<|endoftext|>", " <|endoftext|> ", "<|endoftext|", "<|padding|>", "<pad>"]


# Of later versions, all characters of each range by Unicode 10: what is newer is not known to all libraries.
LATER = {"BALINESE": (0x1B00, 0x1B4C), "LEPCHA": (0x1C00, 0x1C38), "OL CHIKI": (0x1C50, 0x1C80), "VAI": (0xA500, 0xA62C),
         "JAVANESE": (0xA980, 0xA9CE), "CHAM": (0xAA00, 0xAA37), "MEETEI": (0xABC0, 0xABEE), "NKO": (0x7C0, 0x7FB),
         "TIFINAGH": (0x2D30, 0x2D68), "PHOENICIAN": (0x10900, 0x1091C), "BRAHMI": (0x11000, 0x1104E),
         "CUNEIFORM": (0x12000, 0x1239A), "HIEROGLYPHS": (0x13000, 0x1342F), "ANATOLIAN": (0x14400, 0x14647),
         "BAMUM": (0x16800, 0x16A39), "TANGUT": (0x17000, 0x187ED), "ADLAM": (0x1E900, 0x1E94B),
         "EMOTICONS": (0x1F600, 0x1F650), "LINEAR B": (0x10080, 0x100FB), "KHAROSHTHI": (0x10A10, 0x10A14)}


def scripts() -> dict[str, list[str]]:
    """Characters of Unicode 3.2, whose tables every Python has, by the first word of their names, which mostly is
    their script; and those of LATER."""
    found = {name: [chr(code) for code in range(*codes)] for name, codes in LATER.items()}
    for code in range(0x20, 0x20000):
        name = unicode.name(chr(code), "")
        if name and unicode.category(chr(code)) not in ("Cn", "Cs", "Co"):
            found.setdefault(name.split()[0].split("-")[0], []).append(chr(code))
    return found


def line(draw: random.Random, by_script: dict[str, list[str]], names: list[str]) -> str:
    parts = []
    script = by_script[draw.choice(names)]
    for _ in range(draw.randrange(1, 24)):
        kind = draw.randrange(12)
        if kind < 4:
            parts.append("".join(draw.choices(script, k=draw.randrange(1, 8))))
        elif kind < 6:
            parts.append(draw.choice(WORDS))
        elif kind == 6:
            parts.append(draw.choice(CODE))
        elif kind == 7:
            parts.append(draw.choice(EMOJI))
        elif kind == 8:
            parts.append(chr(draw.choice([draw.randrange(0x20, 0x7F), draw.randrange(0xA0, 0x250),
                                          draw.randrange(0x300, 0x370)])))
        elif kind == 9:
            parts.append(draw.choice(ENDS) if draw.randrange(4) == 0 else str(draw.randrange(10**6)))
        else:
            script = by_script[draw.choice(names)]
        if draw.randrange(3):
            parts.append(draw.choice(SPACES) if draw.randrange(3) == 0 else " ")
    return "".join(parts)


def draw_lines(count: int, seed: int) -> list[str]:
    draw, by_script = random.Random(seed), scripts()
    names = sorted(by_script)
    return [line(draw, by_script, names) for _ in range(count)]


if __name__ == "__main__":
    for text in draw_lines(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        print(json.dumps(text))
