"""Prompt groups: each completion once, in all its pairs; odd data is counted, never lost silently."""

import numpy as np
import pytest

from alignment.errors import ModelError
from alignment.models.loading import encode_completion, encode_prompt
from alignment.records import PreferencePair
from alignment.training.reward_groups import (
    batch_row,
    batches_of,
    collate,
    group_pairs,
    prompts_on_both_sides,
    split_groups,
)

TEXTS = (" You are kind.", " What a lovely day", " rude", " You are rude, rude.")


def pair(chosen, rejected, prompt_id="p0", probability=0.9, confidence=0.95, prompt="What a day!"):
    return PreferencePair(
        prompt, chosen, rejected, probability, confidence, prompt_id, chosen, rejected
    )


def all_pairs(prompts=3):
    return [
        pair(TEXTS[i], TEXTS[j], f"p{p}")
        for p in range(prompts)
        for i in range(4)
        for j in range(i + 1, 4)
    ]


def test_each_completion_is_encoded_once_and_stands_in_all_its_pairs(tokenizer):
    groups, warnings = group_pairs(tokenizer, all_pairs(), 64)
    assert [group.prompt_id for group in groups] == ["p0", "p1", "p2"]
    for group in groups:
        assert group.completions == TEXTS and len(group.first) == 6
        prompt = encode_prompt(tokenizer, "What a day!")
        assert group.input_ids == [prompt + encode_completion(tokenizer, t) for t in TEXTS]
        assert group.lengths.tolist() == [len(encode_completion(tokenizer, t)) for t in TEXTS]
    assert not warnings.sentences(64)


def test_pairs_in_disorder_come_together_by_prompt(tokenizer):
    shuffled = [all_pairs()[i] for i in np.random.default_rng(0).permutation(18)]
    groups, _ = group_pairs(tokenizer, shuffled, 64)
    assert len(groups) == 3 and all(len(group.completions) == 4 for group in groups)
    for group in groups:
        wanted = {(p.chosen, p.rejected) for p in all_pairs(1)}
        texts = group.completions
        got = {(texts[i], texts[j]) for i, j in zip(group.first, group.second, strict=True)}
        assert got == wanted


def test_odd_pairs_are_counted(tokenizer):
    rows = [
        pair(TEXTS[0], TEXTS[0]),
        pair(TEXTS[0], ""),
        pair(TEXTS[0], TEXTS[1]),
        pair(TEXTS[1], TEXTS[0]),
        pair(TEXTS[1], TEXTS[2], probability=0.5),
        pair(TEXTS[2], TEXTS[1], probability=0.5),
    ]
    groups, warnings = group_pairs(tokenizer, rows, 64)
    assert (warnings.identical_pairs, warnings.empty_completions) == (1, 1)
    assert warnings.contradictory_pairs == 1  # two ties do not contradict each other
    assert len(groups[0].first) == 5
    told = " ".join(warnings.sentences(64))
    assert "equal texts" in told and "empty" in told and "both orders" in told


def test_a_long_completion_is_cut_and_how_much_is_told(tokenizer):
    prompt = len(encode_prompt(tokenizer, "What a day!"))
    whole = len(encode_completion(tokenizer, TEXTS[3]))
    longest = prompt + whole - 2
    groups, warnings = group_pairs(tokenizer, all_pairs(2), longest)
    assert (warnings.cut_completions, warnings.cut_tokens) == (2, 4)
    assert warnings.longest_completion == whole
    assert max(len(ids) for group in groups for ids in group.input_ids) == longest
    assert tokenizer.eos_token_id not in groups[0].input_ids[3]  # it did not end by itself
    assert "were cut" in warnings.sentences(longest)[0]
    nothing, warnings = group_pairs(tokenizer, all_pairs(2), prompt)
    assert not nothing and warnings.left_out_too_long == 12


def test_confidence_can_weigh_the_pairs(tokenizer):
    rows = [pair(TEXTS[0], TEXTS[1], confidence=0.9), pair(TEXTS[0], TEXTS[2], confidence=0.5)]
    groups, warnings = group_pairs(tokenizer, rows, 64, by_confidence=True)
    assert groups[0].weight == pytest.approx([0.8])
    assert groups[0].completions == (TEXTS[0], TEXTS[1]), "what no pair needs is not encoded"
    assert warnings.weightless_pairs == 1 and "left out" in warnings.sentences(64)[0]
    assert group_pairs(tokenizer, rows, 64)[0][0].weight.tolist() == [1.0, 1.0]


def test_chat_prompts_go_through_the_chat_template(tokenizer):
    chat = [{"role": "user", "content": "What a day!"}]
    rows = [pair(TEXTS[0], TEXTS[1], prompt=chat)]
    with pytest.raises(ModelError, match="no chat template"):
        group_pairs(tokenizer, rows, 64)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    with_template = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=template,
    )
    groups, _ = group_pairs(with_template, rows, 128)
    text = with_template.decode(groups[0].input_ids[0])
    assert text == f"<user>What a day!<assistant>{TEXTS[0]}{tokenizer.eos_token}"


def test_batches_keep_groups_whole_and_stay_within_the_budget(tokenizer):
    groups, _ = group_pairs(tokenizer, all_pairs(11), 64)
    batches = batches_of(groups, completions=9)
    assert sorted(n for batch in batches for n in batch) == list(range(11))
    assert all(len(batch) <= 2 for batch in batches) and len(batches) == 6
    width = max(map(len, groups[0].input_ids))
    assert all(len(batch) == 1 for batch in batches_of(groups, 64, tokens=7 * width))
    assert batches_of(groups, 9, seed=1) == batches_of(groups, 9, seed=1)
    assert all(
        len(batch) == 1 for batch in batches_of(groups, completions=2)
    )  # larger than the budget


def test_a_batch_is_padded_on_the_right_and_its_pairs_point_at_their_completions(tokenizer):
    groups, _ = group_pairs(tokenizer, all_pairs(2), 64)
    counts = np.array([[1.0, 0.0], [2.0, 1.0]])
    batch = collate([batch_row(groups, counts)], pad_id=1)
    sequences = [ids for group in groups for ids in group.input_ids]
    assert batch["input_ids"].shape == (8, max(map(len, sequences)))
    for row, last, ids in zip(batch["input_ids"], batch["last"], sequences, strict=True):
        assert row[: last + 1].tolist() == ids and (row[last + 1 :] == 1).all()
    assert batch["first"].tolist() == [*groups[0].first, *(groups[1].first + 4)]
    assert batch["head_weight"].tolist() == [[1.0, 0.0]] * 6 + [[2.0, 1.0]] * 6


def test_splits_never_divide_a_prompt(tokenizer):
    groups, _ = group_pairs(tokenizer, all_pairs(10), 64)
    rest, part = split_groups(groups, 0.3, seed=0)
    names = [{group.prompt_id for group in side} for side in (rest, part)]
    assert len(part) == 3 and not names[0] & names[1] and len(names[0] | names[1]) == 10
    assert all(split_groups(groups[:2], 0.01, seed=0))
    rows = all_pairs(3)
    assert prompts_on_both_sides(rows[:8], rows[8:]) == ["p1"]
    assert prompts_on_both_sides(rows[:6], rows[6:]) == []
