"""Token counts of texts, offline, by OpenAI's o200k vocabulary."""

import warnings
from functools import cache
from typing import Any

# The tokenizer refuses more than 200 000 tokens a call; no text has more tokens than UTF-8 bytes.
_CHARACTERS_A_CALL = 50_000


def count_tokens(text: str) -> int:
    """Tokens of the text. Texts above 50 000 characters are counted in pieces, at most one token too many a piece."""
    pieces = (text[start : start + _CHARACTERS_A_CALL] for start in range(0, len(text), _CHARACTERS_A_CALL))
    return sum(len(_vocabulary().encode_ordinary(piece)) for piece in pieces)


@cache
def _vocabulary() -> Any:
    with warnings.catch_warnings():
        # It opens its own data by a function that Python 3.11 calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import bpe_openai  # 75 MB: only processes that count pay for it

        return bpe_openai.get_encoding("o200k_base")
