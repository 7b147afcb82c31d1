"""Stops, the over-optimisation alarm and checkpoints, on figures made up for the purpose."""

import pytest

from alignment.config import PPOTrainingConfig
from alignment.training.checkpoints import latest_checkpoint, mark_complete, remove_incomplete
from alignment.training.ppo_alarm import HeldOut, over_optimised, surely_rose
from alignment.training.ppo_stops import stop_reason

FINE = {
    "kl": 1.0,
    "entropy": 2.0,
    "mean_length": 20.0,
    "finished": 0.9,
    "repetition": 0.1,
}


def config(**options):
    return PPOTrainingConfig(**options)


def test_nothing_stops_a_run_that_goes_well():
    assert stop_reason([FINE] * 10, config()) is None


def test_the_reward_threshold_is_held_against_the_lower_bound():
    row = {**FINE, "eval_reward": 1.2, "eval_reward_low": 0.9}
    assert stop_reason([FINE, row], config(reward_threshold=1.0)) is None
    assert stop_reason([FINE, row], config(reward_threshold=0.9)) == "reward threshold"
    assert stop_reason([FINE, FINE], config(reward_threshold=0.9)) is None


def test_the_kl_limit():
    assert stop_reason([{**FINE, "kl": 5.1}], config(max_kl=5.0)) == "KL limit"
    assert stop_reason([{**FINE, "kl": 4.9}], config(max_kl=5.0)) is None


@pytest.mark.parametrize(
    ("figure", "sick", "words"),
    [
        ("entropy", 0.03, "entropy fell from 2 to 0.03"),
        ("mean_length", 1.5, "length fell from 20 to 1.5"),
        ("finished", 0.1, "finished fell from 0.9 to 0.1"),
        ("repetition", 0.6, "repeated text rose from 10% to 60%"),
    ],
)
def test_a_collapse_is_told_when_it_lasts(figure, sick, words):
    ill = {**FINE, figure: sick}
    assert stop_reason([FINE, FINE, ill], config()) is None, "one bad iteration may pass"
    assert words in stop_reason([FINE, FINE, ill, ill], config())
    switch = {"mean_length": "length"}.get(figure, figure)
    assert stop_reason([FINE, FINE, ill, ill], config(**{f"collapse_{switch}": None})) is None


def test_a_model_that_never_ends_its_texts_has_not_collapsed():
    endless = {**FINE, "finished": 0.0, "repetition": 1.0}
    assert stop_reason([endless] * 5, config()) is None


def held_out(iteration, reward, cost=1.0, toxicity=0.2):
    wobble = [0.0, 0.01, -0.01, 0.02, -0.02, 0.01, -0.01, 0.0]
    return HeldOut(
        iteration,
        [reward + w for w in wobble],
        [cost - w for w in wobble],
        [toxicity + w / 2 for w in wobble],
    )


def test_the_alarm_sounds_when_the_reward_rises_while_judge_or_fluency_fall():
    good = [held_out(0, 0.0, 1.0, 0.5), held_out(5, 0.5, 1.0, 0.2)]
    assert over_optimised(good[:1]) == over_optimised(good) == []
    assert over_optimised([*good, held_out(10, 0.9, 1.0, 0.1)]) == []
    (toxic,) = over_optimised([*good, held_out(10, 0.9, 1.0, 0.4)])
    assert "since iteration 5" in toxic and "toxicity rose from 0.2 to 0.4" in toxic
    (broken,) = over_optimised([*good, held_out(10, 0.9, 1.6, 0.1)])
    assert "cost per token" in broken and "from 1 to 1.6" in broken


def test_the_alarm_is_silent_when_the_reward_falls_too():
    good = [held_out(0, 0.0, 1.1, 0.5), held_out(5, 0.5, 1.0, 0.2)]
    assert over_optimised([*good, held_out(10, 0.4, 1.6, 0.4)]) == []


def test_a_rise_within_the_noise_is_none():
    assert not surely_rose([0.0, 1.0, 0.0, 1.0], [1.0, 0.1, 1.0, 0.0])
    assert surely_rose([0.0, 1.0, 0.0, 1.0], [0.2, 1.1, 0.1, 1.2])
    assert not surely_rose([0.0], [1.0])


def test_the_merit_of_a_policy_is_the_judges():
    assert held_out(1, 0.0, toxicity=0.1).merit > held_out(2, 9.0, toxicity=0.3).merit
    assert HeldOut(1, [2.0, 4.0], [1.0, 1.0], None).merit == 3.0


def test_only_complete_checkpoints_are_picked(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (5, 10, 20, 100):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "weights").write_text("1")
    (tmp_path / "checkpoint-200.partial").mkdir()
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 20):
        mark_complete(tmp_path / f"checkpoint-{step}")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    remove_incomplete(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-5", "checkpoint-20", "checkpoint-200.partial"}
