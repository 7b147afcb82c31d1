"""How much memory a training step takes: arithmetic on the sizes of a model. Nothing is loaded and nothing measured.

Memory is highest at one of a few moments. At each of them the same parts are held (weights, adapters, the two moments
of Adam), plus what that moment adds:

    language-model head   activations of all layers, one tile of logits and the gradient of the hidden states
    first backward layer  activations of all layers, gradients inside one layer (and its recomputed activations); in PPO
                          those of policy and value, whose pass is the last forward and so the first backward
    update of the weights the gradients of everything that trains
    generation (PPO)      keys and values of the rollout, logits of one token per sequence, and a copy of the weights
                          that carry the policy's adapter, with it added (`ppo.merge_for_generation`)

The backward pass ends at the lowest layer with an adapter, so nothing is kept below it. Where PPO shares those layers
(`ppo.share_lower_trunk`), the states that leave them are held for the whole rollout.

Figures are bytes per device. The tile of logits is that of TRL's fused head, which never holds batch x length x
vocabulary: 4096 tokens x 32768 words at most (trl/kernels/chunked_logprob.py). FSDP shards weights, gradients and
Adam's moments over the devices and gathers one layer while it computes and the next one ahead; DDP keeps everything on
each device and a second copy of the gradients in its buckets (Zhao et al. 2023, arXiv:2304.11277; Li et al. 2020,
arXiv:2006.15704).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from alignment.config import Precision
from alignment.errors import InputError
from alignment.models.activations import Activations
from alignment.models.lora import layer_numbers
from alignment.models.shapes import ModelShape

TILE_TOKENS, TILE_WORDS = 4096, 32768  # TRL's TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE
# Without Triton (on the processor) TRL's head works on whole tiles: seven and a mask at once in its backward pass.
CPU_TILES = 7.25
SAMPLING_COPIES = (
    4  # of a token's logits: raw, in float32, divided by the temperature, as probabilities
)
BLOCK = 64  # weights that share a scale in 4 bit (NF4); the scales themselves are quantised in groups of 256
ADAPTER_BYTES = 4  # adapters are trained in float32


@dataclass(frozen=True, slots=True)
class Setting:
    """One stage of training on `devices` equal devices; batch and rollout are per device."""

    stage: Literal["sft", "reward", "ppo"]
    precision: Precision = "fp32"
    lora_rank: int | None = 16  # None trains all weights
    batch_size: int = 8  # sequences per forward and backward pass
    prompt_length: int = 256
    completion_length: int = 64
    rollout: int = 64  # episodes (PPO)
    accumulation: int = 1  # passes before each update
    devices: int = 1
    sharding: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool = False
    critic: Literal["adapter", "head"] = "adapter"
    value_init: Literal["reward", "zero"] = "reward"
    lora_layers: str | tuple[int, ...] = "all"
    reward_layers: str | tuple[int, ...] = "all"  # of PPO's reward model
    share_lower_trunk: bool = True
    merge_for_generation: bool = True
    accelerator: bool = True  # mixed precision and Triton's kernels, or a processor

    def __post_init__(self) -> None:
        if self.lora_rank is None and self.stage == "ppo":
            raise InputError(
                "Concord's PPO trains LoRA adapters only: give a rank, or plan a full training for sft and reward."
            )
        if self.lora_rank is None and self.precision in ("int8", "int4"):
            raise InputError(
                f"Weights in {self.precision} cannot be trained, only carry an adapter: give a LoRA rank, or choose "
                "bf16."
            )
        if self.devices > 1 and self.sharding == "fsdp" and self.precision in ("int8", "int4"):
            raise InputError(
                f"FSDP does not split a base in {self.precision}: choose bf16, or DDP, a copy on each device."
            )

    @property
    def length(self) -> int:
        return self.prompt_length + self.completion_length

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number in the residual stream."""
        return 4 if self.precision == "fp32" else self.compute_bytes

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in the matrix products: autocast halves them on an accelerator."""
        return 2 if self.accelerator or self.precision in ("fp16", "bf16") else 4


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of training and what is held then, in bytes per device."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """The moments of one stage; the highest decides."""

    setting: Setting
    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    def to_json(self) -> dict[str, Any]:
        moments = {m.name: {**m.parts, "total": m.total} for m in self.moments}
        return {
            "setting": asdict(self.setting),
            "peak_bytes": self.peak.total,
            "peak_at": self.peak.name,
            "moments": moments,
        }


def weight_bytes(shape: ModelShape, setting: Setting) -> float:
    """Bytes of the base's weights. Quantisation touches the linear layers inside the decoder only (LLM.int8(), Dettmers
    et al. 2022, arXiv:2208.07339; NF4 with double quantisation, Dettmers et al. 2023, arXiv:2305.14314)."""
    count = shape.parameters
    if setting.stage == "reward":  # a score replaces the language-model head
        count += shape.hidden_size - shape.head_parameters
    if setting.precision == "fp32":
        return 4 * count
    if setting.precision in ("fp16", "bf16"):
        return 2 * count
    others = (count - shape.linear_parameters) * setting.compute_bytes
    if setting.precision == "int8":
        return others + shape.linear_parameters + 4 * shape.linear_rows
    scales = shape.linear_parameters / BLOCK * (1 + 4 / 256)
    return others + shape.linear_parameters / 2 + scales


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on some decoder layers, sorted. `passes`: it has a pass of its own in each update."""

    role: str
    layers: list[int]
    trains: bool = True
    passes: bool = True


