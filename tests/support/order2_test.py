#!/usr/bin/env python3
"""The order-2 model must be an honest yardstick: proper probabilities, an exact cut, no peeking."""

import math
import random
import unittest

from order2 import Order2, split


class Order2Test(unittest.TestCase):
    """Each test states what it guards."""

    def test_every_context_sums_to_one(self) -> None:
        """Seen and unseen contexts of every order are distributions over the 256 bytes."""
        model = Order2(b"the cat sat on the mat and the rat ran")
        for context in ((), (ord("t"),), (0,), tuple(b"th"), tuple(b"zz"), tuple(b"an")):
            total = sum(model.probability(context, byte) for byte in range(256))
            self.assertAlmostEqual(total, 1.0, places=12)

    def test_cut_is_the_last_floor_of_the_ratio(self) -> None:
        """The held-out bytes are the trainer's."""
        self.assertEqual(split(bytes(range(19)), 0.1), (bytes(range(18)), bytes([18])))
        self.assertEqual(split(b"abcdefghij", 0.25), (b"abcdefgh", b"ij"))

    def test_loss_is_the_sum_of_the_bytes(self) -> None:
        """Counting equal trigrams once gives what byte by byte gives."""
        model = Order2(b"abracadabra" * 3)
        text = b"cadabrax"
        direct = -sum(
            math.log(model.probability(tuple(text[max(0, i - 2) : i]), byte))
            for i, byte in enumerate(text)
        ) / len(text)
        self.assertAlmostEqual(model.loss(text), direct, places=12)

    def test_learns_a_second_order_source(self) -> None:
        """On a source whose entropy is known the loss comes close to it, and not below."""
        rng = random.Random(1)
        source = bytearray(b"ab")
        for _ in range(60000):  # the next letter is fixed by the last two, but for a coin of 0.9
            fixed = (source[-1] * 3 + source[-2]) % 4 + ord("a")
            other = rng.randrange(3)
            source.append(fixed if rng.random() < 0.9 else (fixed - ord("a") + 1 + other) % 4 + ord("a"))
        entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 3)
        train, held_out = split(bytes(source), 0.5)
        loss = Order2(train).loss(held_out)
        self.assertLess(abs(loss - entropy), 0.02)

    def test_uniform_noise_is_not_compressed(self) -> None:
        """No byte of the held-out part helps to predict it."""
        rng = random.Random(2)
        train, held_out = split(rng.randbytes(40000), 0.5)
        self.assertGreater(Order2(train).loss(held_out), math.log(256))


if __name__ == "__main__":
    unittest.main()
