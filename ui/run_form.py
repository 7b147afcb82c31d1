"""The form of a stage, made from its typed configuration: fields with their explanations, checks, and what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from alignment import control
from alignment.base_name import check_base_name
from alignment.config import Config, PPOTrainingConfig
from alignment.errors import InputError
from alignment.training.launch import check_rollout

ROUND_FIELDS = ("labelers",)  # of the consensus, with which a round begins


def base_fields(config: Config, stage: str) -> list[dict[str, Any]]:
    """The fields that choose the base model, as those of `fields`; none where the stage has no use for it. For a round
    also whose rankings count."""
    if stage == "round":
        return [*_fields(config, control.BASE), *_fields(config.consensus, ROUND_FIELDS)]
    return _fields(config, control.BASE) if stage in control.BASED else []


def fields(config: Config, stage: str) -> list[dict[str, Any]]:
    """The fields of a stage: name, explanation, kind of input, present value, and choices where there are few.

    `kind`: number, integer, flag, choice, text, or yaml for what is none of these (lists, optional mixtures).
    """
    section: BaseModel = getattr(config, stage)
    return _fields(section, tuple(type(section).model_fields))


def _fields(section: BaseModel, names: tuple[str, ...]) -> list[dict[str, Any]]:
    schema = type(section).model_json_schema()["properties"]
    return [
        {
            "name": name,
            "about": info.description or "",
            "value": getattr(section, name)
            if _plain(getattr(section, name))
            else yaml.safe_dump(section.model_dump(mode="json")[name], sort_keys=False),
            **_kind(schema[name]),
        }
        for name, info in type(section).model_fields.items()
        if name in names
    ]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _kind(schema: dict[str, Any]) -> dict[str, Any]:
    options = schema.get("anyOf", [schema])
    optional = any(option.get("type") == "null" for option in options)
    [first, *others] = [option for option in options if option.get("type") != "null"]
    limits = {
        ours: first[theirs]
        for theirs, ours in (("minimum", "min"), ("maximum", "max"))
        if theirs in first
    }
    if others or first.get("type") in ("array", "object") or "$ref" in first:
        return {"kind": "yaml", "optional": optional}
    if "enum" in first:
        return {"kind": "choice", "choices": first["enum"], "optional": optional}
    kinds = {"integer": "integer", "number": "number", "boolean": "flag"}
    return {"kind": kinds.get(first.get("type", ""), "text"), "optional": optional, **limits}


def checked(
    config: Config, stage: str, values: dict[str, Any], workspace: Path, processes: int = 1
) -> tuple[Config | None, dict[str, str]]:
    """`config` with the form's values for the base and the stage's section, and field -> what is wrong with it.

    Text of a yaml field is parsed first. The configuration is None where a field is wrong; problems of the section as
    a whole stand under the empty name.
    """
    known = {field["name"] for field in base_fields(config, stage)}
    of_base = {name: value for name, value in values.items() if name in known}
    if stage == "round":
        counted = {name: of_base.pop(name) for name in ROUND_FIELDS if name in of_base}
        of_base["consensus"] = {**config.consensus.model_dump(), **counted}
    based, problems = _with_base(config, of_base, workspace)
    if stage == "round":
        unknown = {name: "There is no such option." for name in values if name not in known}
        problems |= unknown
        return (None, problems) if problems else (based, {})
    values = {name: value for name, value in values.items() if name not in known}
    section: BaseModel = getattr(config, stage)
    tree = section.model_dump()
    kinds = {field["name"]: field["kind"] for field in fields(config, stage)}
    for name, value in values.items():
        if name not in kinds:
            problems[name] = "There is no such option."
        elif kinds[name] == "yaml" and isinstance(value, str):
            try:
                tree[name] = yaml.safe_load(value)
            except yaml.YAMLError:
                problems[name] = "This is not valid YAML."
        else:
            tree[name] = value
    try:
        made = type(section).model_validate(tree)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            problems.setdefault(name, problem["msg"].removeprefix("Value error, "))
        return None, problems
    if isinstance(made, PPOTrainingConfig):
        try:
            check_rollout(made, processes)
        except InputError as error:
            problems.setdefault("batch_size", str(error))
    return (None, problems) if problems else (based.model_copy(update={stage: made}), {})


def _with_base(
    config: Config, values: dict[str, Any], workspace: Path
) -> tuple[Config, dict[str, str]]:
    """`config` with another base, and what is wrong with it."""
    try:
        made = Config.model_validate({**config.model_dump(), **values})
        if "base_model" in values:
            check_base_name(made.base_model, workspace)
    except ValidationError as error:
        return config, {str(p["loc"][-1]): p["msg"] for p in error.errors()}
    except InputError as error:
        return config, {"base_model": str(error)}
    return made, {}


def as_yaml(config: Config, stage: str) -> str:
    """Base and section of the stage as YAML, to be kept beside the form."""
    tree = {field["name"]: field["value"] for field in _fields(config, control.BASE)}
    if stage == "round":
        tree["consensus"] = {name: getattr(config.consensus, name) for name in ROUND_FIELDS}
    else:
        tree = tree if stage in control.BASED else {}
        tree[stage] = getattr(config, stage).model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