def adapters(shape: ModelShape, setting: Setting) -> list[Adapter]:
    """One; in PPO policy and reward, and the value unless it is a head on the policy's states."""
    if setting.lora_rank is None:
        return []
    own = layer_numbers(setting.lora_layers, shape.num_hidden_layers)
    if setting.stage != "ppo":
        return [Adapter(setting.stage, own)]
    rewards = layer_numbers(setting.reward_layers, shape.num_hidden_layers)
    found = [Adapter("policy", own), Adapter("reward", rewards, trains=False, passes=False)]
    if setting.critic == "adapter":
        found.append(Adapter("value", rewards if setting.value_init == "reward" else own))
    return found


def shared_layers(shape: ModelShape, setting: Setting) -> int:
    """The lower layers that PPO computes once per rollout: those below every adapter that trains."""
    if setting.stage != "ppo" or not setting.share_lower_trunk:
        return 0
    return min(each.layers[0] for each in adapters(shape, setting) if each.trains)


def lower_state_bytes(shape: ModelShape, setting: Setting) -> float:
    """The states of a whole rollout that enter the first layer which is not shared."""
    if not shared_layers(shape, setting):
        return 0.0
    return setting.rollout * setting.length * shape.hidden_size * setting.stream_bytes


def value_head_bytes(shape: ModelShape) -> float:
    """Of `ValueHead`: a linear read-out and a hidden layer as wide as the states, in float32."""
    size = shape.hidden_size
    return 4.0 * (size + 1 + size * size + size + size)


def held_always(shape: ModelShape, kept: Activations, setting: Setting) -> dict[str, float]:
    """What is held from the first update to the end."""
    weights = weight_bytes(shape, setting)
    if setting.lora_rank is None:
        trained = weights
        parts = {"weights": weights}
    else:
        sizes = [
            (ADAPTER_BYTES * kept.adapter(len(each.layers)), each.trains)
            for each in adapters(shape, setting)
        ]
        trained = sum(size for size, trains in sizes if trains)
        parts = {"weights": weights, "adapters": sum(size for size, _ in sizes)}
        if setting.stage == "ppo":
            parts["value head"] = value_head_bytes(shape)
            trained += parts["value head"]
    parts["Adam's moments"] = 2 * trained
    parts["gradients"] = trained
    if setting.devices > 1 and setting.sharding == "fsdp":
        parts = {name: size / setting.devices for name, size in parts.items()}
        per_weight = weights / shape.parameters
        outside = shape.parameters - shape.num_hidden_layers * shape.layer_parameters
        parts["gathered weights"] = per_weight * (2 * shape.layer_parameters + outside)
    elif setting.devices > 1:
        parts["gradient buckets"] = trained
    return parts


def activation_bytes(
    shape: ModelShape, kept: Activations, setting: Setting
) -> tuple[float, float, float]:
    """Kept by the first pass of an update, by all of them, and added while one layer is computed anew (checkpointing).

    Each pass keeps what the layers from its lowest adapter up need. TRL lets checkpointed inputs take gradients, so
    there all layers count that are run.
    """
    sequences, length, count = setting.batch_size, setting.length, shape.num_hidden_layers
    firsts = [each.layers[0] for each in adapters(shape, setting) if each.passes] or [0]
    if not setting.activation_checkpointing:
        passes = [kept.saved(sequences, length, count - first) for first in firsts]
        return passes[0], sum(passes), 0.0
    run = count - shared_layers(shape, setting)
    outside = kept.saved(sequences, length, 0)
    inputs = run * sequences * length * shape.hidden_size * setting.stream_bytes + outside
    return inputs, len(firsts) * inputs, kept.saved(sequences, length, 1) - outside


