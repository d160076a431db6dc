"""The figures of a text in one spelling: "R$ 1.234,50" and "1234.50 reais" are one amount, "10/03" is "10 de março".

Portuguese, English and Spanish. Pure.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from services.document_rag.search.words import fold

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "janeiro january enero jan ene",
            "fevereiro february febrero fev feb",
            "marco march marzo mar",
            "abril april abr apr",
            "maio may mayo mai",
            "junho june junio jun",
            "julho july julio jul",
            "agosto august ago aug",
            "setembro september septiembre set sep sept",
            "outubro october octubre out oct",
            "novembro november noviembre nov",
            "dezembro december diciembre dez dec dic",
        ),
        start=1,
    )
    for name in names.split()
}
_WORDS = {
    word: number
    for number, words in {
        2: "dois duas two dos",
        3: "tres three",
        4: "quatro four cuatro",
        5: "cinco five",
        6: "seis six",
        7: "sete seven siete",
        8: "oito eight ocho",
        9: "nove nine nueve",
        10: "dez ten diez",
        11: "onze eleven once",
        12: "doze twelve doce",
        15: "quinze fifteen quince",
        20: "vinte twenty veinte",
        30: "trinta thirty treinta",
        40: "quarenta forty cuarenta",
        45: "forty-five",
        50: "cinquenta fifty cincuenta",
        60: "sessenta sixty sesenta",
        90: "noventa ninety",
        100: "cem cento hundred cien",
    }.items()
    for word in words.split()
}
_SCALES = {
    "mil": 1000, "thousand": 1000, "milhao": 10**6, "milhoes": 10**6, "million": 10**6, "millon": 10**6,
    "millones": 10**6, "bilhao": 10**9, "bilhoes": 10**9, "billion": 10**9,
}  # fmt: skip
_CURRENCIES = {
    "r$": "BRL", "real": "BRL", "reais": "BRL", "reales": "BRL", "us$": "USD", "$": "$", "dolar": "USD",
    "dolares": "USD", "dollars": "USD", "€": "EUR", "euro": "EUR", "euros": "EUR", "£": "GBP",
}  # fmt: skip

_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_NUMBER = r"\d+(?:[.,]\d+)*"
_SCALE = "|".join(_SCALES)
# The alternatives in the order in which they are tried: what says most first. Texts are folded before.
_FIGURE = re.compile(
    rf"""
    (?P<iso>\b\d{{4}}-\d{{2}}-\d{{2}}\b)
    | (?P<numeric>\b\d{{1,2}}/\d{{1,2}}(?:/\d{{2,4}})?\b)
    | (?P<day>\b\d{{1,2}})(?:o|st|nd|rd|th)?\s+(?:de\s+|of\s+)?(?P<month>{_MONTH})\b
      (?:,?\s+(?:de\s+|del\s+)?(?P<year>\d{{4}})\b)?
    | \b(?P<english_month>{_MONTH})\s+(?P<english_day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(?P<english_year>\d{{4}})\b)?
    | \b(?P<hour>\d{{1,2}})(?:[:h]\s?(?P<minute>\d{{2}})(?!\d)(?:\s?min)?|\s?h(?:oras?)?\b)
    | (?P<sign>r\$|us\$|\$|€|£)\s?(?P<amount>{_NUMBER})(?:\s(?P<amount_scale>{_SCALE})\b)?
    | (?P<number>{_NUMBER})(?:\s(?P<scale>{_SCALE})\b)?
      (?:\s(?:de\s)?(?P<currency>reais|reales|real|dolares|dollars|euros?)\b)?
      (?P<percent>\s?%|\s(?:por\scento|por\sciento|percent|per\scent)\b)?
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, its value in one spelling. `kind`: "number", "percent", "date", "time", or the currency."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What a text has of figures; `plain` are all its numbers whatever they count, also those spelt out."""

    stated: frozenset[Figure]
    plain: frozenset[str]

    def hold(self, claimed: Figure) -> bool:
        """Whether the text has that figure. A bare number may be part of anything, a percentage must be one."""
        if claimed.kind == "number":
            return claimed.value in self.plain
        if claimed in self.stated:
            return True
        if claimed.kind == "date":
            return self._holds_date(claimed.value)
        if claimed.kind == "$":
            return any(each.value == claimed.value for each in self.stated if each.kind in _CURRENCIES.values())
        # A table gives amounts and times as bare numbers under a heading.
        return claimed.kind != "percent" and Figure("number", claimed.value) in self.stated

    def _holds_date(self, value: str) -> bool:
        """The same day, where one of the two does not say the year, or the text says it elsewhere."""
        day, _, year = value.partition("/")
        for each in self.stated:
            other_day, _, other_year = each.value.partition("/")
            if each.kind == "date" and other_day == day and (not year or (not other_year and year in self.plain)):
                return True
        return False


