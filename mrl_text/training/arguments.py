"""What the Trainer is told: the recipe's ``training`` section, tried out before data and weights are loaded."""

from __future__ import annotations

import logging
import math
import multiprocessing
import re
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_type_hints

import torch
from datasets import Dataset
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from mrl_text.dtypes import training_precision
from mrl_text.suggest import check_choice
from mrl_text.training.corpus import batch_arguments
from mrl_text.training.evaluator import metric_names, metric_of
from mrl_text.training.recipe import DEFAULT_SEED, EARLY_STOPPING, Recipe

logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "warmup_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "save_total_limit": 2,
    "logging_steps": 0.02,
    "report_to": "none",
    "seed": DEFAULT_SEED,
}
"""Where a recipe is silent."""

_OF_A_ROTATION = {"seed", "use_cpu", "per_device_eval_batch_size", "bf16", "fp16"}
_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile
_ABOVE_ZERO = "logging_steps save_steps eval_steps num_train_epochs adam_epsilon".split()
_AT_LEAST = {
    **dict.fromkeys("save_total_limit gradient_accumulation_steps".split(), 1),
    **dict.fromkeys("per_device_train_batch_size per_device_eval_batch_size early_stopping_patience".split(), 1),
    **dict.fromkeys("learning_rate weight_decay max_grad_norm dataloader_num_workers eval_delay seed".split(), 0),
    "early_stopping_threshold": 0,
}
_OWN_TYPES = {"early_stopping_patience": int | None, "early_stopping_threshold": float}


def training_arguments(recipe: Recipe, checkpoints: Path) -> SentenceTransformerTrainingArguments:
    """The recipe's ``training`` section with our defaults and this machine's mixed precision filled in.

    A Trainer of a toy model is built with them, so that what it or the optimizer refuses is refused now.

    Raises:
        ValueError: a value that the Trainer refuses, or that would have no effect.
    """
    given = {name: _as_meant(name, value) for name, value in recipe.training.items()}
    for name, value in given.items():
        _check_value(name, value)
    _check_partners(given)
    _check_trackers(given.get("report_to") or "none")
    _check_batches(recipe, given)
    if given.get("early_stopping_patience"):  # past the best: to end there would be no use
        given = {"load_best_model_at_end": True, **given}
    if not {"bf16", "fp16"} & set(given):
        given |= training_precision(use_cpu=bool(given.get("use_cpu")))
    on_cpu = given.get("use_cpu") or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if given.get("fp16") and on_cpu:
        raise ValueError("training.fp16=True needs a CUDA GPU, and the run would be on the CPU: leave it out")
    given |= _validation_arguments(recipe, given)
    if given.get("save_only_model"):
        logger.warning("training.save_only_model: an interrupted run cannot be continued from weights alone")
    if not recipe.loss.steps and (idle := sorted(set(recipe.training) - _OF_A_ROTATION)):
        logger.warning(
            "loss.name %s is fitted without steps: training.%s has no effect", recipe.loss.name, ", ".join(idle)
        )
    given = {name: value for name, value in given.items() if name not in EARLY_STOPPING}
    ours = {"output_dir": str(checkpoints), "disable_tqdm": True}
    if (reason := _refusal({**_DEFAULTS, **given})) is not None:
        for name, value in recipe.training.items():  # the one without which it would do
            if _refusal({**_DEFAULTS, **given}, without=name) is None:
                raise ValueError(f"training.{name}={value}: {reason}")
        raise ValueError(f"training: {reason}")
    return SentenceTransformerTrainingArguments(**{**_DEFAULTS, **batch_arguments(recipe), **given, **ours})


def _as_meant(name: str, value: Any) -> Any:
    """YAML reads a bare ``no`` as false, and leaves out by ``null``."""
    if name.endswith("_strategy") and value is False:
        return "no"
    return "none" if name == "report_to" and not value else value


