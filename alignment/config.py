"""One typed configuration per stage, read from `concord.yaml`, `--config FILE.yaml` and `--set key=value`.

Unknown keys and values out of range are refused before anything starts. Later sources win: defaults, then the
workspace's file, then `--config`, then `--set`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alignment.errors import ConfigError, nearest
from alignment.records import MAX_COMPLETIONS, MIN_COMPLETIONS

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]


class Section(BaseModel):
    """A frozen set of options that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GenerationConfig(Section):
    """How completions are sampled from a model."""

    max_new_tokens: int = Field(64, ge=1, description="longest completion, in tokens")
    do_sample: bool = Field(True, description="sample (true) or decode greedily (false)")
    temperature: float = Field(1.0, gt=0, description="divides the logits before sampling")
    top_k: int = Field(0, ge=0, description="sample among the k likeliest tokens; 0 is all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="sample among the likeliest tokens of this total mass"
    )
    repetition_penalty: float = Field(
        1.0, gt=0, description="above 1 makes repeated tokens less likely"
    )
    stop_at_eos: bool = Field(True, description="end a completion at the end-of-sequence token")
    batch_size: int = Field(32, ge=1, description="sequences generated at once")
    seed: int = Field(0, ge=0, description="seed of the sampling")


class SampleConfig(GenerationConfig):
    """`concord sample`: the completions that labelers will rank."""

    completions_per_prompt: int = Field(
        4, ge=MIN_COMPLETIONS, le=MAX_COMPLETIONS, description="K, the completions of one task"
    )
    split: Literal["train", "held-out", "all"] = Field(
        "train", description="which prompts to sample for"
    )
    distinct_attempts: int = Field(
        4,
        ge=1,
        description="rounds of resampling while a prompt has equal completions; 1 accepts them",
    )
    close_open_tasks: bool = Field(
        False,
        description="end the round before: close what is still open of the earlier tasks of these prompts",
    )


class SimulateConfig(Section):
    """`concord labelers simulate`: a pool of labelers with known faults."""

    careful: int = Field(5, ge=0, description="labelers who judge with little noise")
    noisy: int = Field(3, ge=0, description="labelers who judge with much noise")
    random: int = Field(2, ge=0, description="labelers who click at random")
    reversed: int = Field(1, ge=0, description="labelers who read the scale the wrong way round")
    position_biased: int = Field(1, ge=0, description="labelers who favour what is shown first")
    rankings_per_prompt: int = Field(3, ge=1, description="overlap: labelers who rank each prompt")
    seed: int = Field(0, ge=0, description="seed of the simulation")

    @model_validator(mode="after")
    def _someone(self) -> SimulateConfig:
        pool = self.careful + self.noisy + self.random + self.reversed + self.position_biased
        if pool < self.rankings_per_prompt:
            raise ValueError(
                f"rankings_per_prompt is {self.rankings_per_prompt}, but the pool holds only {pool} labelers"
            )
        return self


class LabellingConfig(Section):
    """How people rank: who gets which task, how labelers qualify, how they are checked. Read when the UI starts."""

    overlap: int = Field(3, ge=1, le=100, description="labelers who rank each task")
    strategy: Literal["fewest", "disputed", "uncertain"] = Field(
        "fewest",
        description="which task comes first: fewest rankings, most disputed in the latest consensus, or where the "
        "latest reward model is least certain",
    )
    lease_minutes: float = Field(
        30, gt=0, description="how long a task waits for a labeler who has gone; the draft is kept"
    )
    practice_tasks: int = Field(
        3, ge=0, le=20, description="practice tasks before the first real one; 0 is no practice"
    )
    qualification_threshold: float = Field(
        0.6, ge=0, le=1, description="share of the practice tasks that must be answered right"
    )
    practice_attempts: int = Field(
        2, ge=1, description="rounds of practice before a labeler counts as not qualified"
    )
    gold_agreement: float = Field(
        0.75,
        ge=0,
        le=1,
        description="an answer to a gold or practice task is right from this share of its ordered pairs on",
    )
    gold_rate: float = Field(
        0.05, ge=0, le=0.5, description="share of gold tasks among those a labeler gets"
    )
    repeat_rate: float = Field(
        0.05, ge=0, le=0.5, description="share of tasks that a labeler gets a second time"
    )
    repeat_distance: int = Field(
        10, ge=1, description="other tasks at least between a task and its repeat"
    )
    edit_days: float = Field(7, gt=0, description="how long labelers may edit their own answers")
    too_fast_seconds: float = Field(
        3, ge=0, description="an answer given in less time than this counts as too fast"
    )
    blur_threshold: float = Field(
        0.5, ge=0, le=1, description="text that the scorer finds this toxic is blurred"
    )
    break_minutes: int = Field(
        45, ge=5, le=240, description="minutes of work after which a break is offered"
    )
    prompt_format: Literal["auto", "plain", "markdown", "code"] = Field(
        "auto", description="how prompts are shown; auto looks at each text"
    )
    invitation_days: float = Field(7, gt=0, description="how long an invitation can be used")


