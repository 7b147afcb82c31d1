"""TRL's `RewardTrainer` on prompt groups with soft labels and an ensemble of heads.

One example is a batch of prompt groups (`reward_groups.batch_row`): each completion is encoded once and compared in all
its pairs. Departures from TRL: the last hidden state is found by length, never by pad token, which may equal
end-of-sequence; and every pair weighs the same in an update, whichever micro-batch or process it falls into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from alignment.models.loading import pad_id
from alignment.training.reward_groups import PromptGroup, batch_row, batches_of, collate
from alignment.training.reward_loss import ensemble_loss, pair_losses

COLUMNS = ["input_ids", "first", "second", "probability", "weight", "head_weight"]


def score_last_token(model: Any) -> None:
    """Let a sequence classification model score each row at its place `last`, without logits for the other tokens.

    Padding stands on the right, where a causal model cannot see it from the last token: no attention mask is needed.
    """

    def forward(
        module: Any, input_ids: torch.Tensor, last: torch.Tensor, **_: Any
    ) -> SequenceClassifierOutput:
        hidden = module.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        rows = torch.arange(len(last), device=last.device)
        return SequenceClassifierOutput(logits=module.score(hidden[rows, last]))

    model.forward = MethodType(forward, model)


class GroupRewardTrainer(RewardTrainer):
    """`train_dataset`: rows of `batch_row`. `validation`: groups of other prompts, evaluated while training."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the weight of the whole update

    def __init__(
        self,
        *,
        model: Any,
        args: RewardConfig,
        train_dataset: Dataset,
        validation: Sequence[PromptGroup],
        completions_per_batch: int,
        margin: float,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        self.margin = margin
        self.validation = validation
        self.completions_per_batch = completions_per_batch
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, pad_id=pad_id(processing_class)),
            train_dataset=train_dataset,
            eval_dataset=train_dataset.select([0]),  # Trainer asks for one; `evaluate` has its own
            processing_class=processing_class,
            **kwargs,
        )

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        return dataset  # the rows are ready

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = COLUMNS

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """The pairs' total weight in this update, over all micro-batches and processes."""
        total = torch.stack([batch["weight"].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum()  # pyright: ignore[reportAttributeAccessIssue]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], last=inputs["last"])
        scores, first, second = outputs.logits, inputs["first"], inputs["second"]
        summed = ensemble_loss(
            scores, first, second, inputs["probability"], inputs["head_weight"], self.margin
        )
        total = inputs["weight"].sum() if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over the processes, and the weight is that of all of them.
        share = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = share * summed / total
        with torch.no_grad():
            mean = scores.mean(-1)
            ordered = inputs["probability"] != 0.5
            right = (mean[first] > mean[second]) == (inputs["probability"] > 0.5)
            sums = torch.stack([(right & ordered).sum(), ordered.sum()])
            counts = self.accelerator.reduce(sums, reduction="sum")
            if counts[1] > 0:
                self._metrics["train"]["accuracy"].append((counts[0] / counts[1]).item())
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss and accuracy of the score (the heads' mean) on the validation groups.

        Every process runs all of them: they are few, and so the figures do not depend on how many processes there are.
        """
        losses, right, weights, ordered = 0.0, 0.0, 0.0, 0
        for group, scores in self.group_scores(self.validation):
            mean = torch.from_numpy(scores.mean(-1))
            difference = mean[group.first] - mean[group.second]
            probability = torch.from_numpy(group.probability)
            cost = pair_losses(difference, probability, self.margin).numpy()
            losses += float((group.weight * cost).sum())
            weights += float(group.weight.sum())
            sided = group.probability != 0.5
            ordered += int(sided.sum())
            wanted = group.probability > 0.5
            right += float(((difference.numpy() > 0) == wanted)[sided].sum())
        metrics = {
            f"{metric_key_prefix}_loss": losses / max(weights, 1e-12),
            f"{metric_key_prefix}_accuracy": right / max(ordered, 1),
        }
        model: Any = self.model
        model.eval()  # tells TRL's `log` which figures these are
        self.log(metrics)
        model.train()
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def group_scores(
        self, groups: Sequence[PromptGroup]
    ) -> Iterator[tuple[PromptGroup, np.ndarray]]:
        """Each group with its scores [C, M] by each head, in float64; the groups come in order of length."""
        model: Any = self.model_wrapped
        model.eval()
        for places in batches_of(groups, self.completions_per_batch):
            part = [groups[place] for place in places]
            row = batch_row(part, np.ones((len(part), 1)))
            batch = collate([row], pad_id(self.processing_class))  # pyright: ignore[reportArgumentType]
            ids, last = (batch[name].to(self.args.device) for name in ("input_ids", "last"))
            with torch.no_grad(), self.compute_loss_context_manager():
                scores = model(input_ids=ids, last=last).logits.double().cpu().numpy()
            sizes = [len(group.input_ids) for group in part]
            yield from zip(part, np.split(scores, np.cumsum(sizes)[:-1]), strict=True)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints carry no card; the finished reward model does (`reward_card`)."""
