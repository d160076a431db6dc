"""What a client would rather have: Accept and Accept-Language with their weights (RFC 9110, 12.4 and 12.5)."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

_WEIGHT = re.compile(r"q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")

# How much something is wished for: its weight, and among equals what is named first.
_Wish: TypeAlias = tuple[float, int]


def preferred_type(accept: str, default: str, *others: str) -> str:
    """The media type to answer with: the default, unless one of the others is named, and wished for more."""
    return _best({default: [default, "*/*"], **{other: [other] for other in others}}, _wishes(accept))


def preferred_language(accept_language: str, languages: Sequence[str]) -> str:
    """One of the languages, as in "pt-BR": of any country that is asked for, and the first when none is."""
    wishes: dict[str, _Wish] = {}
    for tag, wish in _wishes(accept_language).items():
        language = _without_country(tag)
        wishes[language] = max(wish, wishes.get(language, wish))
    return _best({language: [_without_country(language), "*"] for language in languages}, wishes)


def _best(names: Mapping[str, Sequence[str]], wishes: Mapping[str, _Wish]) -> str:
    """The key that is wished for most, under the most exact of its names that is mentioned; else the first."""
    found = {key: next((wishes[name] for name in known if name in wishes), (0.0, 0)) for key, known in names.items()}
    best = max(found, key=lambda key: found[key])
    return best if found[best][0] > 0 else next(iter(names))


def _wishes(header: str) -> dict[str, _Wish]:
    wishes: dict[str, _Wish] = {}
    for place, element in enumerate(header.lower().split(",")):
        name, *parameters = (part.strip() for part in element.split(";"))
        wishes.setdefault(name, (_weight(parameters), -place))
    return wishes


def _weight(parameters: Sequence[str]) -> float:
    """1 when none is given, 0 for one that is no weight."""
    given = next((each for each in parameters if each.startswith("q")), None)
    if given is None:
        return 1.0
    written = _WEIGHT.fullmatch(given)
    return float(written.group(1)) if written else 0.0


def _without_country(tag: str) -> str:
    return tag.lower().partition("-")[0]
