"""The demo language: a small context-free grammar of kind, neutral and rude things that people say.

The grammar lies in `data/demo_language.yaml`. Each sampled text carries the negative log-probability of its
derivation, so that a model's loss can be held against the entropy of the language itself.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from alignment.files import data_folder
from alignment.records import Prompt, short_id

_SYMBOL = re.compile(r"<(\w+)>")
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Situation:
    """What a prompt is about: the words that its completion may refer to."""

    name: str
    owner: str
    thing: str
    scene: str

    @property
    def prompt(self) -> str:
        words = {"name": self.name, "owner": self.owner, "thing": self.thing}
        return _SYMBOL.sub(lambda match: words[match[1]], self.scene)

    @property
    def split(self) -> str:
        """`train` or `held-out`, by a hash of the prompt: the same on every machine."""
        digest = hashlib.sha256(self.prompt.encode()).digest()
        return "held-out" if digest[0] / 256 < _HELD_OUT_SHARE else "train"


@dataclass(frozen=True, slots=True)
class Utterance:
    """A completion of the language: its tone, and -log of the probability of its derivation, in nats."""

    text: str
    tone: str
    surprisal: float


@dataclass(frozen=True, slots=True)
class Grammar:
    """Symbol -> alternatives, each a template and its probability."""

    situations: tuple[Situation, ...]
    rules: dict[str, tuple[tuple[str, float], ...]]
    source: str

    def expand(self, symbol: str, words: dict[str, str], rng: random.Random) -> tuple[str, float]:
        """One random text of `symbol` and its surprisal in nats. `words` are the symbols that are settled."""
        if symbol in words:
            return words[symbol], 0.0
        rules = self.rules[symbol]
        template, probability = rng.choices(rules, weights=[p for _, p in rules])[0]
        surprisal = -math.log(probability)
        parts, end = [], 0
        for match in _SYMBOL.finditer(template):
            text, cost = self.expand(match[1], words, rng)
            parts += [template[end : match.start()], text]
            surprisal += cost
            end = match.end()
        return "".join([*parts, template[end:]]), surprisal

    def utter(self, situation: Situation, rng: random.Random) -> Utterance:
        """One random completion of the situation's prompt, beginning with the space that parts it from the prompt."""
        words = {"name": situation.name, "thing": situation.thing}
        rules = self.rules["tone"]
        template, probability = rng.choices(rules, weights=[p for _, p in rules])[0]
        tone = template.strip("<>")
        text, surprisal = self.expand(tone, words, rng)
        return Utterance(f" {text}", tone, surprisal - math.log(probability))


def _alternatives(texts: list[str]) -> tuple[tuple[str, float], ...]:
    pairs = []
    for text in texts:
        template, _, weight = text.partition(" @ ")
        pairs.append((template, float(weight or 1)))
    total = sum(weight for _, weight in pairs)
    return tuple((template, weight / total) for template, weight in pairs)


def _situations(prompt: dict[str, Any]) -> tuple[Situation, ...]:
    people = [(name, owner) for owner, names in prompt["name"].items() for name in names]
    return tuple(
        Situation(name, owner, thing, scene)
        for name, owner in people
        for thing, scene in product(prompt["thing"], prompt["scene"])
    )


@cache
def load_grammar(path: Path | None = None) -> Grammar:
    """The grammar of `data/demo_language.yaml`, or of another file of that form."""
    source = (path or data_folder() / "demo_language.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(source)
    rules = {symbol: _alternatives(texts) for symbol, texts in tree["completion"].items()}
    return Grammar(_situations(tree["prompt"]), rules, source)


def demo_prompts(train: int, held_out: int, seed: int = 0) -> list[Prompt]:
    """`train` and `held_out` prompts of the language, drawn without replacement from their own halves."""
    rng = random.Random(seed)
    chosen = []
    for split, count in (("train", train), ("held-out", held_out)):
        pool = [s for s in load_grammar().situations if s.split == split]
        for situation in rng.sample(pool, count):
            prompt = situation.prompt
            chosen.append(Prompt(short_id("prompt", prompt), prompt, split))
    return chosen


def sample_corpus(split: str, count: int, seed: int) -> list[tuple[str, Utterance]]:
    """`count` pairs of prompt and utterance, from prompts of one split."""
    grammar = load_grammar()
    rng = random.Random(f"{split}/{seed}")
    pool = [s for s in grammar.situations if s.split == split]
    drawn = (rng.choice(pool) for _ in range(count))
    return [(situation.prompt, grammar.utter(situation, rng)) for situation in drawn]
