"""Group `number`: digits and number words (num2words)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from num2words import num2words

from examples.tasks.draft import Draft, Item

_SEED = 7


def drafts() -> Iterator[Draft]:
    """Yield the drafts of the group."""
    small = random.Random(_SEED).sample(range(21, 10_000), 1500)
    words = ((num2words(n), "odd" if n % 2 else "even", n) for n in small)
    yield _draft("parity-words", "Is this number even or odd?", words)
    size = "Is this number in the tens, the hundreds, the thousands or the millions?"
    yield _draft("size-digits", size, ((str(n), label, n) for n, label in _sizes()))
    yield _draft("size-words", size, ((num2words(n), label, n) for n, label in _sizes()))
    french = ((num2words(n, lang="fr"), label, n) for n, label in _sizes())
    yield _draft("size-french", size, french)
    forms = (("cardinal", "number"), ("ordinal", "rank"))
    both = ((num2words(n, to=form), label, n) for n in small for form, label in forms)
    yield _draft("cardinal-or-rank", "Is this a number or a rank?", both)


def _draft(name: str, question: str, lines: Iterable[tuple[str, str, int]]) -> Draft:
    items = tuple(Item(text, label, (f"number:{number}",)) for text, label, number in lines)
    return Draft(f"number-{name}", "number", question.split("?")[0], question, items)


def _sizes() -> Iterator[tuple[int, str]]:
    rng = random.Random(_SEED)
    for exponent, label in ((1, "tens"), (2, "hundreds"), (3, "thousands"), (6, "millions")):
        for _ in range(250):
            digits = rng.choice((1, 2, 3))
            number = rng.randrange(10**exponent, 10 ** (exponent + 1))
            # Round figures too, as people write them.
            yield round(number, digits - exponent) if exponent > 2 else number, label
