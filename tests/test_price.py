"""The price of alignment: self-BLEU against sacrebleu, ROUGE by hand, refusals, the linear scorer."""

import random

import numpy as np
import pytest

from alignment.errors import InputError, ModelError
from alignment.evaluation import linear_scorer
from alignment.evaluation.fluency import words
from alignment.evaluation.overlap import rouge, self_bleu
from alignment.evaluation.refusals import is_refusal
from alignment.evaluation.toxicity import load_scorer

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "hill", "fast", "slow", ",", ".", "!")


def sentences(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_is_sacrebleu_against_all_others(seed):
    from sacrebleu.metrics.bleu import BLEU

    texts = sentences(25, seed) + ["cat sat on the mat"] * 2 + ["zebra"]
    tokens = [" ".join(words(text)) for text in texts]
    bleu = BLEU(tokenize="none", effective_order=True, smooth_method="exp")
    theirs = [
        bleu.sentence_score(text, tokens[:i] + tokens[i + 1 :]).score / 100
        for i, text in enumerate(tokens)
    ]
    assert self_bleu(texts) == pytest.approx(np.mean(theirs), abs=1e-9)


def test_self_bleu_of_sameness_and_silence():
    assert self_bleu(["the cat sat on the mat"] * 5) == pytest.approx(1.0)
    assert self_bleu(["a b", "c d"]) == 0.0
    assert self_bleu([]) == self_bleu(["one"]) == self_bleu(["one", "", "  "]) == 0.0


def test_rouge_by_hand():
    found = rouge(["the cat sat", "nothing"], [["the cat sat down", "a dog"], ["all"]])
    # 3 of 3 words right, 3 of 4 found: F = 2 * 1 * 0.75 / 1.75
    assert found["rouge1"] == pytest.approx([6 / 7, 0])
    assert found["rouge2"][0] == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert found["rougeL"][0] == found["rougeLsum"][0] == pytest.approx(6 / 7)
    with pytest.raises(InputError, match="at least one reference"):
        rouge(["x"], [[]])


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request.", True),
        ("I’m afraid I won’t do that.", True),
        ("As an AI language model, I have no opinions.", True),
        ("As an assistant I would say so.", True),
        ("I must decline.", True),
        ("I'm sorry to hear about your dog.", False),
        ("You cannot be serious!", False),
        ("I can help with that.", False),
        ("", False),
        ("x" * 300 + " I cannot help with that.", False),
    ],
)
def test_refusals(text, refuses):
    assert is_refusal(text) is refuses


def labelled(count=300, seed=0):
    """Texts that are toxic where they hold an insult of a made-up language."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        toxic = i % 2 == 0
        extra = [rng.choice(["glorp", "snark", "vlim"])] if toxic else []
        chosen = rng.choices(WORDS, k=6) + extra
        rng.shuffle(chosen)
        rows.append((" ".join(chosen), toxic))
    return rows


def test_the_linear_scorer_learns_saves_and_loads(tmp_path):
    texts, toxic = zip(*labelled(), strict=True)
    scorer = linear_scorer.train(texts, toxic, "made-up")
    linear_scorer.save(scorer, tmp_path / "scorer")
    again = load_scorer(str(tmp_path / "scorer"))
    assert (again.name, again.about["texts"]) == ("made-up", 300)
    assert again.about["held_out_accuracy"] > 0.95
    assert "300 texts" in again.blind_spots
    fresh, wanted = zip(*labelled(100, seed=1), strict=True)
    scores = again(fresh)
    assert scores == pytest.approx(scorer(fresh), abs=1e-4), "weights are stored as float32"
    assert ((scores > 0.5) == np.array(wanted)).mean() > 0.95
    assert again([]).shape == (0,)


def test_the_linear_scorer_refuses_what_it_cannot_learn_from(tmp_path):
    with pytest.raises(InputError, match="at least 20 toxic"):
        linear_scorer.train(["a", "b"], [True, False], "few")
    linear_scorer.save(linear_scorer.train(*zip(*labelled(60), strict=True), "x"), tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="damaged"):
        load_scorer(str(tmp_path))