def head_bytes(shape: ModelShape, setting: Setting) -> float:
    """One tile of logits, the hidden states that are scored with their gradient, and that of the head's weights.

    Only the tokens that are scored enter the head: PPO's completions and the one before, all of SFT.
    """
    scored = setting.completion_length + 1 if setting.stage == "ppo" else setting.length - 1
    rows = setting.batch_size * scored
    size = setting.compute_bytes
    tile = min(rows, TILE_TOKENS) * TILE_WORDS * size
    if not setting.accelerator:
        tile += CPU_TILES * min(rows, TILE_TOKENS) * min(shape.vocab_size, TILE_WORDS) * 4
    hidden = rows * shape.hidden_size * (size + 4)
    weights = 4 * shape.vocab_size * shape.hidden_size if setting.lora_rank is None else 0
    return tile + hidden + weights


def layer_gradient_bytes(shape: ModelShape, setting: Setting) -> float:
    """Gradients inside one layer while it goes back: two as wide as its widest product, two of the residual stream."""
    tokens = setting.batch_size * setting.length
    return 2 * tokens * (shape.widest + shape.hidden_size) * setting.compute_bytes


def generation_bytes(shape: ModelShape, kept: Activations, setting: Setting) -> dict[str, float]:
    """Keys and values of a whole rollout (one layer's twice, while it grows), one token's logits per sequence, and the
    weights with the policy's adapter added, beside the weights themselves."""
    cached = setting.rollout * setting.length * shape.key_value_size * setting.compute_bytes
    parts: dict[str, float] = {
        "keys and values": cached * (shape.num_hidden_layers + 1),
        "logits": SAMPLING_COPIES * 4 * setting.rollout * shape.vocab_size,
    }
    sharded = setting.devices > 1 and setting.sharding == "fsdp"
    if setting.merge_for_generation and not sharded and setting.precision not in ("int8", "int4"):
        policy = adapters(shape, setting)[0]
        size = 4 if setting.precision == "fp32" else 2
        parts["merged weights"] = size * kept.adapted_layer * len(policy.layers)
    return parts


def plan_memory(shape: ModelShape, kept: Activations, setting: Setting) -> Memory:
    """The moments of one stage. `kept` is counted for the same precision and rank (`count_activations`)."""
    always = held_always(shape, kept, setting)
    gradients = always.pop("gradients")
    # Gradients are dropped after each update; they are there during a pass only where several passes are summed.
    between = {**always, **({"gradients": gradients} if setting.accumulation > 1 else {})}
    if lower := lower_state_bytes(shape, setting):
        between["lower states"] = always["lower states"] = lower
    activations, all_passes, recomputed = activation_bytes(shape, kept, setting)
    going_back = layer_gradient_bytes(shape, setting)
    full = setting.lora_rank is None
    update = {"gradients": gradients}
    if (
        full and shape.head_parameters == 0
    ):  # a tied embedding has two gradients before they are summed
        update["tied embedding"] = 4 * shape.vocab_size * shape.hidden_size
    moments = []
    if setting.stage != "reward":
        head = {"activations": activations, "logits and hidden states": head_bytes(shape, setting)}
        moments.append(_moment("language-model head", between, head))
    layer = {
        "activations": all_passes + recomputed,
        "gradients inside a layer": going_back,
    }
    if full and setting.stage == "sft":  # that of the head is there already
        layer["gradients"] = 4 * shape.vocab_size * shape.hidden_size
    moments.append(_moment("first backward layer", between, layer))
    moments.append(_moment("update of the weights", always, update))
    if setting.stage == "ppo":
        moments.append(_moment("generation", always, generation_bytes(shape, kept, setting)))
    return Memory(setting, tuple(moments))


def _moment(name: str, held: dict[str, float], added: dict[str, float]) -> Moment:
    parts = dict(held)
    for part, size in added.items():
        parts[part] = parts.get(part, 0) + size
    return Moment(name, {part: round(size) for part, size in parts.items() if size})
