"""Group `sentiment`: good or bad? (the VADER lexicon's mean ratings, from -4 to 4)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import vaderSentiment
from lemminflect import getAllLemmas
from wordfreq import zipf_frequency

from examples.tasks.draft import Draft, Item, stem

_CLEAR, _CLEAR_ADJECTIVE = 1.8, 1.3
_COMMON_ZIPF = 3.0
_VULGAR = ("bastard", "bitch", "crap", "cunt", "damn", "dick", "fag", "fuck", "nigg", "piss")
_VULGAR += ("prick", "rape", "raping", "rapist", "retard", "shit", "slut", "whore", "bullshit")
_SEED = 11
_ROUNDS = 4
_QUESTION = "Is this {} positive or negative?"
_SENTENCES = (
    "The film was {}.",
    "I found the food {}.",
    "It felt {} to be there.",
    "Such {} weather!",
    "The staff seemed {}.",
)


def drafts() -> Iterator[Draft]:
    """Yield the drafts of the group."""
    lexicon = _lexicon()
    clear = {word: rating for word, rating in lexicon.items() if abs(rating) >= _CLEAR}
    adjectives = {
        word: rating
        for word, rating in lexicon.items()
        if abs(rating) >= _CLEAR_ADJECTIVE and getAllLemmas(word).get("ADJ") == (word,)
    }
    yield _draft("word", _QUESTION.format("word"), _items(clear, "{}"))
    yield _draft("sentence", _QUESTION.format("sentence"), _sentences(adjectives))
    yield _draft(
        "negated", _QUESTION.format("phrase"), _items(adjectives, "not {} at all", flip=True)
    )
    yield _draft("two-words", _QUESTION.format("pair of words"), _pairs(clear))
    yield _draft(
        "mixed",
        "Are these two words positive, negative or mixed?",
        _mixed(clear),
    )


def _draft(name: str, question: str, items: Iterator[Item]) -> Draft:
    description = question.split("?")[0]
    return Draft(f"sentiment-{name}", "sentiment", description, question, tuple(items))


def _lexicon() -> dict[str, float]:
    """Return the mean rating of each plain, common word."""
    path = Path(vaderSentiment.__file__).parent / "vader_lexicon.txt"
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    ratings = {row[0]: float(row[1]) for row in rows if row[0].isalpha() and len(row[0]) > 3}
    return {
        word: rating
        for word, rating in ratings.items()
        if not word.startswith(_VULGAR) and zipf_frequency(word, "en") >= _COMMON_ZIPF
    }


def _sign(rating: float) -> str:
    return "positive" if rating > 0 else "negative"


def _items(ratings: dict[str, float], template: str, flip: bool = False) -> Iterator[Item]:
    for word, rating in ratings.items():
        yield Item(template.format(word), _sign(-rating if flip else rating), (stem(word),))


def _sentences(ratings: dict[str, float]) -> Iterator[Item]:
    rng = random.Random(_SEED)
    for word, rating in ratings.items():
        yield Item(rng.choice(_SENTENCES).format(word), _sign(rating), (stem(word),))


def _couples(ratings: dict[str, float]) -> Iterator[tuple[str, str]]:
    words, rng = list(ratings), random.Random(_SEED)
    for _ in range(_ROUNDS):
        rng.shuffle(words)
        yield from zip(words[::2], words[1::2], strict=False)


def _pairs(ratings: dict[str, float]) -> Iterator[Item]:
    for left, right in _couples(ratings):
        if _sign(ratings[left]) == _sign(ratings[right]):
            yield Item(f"{left}, {right}", _sign(ratings[left]), (stem(left), stem(right)))


def _mixed(ratings: dict[str, float]) -> Iterator[Item]:
    for left, right in _couples(ratings):
        signs = {_sign(ratings[left]), _sign(ratings[right])}
        label = signs.pop() if len(signs) == 1 else "mixed"
        yield Item(f"{left}, {right}", label, (stem(left), stem(right)))