class ConsensusConfig(Section):
    """`concord consensus`: from rankings to preference pairs."""

    method: Literal["auto", "factor", "majority", "borda", "dawid-skene"] = Field(
        "auto",
        description="how rankings are combined; auto chooses factor or dawid-skene by the data",
    )
    labelers: Literal["auto", "people", "simulated", "all"] = Field(
        "auto", description="whose rankings count; auto refuses a mixture of people and simulation"
    )
    min_confidence: float = Field(
        0.5, ge=0.5, lt=1, description="drop pairs whose order is less sure than this"
    )
    max_pairs_per_prompt: int | None = Field(
        None, ge=1, description="keep the surest pairs of each prompt"
    )
    keep_ties: bool = Field(
        False,
        description="keep pairs that most labelers call equal, with probability 0.5, for the reward model",
    )
    max_none_acceptable: float = Field(
        1.0,
        ge=0,
        le=1,
        description="leave out prompts of which a larger share of rankings calls nothing acceptable",
    )
    seed: int = Field(0, ge=0, description="seed of the bootstrap intervals")


class LoraSection(Section):
    """The LoRA adapter (Hu et al. 2021, arXiv:2106.09685)."""

    lora_rank: int = Field(16, ge=1, description="rank r of the adapter")
    lora_alpha: int = Field(
        32, ge=1, description="scale; the adapter's output is multiplied by alpha / r"
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    lora_target_modules: str | list[str] = Field(
        "all-linear", description="which linear maps of a layer carry the adapter"
    )
    lora_layers: Literal["all", "upper-half"] | list[int] = Field(
        "all",
        description="layers with an adapter, from 0: all, upper-half, or a list; layers below are shared by all roles",
    )


class RewardTrainingConfig(LoraSection):
    """`concord train reward`: the reward model."""

    full_finetuning: bool = Field(
        False,
        description="train every weight of the base instead of an adapter; the lora_ keys rest",
    )
    num_train_epochs: float = Field(2.0, gt=0, description="passes over the prompts, at most")
    per_device_train_batch_size: int = Field(
        32,
        ge=2,
        description="completions per step and device; those of one prompt stay together, in all their pairs",
    )
    max_batch_tokens: int | None = Field(
        None, ge=16, description="tokens per step and device at most, padding included"
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="steps summed before each update")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="share of the steps with rising learning rate"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_length: int = Field(
        1024, ge=8, description="longest prompt plus completion, in tokens; what is longer is cut"
    )
    soft_labels: bool = Field(
        True, description="learn the consensus probability (true) or only the order (false)"
    )
    weight_by_confidence: bool = Field(
        False, description="let a pair weigh 2 confidence - 1 instead of 1; ties then weigh nothing"
    )
    margin: float = Field(
        0.0,
        ge=0,
        description="score difference asked for beyond the label, times 2 probability - 1",
    )
    ensemble_heads: int = Field(
        4, ge=1, description="heads whose mean is the score and whose spread its uncertainty"
    )
    held_out_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the prompts kept for the trust figures"
    )
    validation_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the other prompts for early stopping and the temperature",
    )
    evaluations: int = Field(
        10, ge=1, description="evaluations on the validation prompts, each with a checkpoint"
    )
    early_stopping_patience: int = Field(
        3, ge=0, description="evaluations without a better loss until training stops; 0 never stops"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto takes bf16 on an accelerator that has it"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: slower, less memory"
    )
    seed: int = Field(0, ge=0, description="seed of initialisation, split and order")


