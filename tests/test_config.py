import pytest
import yaml

from alignment.config import Config, Section, load_config
from alignment.errors import ConfigError
from alignment.workspace import explained_yaml


def test_later_sources_win(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("ppo: {kl_coef: 0.5, gamma: 0.9}\n")
    second.write_text("ppo: {kl_coef: 0.6}\n")
    config = load_config([first, second], ["lam=0.5", "sample.top_k=3"], section="ppo")
    assert (config.ppo.kl_coef, config.ppo.gamma, config.ppo.lam, config.sample.top_k) == (
        0.6,
        0.9,
        0.5,
        3,
    )


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("kl_cof=1", "did you mean 'kl_coef'"),
        ("sampel.top_k=1", "did you mean 'sample'"),
        ("ppo.kl_coef=-1", "greater than or equal to 0"),
        ("ppo.batch_size=63", "multiple of completions_per_prompt"),
        ("kl_coef", "key=value"),
        ("ppo=3", "ppo"),
        ("sample.completions_per_prompt=1", "greater than or equal to 2"),
        ("simulate.rankings_per_prompt=30", "pool holds only 12"),
    ],
)
def test_mistakes_are_named(assignment, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config([], [assignment], section="ppo")


def test_options_that_only_fit_together_may_come_one_by_one():
    config = load_config(
        [], ["batch_size=96", "num_mini_batches=4", "per_device_train_batch_size=24"], "ppo"
    )
    assert config.ppo.batch_size == 96


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "concord.yaml"
    path.write_text("reward:\n  learning_rte: 0.1\n")
    with pytest.raises(
        ConfigError, match=r"concord\.yaml: unknown key 'reward\.learning_rte' \(did you mean"
    ):
        load_config([path])
    path.write_text("reward: [unclosed")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config([path])
    path.write_text("just a text")
    with pytest.raises(ConfigError, match="keys and values"):
        load_config([path])


def test_the_explained_defaults_are_the_defaults():
    assert Config.model_validate(yaml.safe_load(explained_yaml(Config()))) == Config()


def test_every_option_explains_itself():
    sections = [
        Config,
        *(type(v) for v in dict(Config()).values() if isinstance(v, Section)),
    ]
    for section in sections:
        for name, field in section.model_fields.items():
            assert section is Config or field.description, (
                f"{section.__name__}.{name} has no description"
            )
