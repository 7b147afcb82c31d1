"""`concord plan`: the arithmetic against published sizes, hand-computed parts, and measured peaks of small models."""

import json

import pytest
import torch
from typer.testing import CliRunner

from alignment.cli import app
from alignment.config import Config, load_config
from alignment.errors import InputError, ModelError
from alignment.models import memory
from alignment.models.activations import count_activations
from alignment.models.duration import forward_flops, iteration_seconds, step_seconds
from alignment.models.machines import GIB, Machine, machine, this_machine
from alignment.models.memory import Setting, head_bytes, plan_memory, weight_bytes
from alignment.models.shapes import model_config, model_shape
from alignment.planning import PlanOptions, plan
from benchmarks.plan_steps import Step, measured, planned
from tests.conftest import ARCHITECTURES, tiny_causal_lm

SMALL_ROLLOUT = {"batch": 4, "rollout": 4, "completion_length": 16}


def counted(name, **options):
    chosen = {"dtype": torch.float32, "autocast": None, "lora_rank": 8} | options
    return count_activations(model_config(name), **chosen)


@pytest.fixture(scope="module")
def seven_billion():
    return model_shape("7B"), counted("7B", dtype=torch.bfloat16, autocast=torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_plan_is_within_a_fifth_of_measured_peaks(precision):
    """Real steps of the real trainers; `make bench-plan` does the same for more sizes and architectures."""
    size = {"hidden_size": 192, "num_hidden_layers": 4, "precision": precision}
    steps = [Step("sft", **size), Step("reward", **size)]
    if precision == "fp32":
        steps += [Step("sft", lora_rank=None, **size), Step("sft", "gpt2", **size)]
    else:
        steps += [Step("ppo", **size, **SMALL_ROLLOUT)]
    check(steps)


@pytest.mark.slow
def test_the_plan_of_ppo_is_within_a_fifth_of_measured_peaks():
    """On all layers, on the upper ones with a value head, and where generation decides."""
    size = {"hidden_size": 192, **SMALL_ROLLOUT}
    steps = [Step("ppo", **size), Step("ppo", lora_layers="upper-half", critic="head", **size)]
    short = {"batch": 1, "rollout": 4, "prompt_length": 8, "completion_length": 8}
    merging = Step("ppo", hidden_size=512, vocab_size=1000, **short)
    assert planned(merging)["peak_at"] == "generation"
    check([*steps, merging])


def check(steps):
    for step, peak in zip(steps, measured(steps), strict=True):
        plan = planned(step)
        assert plan["peak_bytes"] == pytest.approx(peak["peak"], rel=0.2), step


def test_parameters_of_the_sizes_are_those_of_the_published_models():
    published = {"1B": 1_235_814_400, "7B": 6_738_415_616, "8B": 8_030_261_248}
    published |= {"13B": 13_015_864_320, "70B": 70_553_706_496}
    assert {name: model_shape(name).parameters for name in published} == published


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_equal_those_of_the_built_model(architecture, tmp_path):
    model = tiny_causal_lm(architecture)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # the configuration is enough
    shape = model_shape(tmp_path)
    assert shape.parameters == model.num_parameters()
    assert shape.num_hidden_layers == 2 and shape.hidden_size == 32
    cache = model(torch.zeros(1, 1, dtype=torch.long), use_cache=True).past_key_values
    layer = cache.layers[0]
    assert shape.key_value_size == layer.keys.numel() + layer.values.numel()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counted_activations_are_what_autograd_keeps_in_the_real_model(architecture):
    """The count on fake tensors against a count on the real model, attention's own buffers apart."""
    real = tiny_causal_lm(architecture).train()
    kept = count_activations(real.config, dtype=torch.float32, autocast=None, lora_rank=None)
    weights = {p.untyped_storage().data_ptr() for p in [*real.parameters(), *real.buffers()]}
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = real.base_model(torch.zeros(2, 40, dtype=torch.long), use_cache=False)
    total = sum(t.untyped_storage().nbytes() for at, t in held.items() if at not in weights)
    # On a processor attention with dropout, as GPT-2 has it, runs unfused; on a GPU it does not.
    square = sum(t.nbytes for t in held.values() if t.shape[-2:] == (40, 40))
    dropout = square if architecture == "gpt2" else 0
    assert kept.saved(2, 40, 2) == pytest.approx(total - dropout, rel=0.03)
    del output


def test_the_adapter_is_counted_as_peft_makes_it():
    hidden, inner, layers, rank = 4096, 11008, 32, 8
    by_hand = rank * layers * (4 * 2 * hidden + 3 * (hidden + inner))
    assert counted("7B").adapter(layers) == by_hand
    two = counted("7B", target_modules=["q_proj", "v_proj"])
    assert two.adapter(layers) == rank * layers * 2 * 2 * hidden


def test_mixed_precision_and_quantisation_by_hand(seven_billion):
    shape, _ = seven_billion
    linear, others = shape.linear_parameters, shape.parameters - shape.linear_parameters
    assert weight_bytes(shape, Setting("sft", precision="bf16")) == 2 * shape.parameters
    assert weight_bytes(shape, Setting("sft", precision="fp32")) == 4 * shape.parameters
    int4 = weight_bytes(shape, Setting("sft", precision="int4"))
    assert int4 == pytest.approx(2 * others + linear / 2 + linear / 64 * (1 + 4 / 256))
    int8 = weight_bytes(shape, Setting("sft", precision="int8"))
    assert int8 == 2 * others + linear + 4 * shape.linear_rows
    reward = weight_bytes(shape, Setting("reward", precision="bf16"))
    assert reward == 2 * (shape.parameters - 32000 * 4096 + 4096)


def test_full_training_holds_weights_gradients_and_two_moments(seven_billion):
    shape, kept = seven_billion
    full = plan_memory(shape, kept, Setting("sft", lora_rank=None, batch_size=1))
    update = {m.name: m for m in full.moments}["update of the weights"]
    assert update.total == 4 * 4 * shape.parameters


def test_the_head_never_holds_batch_by_length_by_vocabulary(seven_billion):
    shape, _ = seven_billion
    huge = Setting("sft", batch_size=256, prompt_length=2000, completion_length=2000)
    tile = memory.TILE_TOKENS * memory.TILE_WORDS * 2
    rows = 256 * 3999
    assert head_bytes(shape, huge) == tile + rows * shape.hidden_size * 6


def test_tile_sizes_are_those_of_trl():
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    assert memory.TILE_TOKENS == chunked_logprob.TOKEN_CHUNK_SIZE
    assert memory.TILE_WORDS == utils._CHUNKED_LOGPROB_CHUNK_SIZE


def test_ppo_holds_three_adapters_of_which_two_train(seven_billion):
    shape, kept = seven_billion

    def parts(stage, **options):
        memory = plan_memory(shape, kept, Setting(stage, **options))
        return {m.name: m for m in memory.moments}["update of the weights"].parts

    one = 4 * kept.adapter(32)
    head = 4 * (4096 * 4096 + 3 * 4096 + 1)
    for held, trained, found in (
        (3, 2, parts("ppo")),
        (2, 1, parts("ppo", critic="head")),
        (1, 1, parts("reward")),
        (1, 0.5, parts("ppo", critic="head", lora_layers="upper-half", reward_layers="upper-half")),
    ):
        assert found["adapters"] == held * one
        value = found.get("value head", 0)
        assert value == (0 if (held, trained) == (1, 1) else head)
        assert found["Adam's moments"] == 2 * found["gradients"] == 2 * (trained * one + value)


def test_nothing_is_kept_below_the_lowest_adapter_and_shared_states_are_held(seven_billion):
    shape, kept = seven_billion
    upper = {"lora_layers": "upper-half", "precision": "bf16"}

    def moments(stage, **options):
        memory = plan_memory(shape, kept, Setting(stage, **{**upper, **options}))
        return {m.name: m.parts for m in memory.moments}

    backward = moments("reward")["first backward layer"]
    assert backward["activations"] == round(kept.saved(8, 320, 16))
    assert moments("reward", lora_layers=(31,))["first backward layer"]["activations"] == round(
        kept.saved(8, 320, 1)
    )
    shared = moments("ppo", reward_layers="upper-half")
    assert shared["first backward layer"]["activations"] == round(2 * kept.saved(8, 320, 16))
    for moment in ("language-model head", "update of the weights", "generation"):
        assert shared[moment]["lower states"] == 64 * 320 * 4096 * 2
    # A value copied from a reward model on all layers leaves nothing to share; one that starts at zero does not.
    copied = moments("ppo")
    both = kept.saved(8, 320, 16) + kept.saved(8, 320, 32)
    assert copied["first backward layer"]["activations"] == round(both)
    assert "lower states" not in copied["generation"]
    assert "lower states" in moments("ppo", value_init="zero")["generation"]
    off = moments("ppo", reward_layers="upper-half", share_lower_trunk=False)
    assert "lower states" not in off["generation"]


def test_generation_holds_a_merged_copy_of_the_weights_with_adapters(seven_billion):
    shape, kept = seven_billion

    def merged(kept=kept, **options):
        memory = plan_memory(shape, kept, Setting("ppo", **{"precision": "bf16", **options}))
        return {m.name: m.parts for m in memory.moments}["generation"].get("merged weights")

    assert merged() == 2 * shape.linear_parameters
    assert merged(precision="fp32", lora_layers="upper-half") == 2 * shape.linear_parameters
    two = counted("7B", target_modules=["q_proj", "v_proj"])
    assert merged(two) == 2 * 32 * 2 * 4096**2
    for never in (
        {"merge_for_generation": False},
        {"precision": "int4"},
        {"devices": 2, "sharding": "fsdp"},
    ):
        assert merged(**never) is None


def test_sharding_divides_what_training_holds_and_a_copy_does_not(seven_billion):
    shape, kept = seven_billion

    def peak(**options):
        return plan_memory(
            shape, kept, Setting("sft", lora_rank=None, batch_size=1, **options)
        ).peak.total

    alone, copies = peak(), peak(devices=8)
    sharded = peak(devices=8, sharding="fsdp")
    assert copies > alone > 4 * sharded


def test_checkpointing_batch_and_precision_move_the_peak_the_right_way(seven_billion):
    shape, kept = seven_billion

    def peak(stage, **options):
        return plan_memory(shape, kept, Setting(stage, precision="bf16", **options)).peak.total

    for stage in ("sft", "reward", "ppo"):
        assert peak(stage, activation_checkpointing=True) < peak(stage)
        assert peak(stage, batch_size=16) > peak(stage, batch_size=8)
    assert peak("ppo", critic="head") < peak("ppo")
    long = {"prompt_length": 64, "completion_length": 3900, "batch_size": 1}
    generation = plan_memory(shape, kept, Setting("ppo", rollout=64, **long)).peak
    assert generation.name == "generation"
    assert generation.parts["keys and values"] == 64 * 3964 * 8192 * 2 * 33


def test_time_by_hand(seven_billion):
    shape, _ = seven_billion
    device = Machine("x", 80 * GIB, True, 1e14, 1e12, GIB)
    setting = Setting("reward", precision="bf16", batch_size=8, lora_rank=8)
    forward = 8 * 320 * (2 * shape.linear_parameters + 2 * 32 * 4096 * 320)
    assert forward_flops(shape, 8 * 320, 320) == forward
    assert step_seconds(shape, setting, device) == pytest.approx(2 * forward / 4e13)
    phases = iteration_seconds(shape, Setting("ppo", precision="bf16"), device, epochs=4)
    assert set(phases) == {"generation", "scoring", "update"} and min(phases.values()) > 0
    keys = 64 * 320 / 2 * 8192 * 32 * 2  # on average half of them are there
    reads = 64 * (2 * shape.parameters + keys) / 5e11  # bound by reading weights and keys
    assert phases["generation"] == pytest.approx(reads)
    unknown = Machine("24GiB", 24 * GIB, True, None, None, GIB)
    assert step_seconds(shape, setting, unknown) is None


def test_the_plan_says_what_fits_and_what_would():
    small = plan(Config(), PlanOptions(model="7B", precision="fp32", machine="24GiB"))
    assert not small["fits"]
    assert any("int4" in way for way in small["stages"]["ppo"]["what_would_fit"])
    lean = {"precision": "int4", "activation_checkpointing": True, "batch_size": 1}
    quantised = plan(Config(), PlanOptions(model="7B", machine="24GiB", **lean))
    assert quantised["fits"]
    tiny = plan(Config(), PlanOptions(model="demo", prompt_length=32))
    assert tiny["fits"] and tiny["machine"]["accelerator"] is torch.cuda.is_available()


def test_options_come_from_the_configuration_and_the_command_line_wins():
    config = load_config(None, ["base_precision=bf16", "ppo.lora_rank=4", "ppo.batch_size=32"])
    stage = plan(config, PlanOptions(model="1B", machine="h100", devices=2, fsdp=True))["stages"]
    assert stage["ppo"]["setting"]["lora_rank"] == 4
    assert stage["ppo"]["setting"]["rollout"] == 16, "half of the episodes on each"
    assert stage["sft"]["setting"]["precision"] == "bf16"
    assert stage["sft"]["setting"]["sharding"] == "fsdp"
    other = plan(config, PlanOptions(model="1B", machine="h100", lora_rank=64, full=True))
    assert other["stages"]["ppo"]["setting"]["lora_rank"] == 64
    assert other["stages"]["sft"]["setting"]["lora_rank"] is None
    upper = load_config(
        None, ["ppo.lora_layers=[30,31]", "ppo.critic=head", "reward.lora_layers=upper-half"]
    )
    stage = plan(upper, PlanOptions(model="7B", machine="h100"))["stages"]
    assert stage["ppo"]["setting"]["lora_layers"] == (30, 31)
    assert stage["ppo"]["setting"]["critic"] == "head"
    assert stage["reward"]["setting"]["lora_layers"] == "upper-half"
    assert stage["ppo"]["moments"]["generation"]["lower states"] > 0


def test_bad_input_says_what_to_do():
    with pytest.raises(ModelError, match="copy the model's config"):
        model_shape("nobody/nothing")
    with pytest.raises(InputError, match="did you mean 'h100'"):
        machine("h10")
    with pytest.raises(InputError, match="adapters only"):
        Setting("ppo", lora_rank=None)
    with pytest.raises(InputError, match="cannot be trained"):
        Setting("sft", lora_rank=None, precision="int4")
    with pytest.raises(InputError, match="does not split"):
        Setting("ppo", precision="int8", devices=2, sharding="fsdp")
    with pytest.raises(InputError, match="context window"):
        plan(Config(), PlanOptions(model="7B", machine="h100", prompt_length=5000))
    with pytest.raises(ModelError, match="lora_target_modules"):
        counted("7B", target_modules=["nowhere"])
    with pytest.raises(ModelError, match="not a causal language model"):
        from transformers import T5Config

        from alignment.models.shapes import on_meta

        on_meta(T5Config())


def test_this_machine_is_measured():
    here = this_machine()
    assert here.memory > 0 and here.flops > 1e8 and here.bandwidth > 1e7


def test_the_command_prints_a_table_and_json():
    runner = CliRunner()
    arguments = ["plan", "7B", "--machine", "h100", "--precision", "bf16", "--fsdp", "2"]
    table = runner.invoke(app, arguments)
    assert table.exit_code == 0 and "6,738 M parameters on 2 x h100" in table.output
    printed = runner.invoke(app, [*arguments, "--json"])
    figures = json.loads(printed.output.splitlines()[-1])
    assert figures["stages"]["ppo"]["fits"] and figures["model"]["vocab_size"] == 32000
    assert figures["stages"]["reward"]["seconds"]["step"] > 0