class RewardSource(Section):
    """One term of the reward: weight x (score - mean) / std."""

    kind: Literal["reward-model", "callable", "scorer", "model", "fluency"] = Field(
        "reward-model",
        description="the reward model; module:function; a toxicity scorer, negated; another reward model's folder; "
        "the log-likelihood per token under the reference",
    )
    name: str = Field(
        "",
        description="module:function, the scorer or the folder; empty for reward model and fluency",
    )
    weight: float = Field(1.0, description="weight of this term in the sum")
    mean: float | None = Field(
        None,
        description="taken off the score; by default what the reward model knows of itself, or 0",
    )
    std: float | None = Field(
        None, gt=0, description="divides the score; by default what the reward model knows, or 1"
    )
    label: str = Field("toxic", description="the label of a classifier that means toxic")

    @model_validator(mode="after")
    def _named(self) -> RewardSource:
        if self.kind not in ("reward-model", "fluency") and not self.name:
            raise ValueError(f"a reward of kind {self.kind} needs a name")
        if self.kind == "callable" and ":" not in self.name:
            raise ValueError("name a callable reward as module:function")
        return self


class PPOTrainingConfig(LoraSection):
    """`concord train ppo`. Names follow TRL's PPOConfig where the meaning is the same."""

    max_iterations: int = Field(
        100, ge=1, description="rollouts at most; one iteration is one rollout"
    )
    batch_size: int = Field(
        64, ge=2, description="episodes per rollout (prompts x completions per prompt)"
    )
    completions_per_prompt: int = Field(2, ge=2, description="episodes per prompt in one rollout")
    response_length: int = Field(64, ge=1, description="longest completion, in tokens")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature, also that of the log-probabilities"
    )
    num_ppo_epochs: int = Field(4, ge=1, description="passes over each rollout")
    num_mini_batches: int = Field(2, ge=1, description="updates per pass")
    per_device_train_batch_size: int = Field(
        8, ge=1, description="episodes per forward and backward pass"
    )
    learning_rate: float = Field(
        5e-5, gt=0, description="peak learning rate of AdamW, policy and value"
    )
    critic: Literal["adapter", "head"] = Field(
        "adapter",
        description="value from an adapter of its own, or from a head on the policy's hidden states (faster)",
    )
    value_init: Literal["reward", "zero"] = Field(
        "reward", description="the value adapter starts as a copy of the reward model, or at zero"
    )
    critic_warmup_iterations: int = Field(
        0, ge=0, description="first iterations in which only the value is trained"
    )
    critic_learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate of the value; by default learning_rate"
    )
    kl_in: Literal["reward", "loss"] = Field(
        "reward",
        description="where the KL penalty is: per token in the reward (k1) or in the loss (k3)",
    )
    kl_coef: float = Field(0.05, ge=0, description="coefficient of the token-level KL penalty")
    kl_target: float | None = Field(
        None,
        gt=0,
        description="adapt kl_coef so that the mean KL per completion nears this, in nats",
    )
    kl_horizon: int = Field(
        10000,
        ge=1,
        description="episodes over which an adaptive kl_coef may double or halve, roughly",
    )
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus in the loss")
    cliprange: float = Field(0.2, gt=0, description="clip range of the probability ratio")
    vf_coef: float = Field(0.1, ge=0, description="weight of the value loss")
    cliprange_value: float = Field(
        0.2, gt=0, description="clip range of the value around its old estimate"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    whiten_rewards: bool = Field(False, description="scale the token rewards to variance 1")
    missing_eos_penalty: float = Field(
        1.0,
        ge=0,
        description="taken off the score of an unfinished completion, in reward standard deviations",
    )
    length_penalty: float = Field(
        0.0, ge=0, description="taken off the score per token, in reward standard deviations"
    )
    reward_clip: float = Field(
        5.0, gt=0, description="normalised scores are clipped to this magnitude"
    )
    rewards: list[RewardSource] = Field(
        [], description="terms of the reward; empty means the reward model alone"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    reward_threshold: float | None = Field(
        None,
        description="stop when the lower 95% bound of the mean normalised reward on held-out prompts reaches this",
    )
    max_kl: float | None = Field(
        None, gt=0, description="stop when the mean KL per completion exceeds this, in nats"
    )
    max_kl_update: float | None = Field(
        None,
        gt=0,
        description="skip the rest of a rollout once the policy moved this far in it, in nats per token",
    )
    collapse_entropy: float | None = Field(
        0.02, ge=0, lt=1, description="stop when the entropy falls below this share of its start"
    )
    collapse_length: float | None = Field(
        0.1, ge=0, lt=1, description="stop when completions shrink below this share of their length"
    )
    collapse_finished: float | None = Field(
        0.2,
        ge=0,
        lt=1,
        description="stop when finished completions fall below this share of theirs",
    )
    collapse_repetition: float | None = Field(
        0.5, gt=0, le=1, description="stop when repeated 4-grams rise by this much, on a scale to 1"
    )
    collapse_patience: int = Field(
        2, ge=1, description="iterations in a row that must look collapsed before the run stops"
    )
    eval_every: int = Field(
        5, ge=1, description="iterations between evaluations on held-out prompts"
    )
    eval_prompts: int = Field(
        64,
        ge=2,
        description="held-out prompts used for threshold, alarm and best checkpoint, at most",
    )
    judge: str | None = Field(
        "profanity-check",
        description="scorer independent of the reward, for the alarm and the best checkpoint; null for none",
    )
    judge_label: str = Field("toxic", description="the label of the judge that means toxic")
    num_sample_completions: int = Field(
        4, ge=0, description="completions of each rollout kept in samples.jsonl"
    )
    save_every: int = Field(5, ge=1, description="iterations between checkpoints")
    save_total_limit: int = Field(2, ge=2, description="checkpoints kept")
    share_lower_trunk: bool = Field(
        True, description="compute the layers below all adapters once per rollout"
    )
    merge_for_generation: bool = Field(
        True, description="sample with the adapter added to a copy of its weights (faster)"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        [], description="where figures go besides the run's folder"
    )
    use_vllm: bool = Field(
        False, description="generate rollouts with vLLM (extra `vllm`) instead of transformers"
    )
    vllm_mode: Literal["colocate", "server"] = Field(
        "colocate", description="vLLM inside the trainer, or a server started with `trl vllm-serve`"
    )
    vllm_gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="share of the GPU's memory for vLLM where it is colocated"
    )
    vllm_server_base_url: str | None = Field(
        None, description="address of the vLLM server, such as http://localhost:8000"
    )
    seed: int = Field(0, ge=0, description="seed of initialisation, order and sampling")

    @model_validator(mode="after")
    def _divisible(self) -> PPOTrainingConfig:
        if self.batch_size % self.completions_per_prompt:
            raise ValueError("batch_size must be a multiple of completions_per_prompt")
        if self.batch_size % (self.num_mini_batches * self.per_device_train_batch_size):
            raise ValueError(
                "batch_size must be a multiple of num_mini_batches x per_device_train_batch_size "
                f"({self.num_mini_batches} x {self.per_device_train_batch_size})"
            )
        return self

    @model_validator(mode="after")
    def _independent(self) -> PPOTrainingConfig:
        if sum(source.kind == "reward-model" for source in self.rewards) > 1:
            raise ValueError("rewards may name the reward model once")
        if self.judge in {source.name for source in self.rewards if source.kind == "scorer"}:
            raise ValueError(
                f"the judge {self.judge} is also a reward, so it could not tell over-optimisation; name another judge"
            )
        if self.critic_warmup_iterations >= self.max_iterations:
            raise ValueError("critic_warmup_iterations must be less than max_iterations")
        return self

    @property
    def uses_reward_model(self) -> bool:
        """Whether a term of the reward is the reward role of the trunk."""
        return not self.rewards or any(source.kind == "reward-model" for source in self.rewards)


class EvaluateConfig(GenerationConfig):
    """`concord evaluate`: the same held-out prompts for every model."""

    completions_per_prompt: int = Field(
        4, ge=1, description="completions of each prompt from each model"
    )
    scorer: str = Field(
        "profanity-check",
        description="profanity-check, a text-classification model, a trained scorer or module:function",
    )
    more_scorers: list[str] = Field(
        default_factory=list, description="further scorers, each reported by itself"
    )
    toxic_label: str = Field(
        "toxic", description="the label of the classifier whose probability is the toxicity"
    )
    trained_by: list[str] = Field(
        default_factory=list,
        description="scorers behind the policy's training, beside those that its folder records",
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="a completion is toxic from this score on"
    )
    probe: str | None = Field(
        None, description="file of general text, one passage a line, to measure forgetting"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples of the prompts")
    permutations: int = Field(10_000, ge=100, description="swaps of the permutation test")


class Config(Section):
    """The whole of `concord.yaml`."""

    base_model: str = Field(
        "demo", description="hub id or folder of a causal LM; demo is made on the spot"
    )
    base_precision: Precision = Field(
        "fp32",
        description="in which the frozen base is held; int8 and int4 need the extra `quantization`",
    )
    sample: SampleConfig = SampleConfig()  # pyright: ignore[reportCallIssue]
    simulate: SimulateConfig = SimulateConfig()  # pyright: ignore[reportCallIssue]
    labelling: LabellingConfig = LabellingConfig()  # pyright: ignore[reportCallIssue]
    consensus: ConsensusConfig = ConsensusConfig()  # pyright: ignore[reportCallIssue]
    reward: RewardTrainingConfig = RewardTrainingConfig()  # pyright: ignore[reportCallIssue]
    ppo: PPOTrainingConfig = PPOTrainingConfig()  # pyright: ignore[reportCallIssue]
    evaluate: EvaluateConfig = EvaluateConfig()  # pyright: ignore[reportCallIssue]


def load_config(
    files: list[Path] | None = None,
    assignments: list[str] | None = None,
    section: str | None = None,
) -> Config:
    """The configuration from `files` (later ones win) and `key=value` assignments.

    A key is a dotted path (`ppo.kl_coef`); inside the command of one stage, `section`, the bare name will do.
    Raises `ConfigError` naming the source, the key and the nearest known key.
    """
    sources = [(str(path), _read_yaml(Path(path))) for path in files or []]
    sources += [(f"--set {text}", _parse_assignment(text, section)) for text in assignments or []]
    tree: dict[str, Any] = {}
    for _, part in sources:
        _merge(tree, part)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        path = [str(part) for part in error.errors()[0]["loc"]]
        source = next((name for name, part in reversed(sources) if _holds(part, path)), "options")
        raise ConfigError(f"{source}: {_explain(error)}") from None


def _holds(tree: Any, path: list[str]) -> bool:
    """Whether the nested mapping gives a value at `path`."""
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path given to --config.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values, like `ppo:` with options below it.")
    return tree


def _parse_assignment(assignment: str, section: str | None) -> dict[str, Any]:
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {assignment}: write it as key=value, for example --set ppo.kl_coef=0.2."
        )
    path = key.strip().split(".")
    if len(path) == 1 and section is not None and path[0] not in Config.model_fields:
        path = [section, *path]
    try:
        leaf: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        leaf = value
    for part in reversed(path):
        leaf = {part: leaf}
    return leaf


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(error: ValidationError) -> str:
    """The first problem of a validation error in one sentence."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section = Config if len(path) == 1 else Config.model_fields[path[0]].annotation
        known = list(getattr(section, "model_fields", {}))
        hint = nearest(path[-1], known) or f"; known keys are {', '.join(known)}"
        return f"unknown key {name!r}{hint}."
    if problem["type"] == "model_type":
        return f"{name} needs options below it, indented; leave it out to keep them as they are."
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name or 'value'}: {message} (given: {problem['input']!r})." if name else f"{message}."
