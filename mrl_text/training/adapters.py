"""Adapters of peft: small parts that are trained in place of the weights, and become weights when training ends."""

from __future__ import annotations

import copy
import dataclasses
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from transformers import set_seed

from mrl_text.layers import find_layers
from mrl_text.suggest import did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig

    from mrl_text.encoder import MatryoshkaEncoder

logger = logging.getLogger(__name__)

METHODS = "LORA LOHA LOKR IA3 LN_TUNING OFT HRA MISS DELORA C3A FOURIERFT".split()
"""Values of ``peft_type`` that can be merged into the weights without a change of what the model computes."""

TRAINED = "trained.safetensors"  # of a checkpoint: all that is trained

_OWN_TARGETS = ("IA3", "LN_TUNING")  # methods for which peft itself knows where they belong, or has to be told
_TARGETS = set("query value q v q_proj v_proj q_lin v_lin query_proj value_proj".split())
_TARGETS |= set("Wqkv qkv_proj query_key_value in_proj c_attn".split())
"""What architectures call the query and value of the attention, also where the key is in the same matrix."""
_NOT_TAKEN = (
    "task_type inference_mode base_model_name_or_path revision auto_mapping peft_version megatron_core"
    " layer_replication alora_invocation_tokens use_qalora qalora_group_size use_bdlora"
).split()
_DATA_DRIVEN = ("eva", "corda", "lora_ga", "loftq")  # ways to begin that need data or quantised weights of their own


def adapter_config(options: dict[str, Any]) -> PeftConfig:
    """peft's configuration of a recipe's ``model.peft``: ``peft_type`` (LORA where there is none) and its arguments.

    Without ``target_modules`` query and value of the attention get an adapter, as in peft and in LoRA's paper (arXiv
    2106.09685), or all linear layers of a model that calls none so (IA3 and LN_TUNING: what peft knows for the
    architecture).

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: an unknown method or argument, a value of a wrong kind, or one that peft refuses.
    """
    if find_spec("peft") is None:
        raise ModuleNotFoundError("model.peft needs the package peft: pip install 'mrl-text[peft]'")
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    method = options.get("peft_type", "LORA")
    if method not in METHODS:
        raise ValueError(
            f"model.peft.peft_type={method}: not among the methods that become weights, {', '.join(METHODS)}"
        )
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)]
    given = {name: value for name, value in options.items() if name != "peft_type"}
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    known = [name for name in known if name not in (*_NOT_TAKEN, "peft_type") and not name.endswith("_config")]
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"model.peft.{name}: no argument of {method} that a recipe takes{did_you_mean(name, known)}"
            )
        _check_value(kind, name, value)
    try:
        return kind(**given)
    except (ValueError, TypeError) as error:
        raise _refused(error) from error


def _check_value(kind: type[PeftConfig], name: str, value: Any) -> None:
    shown = f"model.peft.{name}={value}"
    try:
        adapter = TypeAdapter(get_type_hints(kind)[name], config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"{shown}: {error.errors(include_url=False)[0]['msg']}") from None
    if name.startswith("init_") and value in _DATA_DRIVEN:
        raise ValueError(f"{shown}: needs more than a recipe can say: leave it out, or choose another beginning")


def _refused(error: Exception) -> ValueError:
    return ValueError(f"model.peft: {' '.join(str(error).split()) or type(error).__name__}")


def try_adapters(model: MatryoshkaEncoder, options: dict[str, Any], *, freeze_embeddings: bool) -> None:
    """Add the adapters to a copy, so that what does not fit is refused before anything is computed.

    Raises:
        ValueError: no transformer, modules that it does not have, sizes that do not fit it, or an adapter of token
            embeddings that are to be left as they are.
    """
    if model.transformers_model is None or not model.has_peft_compatible_model():
        raise ValueError("model.peft adapts transformers, and this model is none: leave it out")
    backbone = copy.deepcopy(model.transformers_model)
    _add(backbone, adapter_config(options))
    table = backbone.get_input_embeddings()
    if freeze_embeddings and any(weight.requires_grad for weight in table.parameters()):
        raise ValueError("model.freeze_embeddings=true, but model.peft adapts the token embeddings: leave one out")


def attach_adapters(model: MatryoshkaEncoder, options: dict[str, Any], *, seed: int, above: int | None = None) -> None:
    """Freeze the transformer and put new adapters into it, ``above`` some lower layers; they begin as ``seed`` says."""
    set_seed(seed)  # whatever was drawn before
    backbone: Any = model.transformers_model
    _add(backbone, adapter_config(options))
    for layer in find_layers(backbone)[:above] if above else ():
        _merge(layer)
    for config in backbone.peft_config.values():
        if Path(config.base_model_name_or_path).is_dir():  # else a hub id
            config.base_model_name_or_path = str(Path(config.base_model_name_or_path).resolve())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    logger.info("adapters: %s numbers are trained", f"{trained:,}")


def _add(backbone: Any, config: Any) -> None:
    if config.target_modules is None and config.peft_type not in _OWN_TARGETS:
        config.target_modules = {
            name.rpartition(".")[2] for name, _ in backbone.named_modules()
        } & _TARGETS or "all-linear"
    try:
        backbone.add_adapter(config)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise _refused(error) from error


def has_adapters(model: MatryoshkaEncoder) -> bool:
    """Whether adapters are a part of the model, and not yet of its weights."""
    return bool(getattr(model.transformers_model, "peft_config", None))


def merge_adapters(model: MatryoshkaEncoder) -> None:
    """Make all adapters a part of the weights: the model computes the same, and has the layers of its base again."""
    if has_adapters(model):
        backbone: Any = model.transformers_model
        _merge(backbone)
        backbone.delete_adapter(list(backbone.peft_config))


def _merge(part: Any) -> None:
    """Make the adapters in a part of the transformer a part of its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    done: list[str] = []
    for name, layer in list(part.named_modules()):
        if name.startswith(tuple(done)):  # a part of what was replaced
            continue
        if isinstance(layer, AuxiliaryTrainingWrapper):  # modules_to_save, trainable_token_indices
            plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        elif isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain = layer.get_base_layer()
        else:
            continue
        part.set_submodule(name, plain)
        done.append(f"{name}.")


def save_trained(model: MatryoshkaEncoder, folder: Path) -> None:
    """Write all that is not frozen into a checkpoint, whose adapters alone would need their base to be read again."""
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name not in frozen}
    save_file(state, folder / TRAINED)


def load_trained(model: MatryoshkaEncoder, folder: Path) -> None:
    """Read what :func:`save_trained` wrote into the same model with the same adapters."""
    model.load_state_dict(load_file(folder / TRAINED, device=str(model.device)), strict=False)
