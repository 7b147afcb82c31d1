"""The peer of `benchmarks.ppo`: TRL 1.12's own PPOTrainer, the last release that had one, timed on a model folder.

It runs in an environment of its own and imports nothing of Concord; `python -m benchmarks.ppo --help` says how to make
that. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "settings",
        help="JSON, as benchmarks.ppo gives it",
    )
    given = json.loads(parser.parse_args().settings)
    imports_mb = peak_mb()
    model = given["model"]
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model)
    reward = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    value = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    for scorer in (reward, value):
        scorer.config.pad_token_id = tokenizer.pad_token_id
    rows = [tokenizer(prompt)["input_ids"] for prompt in given["prompts"]]
    rows *= given["episodes"] // len(rows) + given["batch"]
    dataset = Dataset.from_dict({"input_ids": rows})
    accumulation = given["batch"] // given["micro"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=given["micro"],
                gradient_accumulation_steps=accumulation,
                num_mini_batches=given["mini_batches"],
                num_ppo_epochs=given["epochs"],
                total_episodes=given["episodes"],
                response_length=given["response"],
                local_rollout_forward_batch_size=given["rollout"],
                learning_rate=1e-5,
                report_to="none",
                use_cpu=True,
                bf16=False,
                num_sample_generations=0,
                save_strategy="no",
                eval_strategy="no",
                gradient_checkpointing=False,
                logging_steps=1,
                disable_tqdm=True,
                seed=given["seed"],
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=dataset,
            eval_dataset=dataset.select(range(8)),
            peft_config=LoraConfig(
                r=given["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        started, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    print(
        json.dumps(
            {
                "episodes_per_s": given["episodes"] / seconds,
                "episodes_per_cpu_s": given["episodes"] / cpu_seconds,
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "peak_mb_less_imports": peak_mb() - imports_mb,
            }
        )
    )


if __name__ == "__main__":
    main()
