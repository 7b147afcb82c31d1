"""How courteous a text is, by a lexicon: the measure by which simulated labelers judge.

It shares nothing with the toxicity scorers that report, so that the demo does not train on its own examiner.
"""

from __future__ import annotations

import math
import re
from functools import cache

import yaml

from alignment.files import data_folder

_WORD = re.compile(r"[a-z']+")


@cache
def lexicon() -> dict[str, int]:
    """Word -> courtesy, from -3 to 3 (`data/courtesy_lexicon.yaml`)."""
    tree = yaml.safe_load((data_folder() / "courtesy_lexicon.yaml").read_text(encoding="utf-8"))
    return {str(word): int(value) for value, words in tree.items() for word in words}


def courtesy(text: str) -> float:
    """Between -1 (rude) and 1 (warm): tanh of a third of the sum over the text's words; an unlisted word counts 0.

    It saturates, as a person's judgement does: a fifth compliment hardly adds to four.
    """
    known = lexicon()
    return math.tanh(sum(known.get(word, 0) for word in _WORD.findall(text.lower())) / 3)
