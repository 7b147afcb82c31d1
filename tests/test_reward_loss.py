"""The loss: hand-computed values, and TRL's own trainer on the same pairs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from alignment.config import RewardTrainingConfig
from alignment.models.loading import load_tokenizer, turn_off_dropout
from alignment.training.reward_groups import batch_row, group_pairs
from alignment.training.reward_loss import bootstrap_counts, ensemble_loss, pair_losses
from alignment.training.reward_run import hardened
from alignment.training.reward_trainer import GroupRewardTrainer, score_last_token
from tests.test_reward_groups import all_pairs, pair


def test_the_loss_of_a_pair_by_hand():
    d = torch.tensor([0.0, 2.0, 2.0, -1.0])
    p = torch.tensor([0.3, 1.0, 0.8, 0.5])

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    wanted = [
        math.log(2),
        -math.log(sigmoid(2)),
        -0.8 * math.log(sigmoid(2)) - 0.2 * math.log(sigmoid(-2)),
        -0.5 * math.log(sigmoid(-1)) - 0.5 * math.log(sigmoid(1)),
    ]
    np.testing.assert_allclose(pair_losses(d, p).numpy(), wanted, rtol=1e-6)
    with_margin = pair_losses(d, p, margin=0.5)
    assert with_margin[1].item() == pytest.approx(-math.log(sigmoid(1.5)))
    assert with_margin[3].item() == pytest.approx(wanted[3])  # a tie has no margin


def test_a_soft_label_is_best_met_at_its_own_logit_and_a_tie_draws_scores_together():
    d = torch.tensor([math.log(0.8 / 0.2), 3.0], requires_grad=True)
    pair_losses(d, torch.tensor([0.8, 0.5])).sum().backward()
    assert d.grad[0].abs() < 1e-6
    assert d.grad[1] > 0.4  # downhill lies a smaller difference


def test_each_head_learns_from_its_own_weights():
    scores = torch.zeros(2, 2, requires_grad=True)
    first, second = torch.tensor([0]), torch.tensor([1])
    loss = ensemble_loss(scores, first, second, torch.ones(1), torch.tensor([[3.0, 0.0]]))
    assert loss.item() == pytest.approx(3 * math.log(2) / 2)
    loss.backward()
    assert scores.grad[0].tolist() == pytest.approx([-0.75, 0.0])


def test_bootstrap_counts_resample_the_prompts_for_each_head():
    counts = bootstrap_counts(50, 4, seed=0)
    assert counts.shape == (50, 4) and (counts.sum(0) == 50).all()
    assert len({tuple(column) for column in counts.T}) == 4
    assert (counts == bootstrap_counts(50, 4, seed=0)).all()
    assert (bootstrap_counts(50, 1, seed=0) == 1).all()


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_loss_and_gradient_equal_those_of_trl_on_the_same_pairs(
    tiny_model_folder, tmp_path, margin
):
    tokenizer = load_tokenizer(tiny_model_folder)
    groups, _ = group_pairs(tokenizer, [*all_pairs(3), pair(" kind", " rude", "other")], 64)
    groups = [hardened(group) for group in groups]

    def model():
        torch.manual_seed(0)
        made = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1)
        made.config.pad_token_id = tokenizer.pad_token_id
        turn_off_dropout(made)  # OPT's, which TRL's own switch does not reach
        torch.nn.init.normal_(made.score.weight, std=0.5)
        return made

    one_by_one = [
        {
            "chosen_ids": group.input_ids[i],
            "rejected_ids": group.input_ids[j],
            **({"margin": margin} if margin else {}),
        }
        for group in groups
        for i, j in zip(group.first, group.second, strict=True)
    ]
    lora = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"])
    args = RewardConfig(
        output_dir=str(tmp_path),
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
    )
    theirs = RewardTrainer(
        model=model(),
        args=args,
        train_dataset=Dataset.from_list(one_by_one),
        peft_config=lora,
        processing_class=tokenizer,
    )
    patched = model()
    score_last_token(patched)
    rows = [batch_row(groups, np.ones((len(groups), 1)))]
    ours = GroupRewardTrainer(
        model=patched,
        args=args,
        train_dataset=Dataset.from_list(rows),
        validation=[],
        completions_per_batch=8,
        margin=margin,
        processing_class=tokenizer,
        peft_config=lora,
    )
    found = []
    for trainer, batch in ((theirs, one_by_one), (ours, rows)):
        state = {k: v for k, v in theirs.model.state_dict().items() if "lora" in k}
        trainer.model.load_state_dict(state, strict=False)
        inputs = trainer._prepare_inputs(trainer.data_collator(batch))
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        found.append(
            (
                loss.item(),
                {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad},
            )
        )
    (trl_loss, trl_grads), (our_loss, our_grads) = found
    assert our_loss == pytest.approx(trl_loss, abs=1e-5)
    assert trl_grads.keys() == our_grads.keys()
    for name, grad in trl_grads.items():
        torch.testing.assert_close(our_grads[name], grad, atol=1e-5, rtol=1e-3)


def test_hard_labels_keep_ties(tokenizer):
    rows = [pair(" a", " b", probability=p) for p in (0.6, 0.5)]
    groups, _ = group_pairs(
        tokenizer, [replace(r, rejected=f" {n}") for n, r in enumerate(rows)], 64
    )
    assert hardened(groups[0]).probability.tolist() == [1.0, 0.5]
    assert RewardTrainingConfig().soft_labels
