"""The shared lower trunk and the other ways to run the roles give what the whole model gives, for each architecture."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from alignment.errors import ConfigError
from alignment.models.loading import turn_off_dropout
from alignment.models.lora import decoder_layers, layer_numbers, lora_config
from alignment.models.scalar_heads import ScalarHead, ValueHead
from alignment.models.trunk import POLICY, REFERENCE, REWARD, VALUE, Trunk
from tests.conftest import ARCHITECTURES, tiny_causal_lm

KEEP = 5
IDS = torch.tensor([[1, 1, 7, 8, 9, 20, 21, 22, 23, 24], [5, 6, 7, 8, 9, 30, 31, 32, 1, 1]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]])


def four_layers(architecture):
    config = tiny_causal_lm(architecture).config
    config.num_hidden_layers = 4
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i % 2] for i in range(4)]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    turn_off_dropout(model)
    return model


def trunk_of(architecture, layers="upper-half", critic="adapter"):
    """A trunk with all roles, whose adapters are far from 0."""
    model = four_layers(architecture)
    options = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
    lora = lora_config(model, task_type="CAUSAL_LM", layers=layers, **options)
    trunk = Trunk(model, lora)
    trunk._add_adapter(REWARD, trunk.model.peft_config[POLICY], {})
    trunk.base.reward_head = ScalarHead(torch.randn(1, 32))
    trunk.add_fresh_value(adapter=critic == "adapter")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trunk.model.named_parameters():
            if "lora_B" in name or ("head" in name and "lm_head" not in name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    add_fused_lm_head(trunk.base, outputs=("log_probs", "entropy"))
    trunk.add_roles()
    trunk.model.train()
    return trunk


def run(trunk, role, **more):
    positions = (MASK.cumsum(1) - 1).clamp(min=0)
    return trunk.model(
        input_ids=IDS,
        attention_mask=MASK,
        position_ids=positions,
        fused_lm_head=True,
        role=role,
        keep=KEEP,
        **more,
    )


def loss_of(out):
    mask = MASK[:, -KEEP:]
    return ((out.log_probs - 0.1 * out.entropy + out.state_values**2) * mask).sum()


def gradients(trunk):
    found = {n: p.grad.clone() for n, p in trunk.trainable().items() if p.grad is not None}
    trunk.model.zero_grad()
    return found


@pytest.mark.parametrize("critic", ["adapter", "head"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shared_lower_trunk_is_exact(architecture, critic):
    trunk = trunk_of(architecture, critic=critic)
    whole = {role: run(trunk, role) for role in (POLICY, REWARD, REFERENCE)}
    loss_of(whole[POLICY]).backward()
    expected = gradients(trunk)
    assert trunk.share_lower_trunk() is None
    assert trunk.lower.first == 2
    reference = run(trunk, REFERENCE)
    assert torch.equal(reference.log_probs, whole[REFERENCE].log_probs)
    lower = reference.lower_states.detach()
    assert lower.shape == (2, 10, 32)
    policy, reward = (run(trunk, role, lower_states=lower) for role in (POLICY, REWARD))
    mask = MASK[:, -KEEP:]
    for key in ("log_probs", "entropy", "state_values"):
        apart = (getattr(policy, key) - getattr(whole[POLICY], key)) * mask
        assert float(apart.abs().max()) < 1e-5, key
    ends = mask.sum(1)[:, None]
    apart = reward.state_values.gather(1, ends) - whole[REWARD].state_values.gather(1, ends)
    assert float(apart.abs().max()) < 1e-5
    loss_of(policy).backward()
    found = gradients(trunk)
    assert found.keys() == expected.keys() == trunk.trainable().keys()
    assert max(float((found[n] - expected[n]).abs().max()) for n in found) < 1e-5


def test_a_value_heads_gradient_stays_out_of_the_policy():
    trunk = trunk_of("llama", critic="head")
    run(trunk, POLICY).state_values.square().sum().backward()
    moved = {name for name, gradient in gradients(trunk).items() if gradient.any()}
    assert moved == {name for name in trunk.trainable() if ".value_head." in name}


def test_the_value_head_starts_as_a_linear_read_out_and_adds_a_hidden_layer():
    hidden, weight = torch.randn(2, 3, 8), torch.randn(1, 8)
    head = ValueHead(weight, 0.5)
    linear = hidden @ weight[0] + 0.5
    torch.testing.assert_close(head(hidden), linear)
    with torch.no_grad():
        head.outer.weight.normal_()
    inner = hidden @ head.inner.weight.T + head.inner.bias
    gelu = inner * torch.special.ndtr(inner)
    torch.testing.assert_close(head(hidden), linear + gelu @ head.outer.weight[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_states_kept_while_sampling_are_those_of_a_pass(architecture):
    trunk = trunk_of(architecture)
    trunk.share_lower_trunk()
    prompts, mask = IDS[:, :5], torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    generation = GenerationConfig(
        max_new_tokens=6, min_new_tokens=6, do_sample=True, eos_token_id=0, pad_token_id=1
    )
    with torch.no_grad(), trunk.merged_policy(), trunk.lower.watched():
        drawn = trunk.model.generate(
            input_ids=prompts, attention_mask=mask, generation_config=generation
        )
        mask = torch.cat([mask, torch.ones(2, 6, dtype=torch.long)], 1)
        kept = trunk.lower.finish_generation(trunk.base, drawn, mask)
    with torch.no_grad():
        reference = trunk.model(
            input_ids=drawn,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            fused_lm_head=True,
            role=REFERENCE,
            keep=6,
        )
    assert kept.shape == (2, 11, 32)
    apart = (kept - reference.lower_states)[mask.bool()]
    assert float(apart.abs().max()) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_fused_adapter_is_pefts(architecture):
    trunk = trunk_of(architecture)
    loss_of(run(trunk, POLICY)).backward()
    fused = gradients(trunk)
    layers = [layer for layer in trunk._tuners() if layer.lora_variant]
    assert len(layers) == len(trunk._tuners())
    for layer in layers:
        layer.lora_variant.clear()
    loss_of(run(trunk, POLICY)).backward()
    plain = gradients(trunk)
    assert max(float((fused[n] - plain[n]).abs().max()) for n in plain) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_left_padding_changes_no_role(architecture):
    trunk = trunk_of(architecture)
    padded = run(trunk, POLICY)
    alone = trunk.model(
        input_ids=IDS[:1, 2:],
        attention_mask=MASK[:1, 2:],
        position_ids=torch.arange(8)[None],
        fused_lm_head=True,
        role=POLICY,
        keep=KEEP,
    )
    assert torch.allclose(padded.log_probs[:1], alone.log_probs, atol=1e-5)
    assert torch.allclose(padded.state_values[:1], alone.state_values, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_activation_checkpointing_computes_each_layer_again_in_its_own_role(architecture):
    trunk = trunk_of(architecture)
    trunk.share_lower_trunk()
    lower = run(trunk, REFERENCE).lower_states.detach()
    loss_of(run(trunk, POLICY, lower_states=lower)).backward()
    expected = gradients(trunk)
    trunk.model.gradient_checkpointing_enable({"use_reentrant": False})
    loss_of(run(trunk, POLICY, lower_states=lower)).backward()
    found = gradients(trunk)
    assert max(float((found[n] - expected[n]).abs().max()) for n in expected) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_merged_policy_is_the_policy_and_leaves_the_weights_as_they_were(architecture):
    trunk = trunk_of(architecture)
    before = {name: p.detach().clone() for name, p in trunk.model.named_parameters()}
    checksum = trunk.frozen_checksum()
    with torch.no_grad():
        plain = trunk.model(input_ids=IDS, attention_mask=MASK).logits
        with trunk.merged_policy():
            merged = trunk.model(input_ids=IDS, attention_mask=MASK).logits
    rows = MASK.bool()
    assert torch.allclose(plain[rows], merged[rows], atol=1e-5)
    assert trunk.frozen_checksum() == checksum
    for name, parameter in trunk.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_the_checksum_sees_a_single_bit():
    trunk = trunk_of("llama")
    before = trunk.frozen_checksum()
    with torch.no_grad():
        trunk.base.model.layers[0].mlp.up_proj.weight.view(-1)[3] *= 1 + 1e-7
        assert trunk.frozen_checksum() != before


def test_a_value_adapter_on_the_lowest_layer_switches_sharing_off_and_says_why():
    trunk = trunk_of("llama", layers="all")
    assert "begins at layer 0" in trunk.share_lower_trunk()
    assert trunk.lower is None
    assert run(trunk, REFERENCE).lower_states is None


def test_which_layers_carry_an_adapter():
    assert layer_numbers("all", 3) == [0, 1, 2]
    assert layer_numbers("upper-half", 5) == [2, 3, 4]
    assert layer_numbers([3, 1], 4) == [1, 3]
    for wrong in ([4], [-1], []):
        with pytest.raises(ConfigError, match="layers are 0 to 3"):
            layer_numbers(wrong, 4)
    trunk = trunk_of("opt", layers=[1, 3])
    assert trunk.lowest_layer(POLICY) == trunk.lowest_layer(VALUE) == 1
    assert len(decoder_layers(trunk.base)) == 4