def figures_of(text: str) -> Figures:
    """The figures of a text."""
    folded = fold(text)
    stated: set[Figure] = set()
    plain: set[str] = set()
    for found in _FIGURE.finditer(folded):
        figure, numbers = _figure(found)
        stated.add(figure)
        plain.update(numbers)
    plain.update(str(_WORDS[word]) for word in _WORD.findall(folded) if word in _WORDS)
    return Figures(frozenset(stated), frozenset(plain))


def without_figures(text: str) -> str:
    """The folded text without what figures_of reads as figures."""
    return _FIGURE.sub(" ", fold(text))


def _figure(found: re.Match[str]) -> tuple[Figure, list[str]]:
    part = found.groupdict()
    if part["iso"]:
        year, month, day = part["iso"].split("-")
        return _date(day, int(month), year)
    if part["numeric"]:
        day, month, *rest = part["numeric"].split("/")
        return _date(day, int(month), rest[0] if rest else "")
    if part["month"]:
        return _date(part["day"], _MONTHS[part["month"]], part["year"] or "")
    if part["english_month"]:
        return _date(part["english_day"], _MONTHS[part["english_month"]], part["english_year"] or "")
    if part["hour"]:
        minute = int(part["minute"] or 0)
        return Figure("time", f"{int(part['hour'])}:{minute:02}"), [str(int(part["hour"]))]
    if part["amount"]:
        value = _value(part["amount"], part["amount_scale"])
        return Figure(_CURRENCIES[part["sign"]], value), [value]
    value = _value(part["number"], part["scale"])
    if part["percent"]:
        return Figure("percent", value), [value]
    return Figure(_CURRENCIES[part["currency"]] if part["currency"] else "number", value), [value]


def _date(day: str, month: int, year: str) -> tuple[Figure, list[str]]:
    full_year = f"20{year}" if len(year) == 2 else year
    named = f"{int(day)}.{month}" + (f"/{full_year}" if full_year else "")
    return Figure("date", named), [number for number in (str(int(day)), str(month), full_year) if number]


def _value(written: str, scale: str | None) -> str:
    """The number without separators of thousands, the decimals after a point, no zeros at the end."""
    try:
        value = Decimal(_with_point(written)) * _SCALES.get(scale or "", 1)
    except InvalidOperation:
        return written
    return f"{value.normalize():f}"


def _with_point(written: str) -> str:
    *_, last = re.split("[.,]", written)
    marks = {mark for mark in written if mark in ".,"}
    groups = re.split("[.,]", written)
    if len(marks) == 1 and all(len(group) == 3 for group in groups[1:]) and len(groups[0]) <= 3:
        return "".join(groups)  # 1.234 and 1,234,567: thousands
    if len(marks) == 1 and len(groups) > 2:
        return "".join(groups)  # 12.34.56 is no decimal number
    return "".join(groups[:-1]) + "." + last if marks else written


def unknown_figures(claim: str, known: Figures) -> Iterator[Figure]:
    """The figures written in the claim that the text does not have."""
    for figure in sorted(figures_of(claim).stated, key=lambda each: (each.kind, each.value)):
        if not known.hold(figure):
            yield figure
