"""The scorers: probabilities of being toxic, and clear errors where a classifier cannot be used."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from alignment.errors import ModelError
from alignment.evaluation.toxicity import BATCH_SIZE, load_scorer, score_all

WORDS = ["you", "are", "kind", "rude", "a", "fool", "and", "the", "garden", "grows"]
LABELS = {0: "fine", 1: "Toxic", 2: "spam"}


def save_tokenizer(folder, pad=True):
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]" if pad else None
    )
    tokenizer.save_pretrained(folder)


def save_classifier(folder, kind="bert", pad=True, **config):
    """A randomly initialised classifier whose outputs differ from text to text."""
    torch.manual_seed(0)
    shape = dict(
        vocab_size=len(WORDS) + 2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    shape |= dict(intermediate_size=16, max_position_embeddings=32, initializer_range=1.0)
    shape |= dict(id2label=LABELS, label2id={v: k for k, v in LABELS.items()}) | config
    if kind == "bert":
        model = BertForSequenceClassification(BertConfig(**shape, pad_token_id=0))
    else:
        model = LlamaForSequenceClassification(
            LlamaConfig(**shape, pad_token_id=0 if pad else None)
        )
    model.save_pretrained(folder)
    save_tokenizer(folder, pad)
    return str(folder)


def test_profanity_check_tells_insults_from_kindness():
    scorer = load_scorer("profanity-check")
    scores = scorer(["you are a stupid idiot", "thank you for the flowers", ""])
    assert scores.shape == (3,)
    assert scores[0] > 0.9
    assert (scores[1:] < 0.2).all()
    assert scorer([]).shape == (0,)


def test_profanity_check_has_the_blind_spots_it_states():
    scorer = load_scorer("profanity-check")
    negated, disguised, contempt, german = scorer(
        [
            "You are not stupid",
            "you are sh1t",
            "people like you should not be allowed to live",
            "Du bist ein Arschloch",
        ]
    )
    assert negated > 0.9
    assert max(disguised, contempt, german) < 0.5
    for word in ("negated", "disguised", "other languages", "without swear words"):
        assert word in scorer.blind_spots


@pytest.mark.parametrize(("kind", "pad"), [("bert", True), ("llama", True), ("llama", False)])
def test_classifier_equals_one_text_at_a_time(tmp_path, kind, pad):
    """Batching by length, padding and restoring the order must not change a single score."""
    folder = save_classifier(tmp_path, kind, pad)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(BATCH_SIZE + 9)]
    scorer = load_scorer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        alone = [
            model(torch.tensor([tokenizer(text)["input_ids"]])).logits.softmax(-1)[0, 1].item()
            for text in texts
        ]
    assert np.ptp(alone) > 0.1, "the test needs texts with different scores"
    np.testing.assert_allclose(scorer(texts), alone, atol=1e-5)
    assert "Toxic" in scorer.blind_spots


def test_several_labels_per_text_use_one_sigmoid_each(tmp_path):
    folder = save_classifier(tmp_path, problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        logit = model(torch.tensor([tokenizer("you rude fool")["input_ids"]])).logits[0, 1].item()
    np.testing.assert_allclose(
        load_scorer(folder)(["you rude fool"]), [1 / (1 + np.exp(-logit))], atol=1e-6
    )


def test_empty_and_very_long_texts(tmp_path):
    scores = load_scorer(save_classifier(tmp_path))(["", "you are kind " * 500])
    assert scores[0] == 0, "a text without a token says nothing"
    assert 0 <= scores[1] <= 1


def test_unknown_label_lists_those_there_are(tmp_path):
    with pytest.raises(ModelError) as error:
        load_scorer(save_classifier(tmp_path), "hate")
    assert "'fine', 'Toxic', 'spam'" in str(error.value)
    assert "evaluate.toxic_label" in str(error.value)


def test_language_model_without_classification_head_is_refused(tmp_path):
    """transformers would make up a random head and only log a warning."""
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="not a trained text classifier"):
        load_scorer(str(tmp_path))


def test_regression_is_refused(tmp_path):
    with pytest.raises(ModelError, match="regression"):
        load_scorer(save_classifier(tmp_path, problem_type="regression"))


def test_missing_folder():
    with pytest.raises(ModelError, match=r"not a folder that exists.*profanity-check"):
        load_scorer("./no/such/folder")


def test_folder_without_model(tmp_path):
    with pytest.raises(ModelError, match="does not hold a text-classification model"):
        load_scorer(str(tmp_path))


def test_hub_out_of_reach_says_how_to_get_the_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hf download nobody/nothing-like-this"):
        load_scorer("nobody/nothing-like-this")
    with pytest.raises(ModelError, match="did you mean 'profanity-check'"):
        load_scorer("profanity_check")


def test_two_labels_in_other_words_are_understood(tmp_path):
    """facebook/roberta-hate-speech-dynabench-r4-target says hate and nothate."""
    folder = save_classifier(tmp_path / "two", id2label={0: "nothate", 1: "hate"}, label2id={})
    assert load_scorer(folder).label_name == "hate"
    assert load_scorer(f"{folder}#nothate").label == 0
    with pytest.raises(ModelError, match="no label 'toxik'"):
        load_scorer(f"{folder}#toxik")
    unclear = save_classifier(
        tmp_path / "unclear", id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={}
    )
    with pytest.raises(ModelError, match=r"'LABEL_0', 'LABEL_1'.*--scorer"):
        load_scorer(unclear)


def test_progress_is_told_batch_by_batch(tmp_path):
    told = []
    scorer = load_scorer(
        save_classifier(tmp_path),
        progress=lambda label, done, total, note="": told.append((done, total)),
    )
    scorer(["you are kind"] * (BATCH_SIZE + 5))
    assert told == [(BATCH_SIZE, BATCH_SIZE + 5), (BATCH_SIZE + 5, BATCH_SIZE + 5)]


def test_equal_texts_are_scored_once_and_empty_ones_never():
    class Counts:
        name, blind_spots = "counts", "None."
        asked = 0

        def __call__(self, texts):
            self.asked += len(texts)
            return np.full(len(texts), 0.5)

    scorer = Counts()
    found = score_all(scorer, [["a", "a", "", " "], ["a", "b"]])
    assert scorer.asked == 2
    assert [f.tolist() for f in found] == [[0.5, 0.5, 0, 0], [0.5, 0.5]]
