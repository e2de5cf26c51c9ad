"""Group `form`: which form or part of speech is a word? (lemminflect, wordfreq)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from lemminflect import getAllInflections, getAllLemmas
from wordfreq import top_n_list, zipf_frequency

from examples.tasks.draft import Draft, Item, stem

_LEMMAS_FROM = 6000
_PRONOUNS = ("she", "he", "it")


def drafts() -> Iterator[Draft]:
    """Yield the drafts of the group."""

    def draft(name: str, question: str, lines: Iterable[tuple[str, str, str]]) -> Draft:
        items = tuple(Item(text, label, (stem(lemma),)) for text, label, lemma in lines)
        return Draft(name, "form", question.split("?")[0], question, items)

    yield draft("noun-number", "Is this noun singular or plural?", _nouns())
    yield draft(
        "verb-time", "Does this verb tell of the past or the present?", _verbs("{}", will=False)
    )
    yield draft(
        "sentence-time",
        "Does this sentence tell of the past, the present or the future?",
        _verbs("{pronoun} {}", will=True),
    )
    yield draft("part-of-speech", "Is this word a noun, a verb or an adjective?", _parts())
    yield draft("word-form", "Is this word a plural, a past form or a comparative?", _inflected())


def _lemmas(part: str) -> list[str]:
    """Return common English words that are lemmas of this part of speech and of no other."""
    words = [word for word in top_n_list("en", _LEMMAS_FROM) if word.isascii() and word.isalpha()]
    return [word for word in words if len(word) > 2 and getAllLemmas(word) == {part: (word,)}]


def _inflection(word: str, tag: str, part: str) -> str | None:
    forms = getAllInflections(word, upos=part).get(tag)
    return forms[0] if forms and forms[0] != word else None


def _nouns() -> Iterator[tuple[str, str, str]]:
    for noun in _lemmas("NOUN"):
        if plural := _inflection(noun, "NNS", "NOUN"):
            yield noun, "singular", noun
            yield plural, "plural", noun


def _verbs(template: str, will: bool) -> Iterator[tuple[str, str, str]]:
    rng = random.Random(0)
    for verb in _lemmas("VERB"):
        pronoun = rng.choice(_PRONOUNS)
        present, past = (_inflection(verb, tag, "VERB") for tag in ("VBZ", "VBD"))
        if present and past and present != past:
            yield template.format(present, pronoun=pronoun), "present", verb
            yield template.format(past, pronoun=pronoun), "past", verb
            if will:
                yield template.format(f"will {verb}", pronoun=pronoun), "future", verb


def _parts() -> Iterator[tuple[str, str, str]]:
    for part, label in (("NOUN", "noun"), ("VERB", "verb"), ("ADJ", "adjective")):
        for word in _lemmas(part):
            yield word, label, word


def _inflected() -> Iterator[tuple[str, str, str]]:
    for part, tag, label in (
        ("NOUN", "NNS", "plural"),
        ("VERB", "VBD", "past"),
        ("ADJ", "JJR", "comparative"),
    ):
        for word in top_n_list("en", _LEMMAS_FROM):
            form = (
                _inflection(word, tag, part) if word in getAllLemmas(word).get(part, ()) else None
            )
            if form and zipf_frequency(form, "en") > 2.5 and list(getAllLemmas(form)) == [part]:
                yield form, label, word