def _check_value(name: str, value: Any) -> None:
    hint = {**get_type_hints(SentenceTransformerTrainingArguments), **_OWN_TYPES}[name]
    shown = f"training.{name}={value}"
    for kind in get_args(hint):
        if isinstance(kind, type) and issubclass(kind, Enum) and not isinstance(value, (list, dict)):
            check_choice(f"training.{name}", value, [member.value for member in kind])
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"{shown}: {error.errors(include_url=False)[0]['msg']}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{shown}: must be a finite number")
    if name in _ABOVE_ZERO and value is not None and value <= 0:
        raise ValueError(f"{shown}: must be above 0")
    if name in _AT_LEAST and value is not None and value < _AT_LEAST[name]:
        raise ValueError(f"{shown}: must be at least {_AT_LEAST[name]}")
    if name == "max_steps" and value < 1 and value != -1:
        raise ValueError(f"{shown}: must be at least 1, or -1 to go by num_train_epochs")
    if name == "seed" and value >= 2**32:
        raise ValueError(f"{shown}: must be below {2**32}")
    _check_word(name, value)


def _check_word(name: str, value: Any) -> None:
    """Refuse a word that a library would stumble over late."""
    for pattern in value if name == "learning_rate_mapping" and isinstance(value, dict) else ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"training.{name}={value}: {pattern!r} is no regular expression: {error}") from None
    if name == "dataloader_multiprocessing_context" and value is not None:
        check_choice(f"training.{name}", value, multiprocessing.get_all_start_methods())
    if name == "torch_compile_mode" and value is not None:
        check_choice(f"training.{name}", value, _COMPILE_MODES)
    if name == "torch_compile_backend" and value is not None:
        check_choice(f"training.{name}", value, torch.compiler.list_backends())
    if name.startswith("log_level"):
        check_choice(f"training.{name}", value, ("debug", "info", "warning", "error", "critical", "passive"))


def _check_partners(given: dict[str, Any]) -> None:
    """Refuse what has no effect without something else."""
    plain = given.get("optim", "adamw_torch") in ("adamw_torch", "adamw_torch_fused", "adafactor")
    targeted = str(given.get("optim", "")).startswith(("galore", "apollo"))
    for name, partner, there in (
        ("gradient_checkpointing_kwargs", "gradient_checkpointing=true", given.get("gradient_checkpointing")),
        ("activation_checkpointing_kwargs", "activation_checkpointing=true", given.get("activation_checkpointing")),
        ("optim_args", "an optim that reads them", not plain),
        ("optim_target_modules", "an optim of galore or apollo", targeted),
        ("dataloader_multiprocessing_context", "dataloader_num_workers", given.get("dataloader_num_workers")),
        ("early_stopping_threshold", "early_stopping_patience", given.get("early_stopping_patience")),
    ):
        if given.get(name) is not None and not there:
            raise ValueError(f"training.{name}={given[name]}: has no effect without {partner}: give both or neither")


def _check_trackers(report_to: str | list[str]) -> None:
    for tracker in [report_to] if isinstance(report_to, str) else report_to:
        if tracker in ("none", "all"):
            continue
        check_choice("training.report_to", tracker, ("none", "all", *INTEGRATION_TO_CALLBACK))
        if tracker not in (there := [*get_available_reporting_integrations(), "flyte"]):  # which it does not look for
            raise ValueError(
                f"training.report_to={tracker}: {tracker} is not installed: pip install {tracker}, or choose from"
                f" {', '.join(['none', *there[:-1]])}"
            )


