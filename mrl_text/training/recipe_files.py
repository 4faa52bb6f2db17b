"""Recipes as YAML: those shipped, and reading one with overrides and clear complaints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import MarkedYAMLError, YAMLError

from mrl_text.suggest import did_you_mean
from mrl_text.training.losses import losses
from mrl_text.training.recipe import DataConfig, EvalConfig, MiningConfig, ModelConfig, Recipe, SourceConfig


def shipped_recipes() -> dict[str, Traversable]:
    """Recipes installed with the package: name -> file, sorted by name."""
    folder = files("mrl_text.recipes")
    found = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def recipe_text(name: str) -> str:
    """The YAML text of a shipped recipe; ValueError names the nearest."""
    shipped = shipped_recipes()
    if name not in shipped:
        raise ValueError(f"no recipe named {name!r}{did_you_mean(name, shipped)}")
    return shipped[name].read_text(encoding="utf-8")


def recipe_description(name: str) -> str:
    """The ``description`` of a shipped recipe, on one line; no validation, so a list of recipes is instant."""
    content = yaml.safe_load(recipe_text(name))
    return " ".join(str(content.get("description", "")).split())


def load_recipe(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe. Loads no model and no data.

    Args:
        name_or_file: name of a shipped recipe, or a YAML file.
        overrides: ``section.key=value`` in YAML notation, for example ``training.learning_rate=1e-4``,
            ``loss.dims=[32,64]`` or ``data.train[0].source=pairs.csv``.

    Raises:
        FileNotFoundError: neither a file nor a shipped recipe.
        ValueError: not YAML, an unknown key (the nearest known one is named), or a wrong value.
    """
    file = Path(name_or_file)
    if file.is_file():
        try:
            text, label = file.read_text(encoding="utf-8"), name_or_file
        except UnicodeDecodeError:
            raise ValueError(f"{name_or_file}: not a text file in UTF-8") from None
        except OSError as error:
            raise type(error)(f"{name_or_file} cannot be read ({error.strerror}): name another recipe") from None
    elif file.is_dir() and name_or_file not in shipped_recipes():
        raise FileNotFoundError(f"{name_or_file} is a folder without recipe.yaml, and so no run: name a recipe file")
    elif file.suffix in (".yaml", ".yml") or "/" in name_or_file:
        raise FileNotFoundError(f"no recipe file at {name_or_file}")
    else:
        text, label = recipe_text(name_or_file), name_or_file
    try:
        try:
            config = OmegaConf.create(text)
        except AssertionError:  # a bare number or truth value
            config = None
        if not isinstance(config, DictConfig):
            raise ValueError(f"{label}: a recipe is a mapping with model, data and loss")
        for override in overrides:
            _apply_override(config, override)
        return Recipe.model_validate(OmegaConf.to_container(config, resolve=True))
    except ValidationError as error:
        raise ValueError(f"{label}: {_first_problem(error)}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{label}: {_first_line(error)}") from None


def recipe_eval(model: str) -> EvalConfig:
    """What the recipe of a run says about its evaluation; empty for a model that is no run of ours."""
    folder = Path(model)
    run = folder.parent if folder.name == "model" and (folder / "modules.json").is_file() else folder
    recipe = run / "recipe.yaml"
    return load_recipe(str(recipe)).eval if recipe.is_file() else EvalConfig()


def _apply_override(config: DictConfig, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"override {override!r} is not of the form section.key=value")
    if wrong := _wrong_entry(config, key.strip()):
        raise ValueError(f"override {override!r}: {wrong}")
    try:
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        OmegaConf.update(config, key.strip(), values["value"], merge=False)
    except (YAMLError, OmegaConfBaseException, IndexError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"override {override!r}: {_first_line(error)}") from None


def _wrong_entry(config: DictConfig, key: str) -> str | None:
    """What is wrong with an entry of a list that a key names, such as ``data.train[3].source``; None if nothing is."""
    node: Any = config
    for match in re.finditer(r"[^.\[\]]+", key):
        name, entry = key[: match.start()].rstrip(".["), match.group()
        if isinstance(node, ListConfig) or (not isinstance(node, DictConfig) and entry.lstrip("-").isdigit()):
            there = len(node) if isinstance(node, ListConfig) else 0
            if not (entry.isdecimal() and int(entry) < there):
                counted = f", counted from {name}[0]" if there else f": give it whole, {name}=[...]"
                return f"{name} is a list of {there}{counted}"
        if isinstance(node, ListConfig):
            node = node[int(entry)]
        else:
            node = node.get(entry) if isinstance(node, DictConfig) else None
    return None


def _first_line(error: BaseException) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return (str(error).splitlines() or [type(error).__name__])[0]


_SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "eval": EvalConfig,
    "train": SourceConfig,
    "validation": SourceConfig,
    "mine_negatives": MiningConfig,
}


def _first_problem(error: ValidationError) -> str:
    """The first complaint of a validation in one line, with the nearest known key where a key is unknown."""
    problems = error.errors(include_url=False)
    problem = next((item for item in problems if item["type"] == "extra_forbidden"), problems[0])
    path, parts, known = [], [str(part) for part in problem["loc"]], Recipe.model_fields
    for number, part in enumerate(parts):
        if number and parts[number - 1] == "loss" and part in losses():  # the class, and no key
            known = losses()[part].model_fields
            continue
        path.append(part)
        if number < len(parts) - 1 and part in _SECTIONS:
            known = _SECTIONS[part].model_fields
    if problem["type"] == "union_tag_invalid":
        name = problem["ctx"]["tag"]
        return f"{'.'.join(path)}.name: no loss {name!r}{did_you_mean(name, losses())}"
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(path[-1], known)}"
    message, given = problem["msg"].removeprefix("Value error, "), repr(problem["input"])
    if problem["type"] != "value_error" and len(given) < 80:  # our own checks name the value themselves
        message += f", got {given}"
    return f"{where}: {message}" if where else message
