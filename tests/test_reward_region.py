"""PPO is told when its completions leave the region that the reward model knows."""

import json

from alignment.files import read_json, write_json
from alignment.models.loading import load_tokenizer
from alignment.models.reward_heads import SD_QUANTILES
from alignment.training.reward import train_reward
from tests.test_ppo import train
from tests.test_reward_and_trunk import pairs
from tests.test_reward_training import quick


def test_a_policy_outside_the_known_region_is_warned_about(llama_folder, tmp_path):
    reward = tmp_path / "reward"
    tokenizer = load_tokenizer(llama_folder)
    train_reward(
        llama_folder, tokenizer, pairs()[:15], pairs()[15:], quick(num_train_epochs=1), reward
    )
    about = read_json(reward / "reward.json")
    for known, warned in ((1e9, False), (0.0, True)):
        quantiles = {str(level): known for level in SD_QUANTILES}
        write_json(reward / "reward.json", {**about, "sd_quantiles": quantiles})
        out = tmp_path / str(warned)
        result = train(llama_folder, reward, out, max_iterations=3, eval_every=1)
        told = [warning for warning in result.warnings if "leaves the region" in warning]
        assert len(told) == warned, "it is said once, not at every evaluation"
        row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        assert row["eval_deviation"] > 0
