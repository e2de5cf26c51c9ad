"""Group `language`: in which language is it? (wordfreq, num2words, babel)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator

from babel import Locale
from num2words import num2words
from wordfreq import top_n_list

from examples.tasks.draft import Draft, Item, stem

NAMES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "uk": "Ukrainian",
}
_COMMON_WORDS = slice(100, 3500)
_WORDS_PER_LINE = 3


def drafts() -> Iterator[Draft]:
    """Yield the drafts of the group."""
    for name, languages in (
        ("words-germanic", ("de", "en", "nl", "sv")),
        ("words-romance", ("es", "fr", "it", "pt")),
        ("words-slavic", ("cs", "pl", "ru", "uk")),
    ):
        yield _draft(name, "these words", languages, _word_lines(languages))
    languages = ("de", "es", "fr", "it", "nl", "pl")
    yield _draft("number-words", "this number", languages, _number_words(languages))
    languages = ("de", "es", "fr", "it", "pl", "sv")
    yield _draft("currency-names", "this currency's name", languages, _currencies(languages))


def _draft(
    name: str, what: str, languages: tuple[str, ...], items: Iterable[tuple[str, str, str]]
) -> Draft:
    """Make a draft of `(text, language, entities joined by a blank)`."""
    *most, last = sorted(NAMES[code] for code in languages)
    return Draft(
        name=f"language-of-{name}",
        group="language",
        description=f"Language of {what}",
        instruction=f"In which language is {what}? {', '.join(most)} or {last}?",
        items=tuple(
            Item(text, NAMES[code], tuple(entities.split())) for text, code, entities in items
        ),
    )


def _word_lines(languages: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    words = {code: top_n_list(code, _COMMON_WORDS.stop)[_COMMON_WORDS] for code in languages}
    shared = Counter(word for listed in words.values() for word in listed)
    for code, listed in words.items():
        own = [word for word in listed if shared[word] == 1 and word.isalpha() and len(word) > 3]
        random.Random(code).shuffle(own)
        for start in range(0, len(own) - _WORDS_PER_LINE + 1, _WORDS_PER_LINE):
            line = own[start : start + _WORDS_PER_LINE]
            yield " ".join(line), code, " ".join(map(stem, line))


def _number_words(languages: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for code in languages:
        for number in range(13, 1000, 3):
            yield num2words(number, lang=code), code, f"number:{number}"


def _currencies(languages: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for code in languages:
        for currency, name in Locale(code).currencies.items():
            if "(" not in name and len(name.split()) > 1:
                yield name, code, f"currency:{currency}"