def _check_batches(recipe: Recipe, given: dict[str, Any]) -> None:
    """Refuse a sampler that would take the place of the one that the recipe's data section asks for."""
    if "batch_sampler" in given and (recipe.data.stream or recipe.data.batches != "no_duplicates"):
        chosen = "stream" if recipe.data.stream else f"batches={recipe.data.batches}"
        raise ValueError(
            f"training.batch_sampler={given['batch_sampler']}: data.{chosen} decides the batches: leave one of the two"
            " out"
        )
    if "multi_dataset_batch_sampler" in given and any(source.weight is not None for source in recipe.data.train):
        raise ValueError(
            f"training.multi_dataset_batch_sampler={given['multi_dataset_batch_sampler']}: the sources' weights decide"
            " whose turn it is: leave one of the two out"
        )


def _validation_arguments(recipe: Recipe, given: dict[str, Any]) -> dict[str, Any]:
    """When to validate, and by which score the best checkpoint is known."""
    by_score = given.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")
    asked = ["lr_scheduler_type"] if by_score else []
    asked += ["early_stopping_patience"] if given.get("early_stopping_patience") else []
    asked += ["load_best_model_at_end"] if given.get("load_best_model_at_end") else []
    asked += ["save_strategy"] if given.get("save_strategy") == "best" else []
    asked += ["metric_for_best_model"] if given.get("metric_for_best_model") else []
    asked += ["eval_on_start"] if given.get("eval_on_start") else []
    asked += ["eval_strategy"] if given.get("eval_strategy", "no") != "no" else []
    if not recipe.data.validation:
        if given.get("eval_steps") is not None:
            logger.warning("training.eval_steps has no effect without data.validation")
        if asked:
            raise ValueError(
                f"training.{asked[0]}={given[asked[0]]} needs validation data: name some in data.validation"
            )
        return {}
    arguments = {"eval_strategy": given.get("eval_strategy", "steps"), "eval_steps": given.get("eval_steps") or 0.25}
    if not asked or asked == ["eval_strategy"]:
        return arguments
    if arguments["eval_strategy"] == "no":
        raise ValueError(f"training.{asked[0]}={given[asked[0]]} needs scores: leave eval_strategy=no out")
    metrics = metric_names(recipe.loss.dims, metric=metric_of(recipe.validation_needs))
    metric = given.get("metric_for_best_model") or metrics[-1]
    check_choice("training.metric_for_best_model", metric.removeprefix("eval_"), metrics)
    if given.get("greater_is_better") is False:
        raise ValueError(f"training.greater_is_better=False: of {metric} more is better: leave it out")
    arguments |= {"metric_for_best_model": metric, "greater_is_better": True}
    if by_score:
        arguments["lr_scheduler_kwargs"] = {"mode": "max", **(given.get("lr_scheduler_kwargs") or {})}
    if given.get("load_best_model_at_end"):  # every validated step has its checkpoint
        arguments |= {"save_strategy": given.get("save_strategy", arguments["eval_strategy"])}
        arguments |= {"save_steps": given.get("save_steps", arguments["eval_steps"])}
    return arguments


def _refusal(arguments: dict[str, Any], without: str | None = None) -> str | None:
    """What the Trainer says against these arguments, or any library behind it; None where it takes them.

    Libraries raise what they like here, so that every kind of error counts.
    """
    checked_elsewhere = ("learning_rate_mapping", "report_to")
    taken = {name: value for name, value in arguments.items() if name not in (without, *checked_elsewhere)}
    words = StaticEmbedding(Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), embedding_dim=1)
    model = SentenceTransformer(modules=[words], device="cpu")
    model.model_card_data.widget = [{}]  # else examples are looked for, with a progress bar
    rows = Dataset.from_dict({"anchor": ["a", "b"], "positive": ["c", "d"]})
    try:
        with TemporaryDirectory() as folder:  # which the Trainer makes where it is not there
            args = SentenceTransformerTrainingArguments(**taken, output_dir=folder, disable_tqdm=True)
            loss, scores = CosineSimilarityLoss(model), SentenceEvaluator()
            trainer = SentenceTransformerTrainer(model, args, rows, loss=loss, evaluator=scores)
            trainer.create_optimizer_and_scheduler(100)
            trainer.get_train_dataloader()
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None
