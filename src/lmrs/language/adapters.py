"""Small trainable additions to a frozen language model, as values: LoRA and per-layer prefixes, through the peft package."""

from __future__ import annotations

import fnmatch
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lmrs.errors import CheckpointError, ContractError
from lmrs.language.family import family_of
from lmrs.language.needs import need

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

_TASKS = {"encoder": "FEATURE_EXTRACTION", "causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


@dataclass(frozen=True)
class Lora:
    """W x + (alpha / rank) B A x beside chosen linear maps: A is drawn, B starts at zero (Hu et al. 2021, arXiv 2106.09685).

    rank: width of A's output, >= 1. alpha: scale, > 0. dropout: on x before A, in [0, 1).
    targets: "all-linear" (every linear map but the word head and the pooler) or names of maps, such as ("q_proj", "v_proj").
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise ContractError(needed="dropout in [0, 1)", came=f"dropout={self.dropout}")
        if isinstance(self.targets, str) and self.targets != "all-linear":
            raise ContractError(
                needed="targets 'all-linear' or a tuple of names", came=repr(self.targets), remedy=f"write ({self.targets!r},)"
            )

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of what learns, for `tuning.Part`."""
        return ("*.lora_A.*", "*.lora_B.*")


@dataclass(frozen=True)
class PrefixTuning:
    """`length` free key and value vectors before the input in every layer (Li and Liang 2021, arXiv 2101.00190).

    length: >= 1. hidden: width of the paper's MLP that makes them from a smaller table, or None for the vectors themselves.
    For "causal" and "seq2seq" models, and for encoders without a word head. The model must not be given positions of its own.
    """

    length: int = 10
    hidden: int | None = None

    def __post_init__(self) -> None:
        _positive(self, "length")
        if self.hidden is not None:
            _positive(self, "hidden")

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of what learns, for `tuning.Part`."""
        return ("*prompt_encoder.*",)


Adapter = Lora | PrefixTuning


def apply(adapter: Adapter, module: PreTrainedModel, *, rng: torch.Generator) -> nn.Module:
    """The model with the adapter in it, in eval mode; of its parameters only the adapter's require gradients.

    module: a model that `Backbone.build` gave; it is changed and must not be used by itself any more. rng: draws the adapter's
    first weights. The result is called as the model was. Raises ContractError if the adapter has no place in this model.
    """
    need("peft")
    from peft import get_peft_model

    config = _config(adapter, module)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        return get_peft_model(module, config).eval()


def _config(adapter: Adapter, module: PreTrainedModel) -> PeftConfig:
    from peft import LoraConfig, PrefixTuningConfig

    family = family_of(module.config)
    head = module.get_output_embeddings()
    match adapter:
        case Lora():
            linear = [name for name, each in module.named_modules() if isinstance(each, nn.Linear) and each is not head]
            linear = [name for name in linear if "pooler" not in name.split(".")]
            if isinstance(adapter.targets, tuple):
                for target in adapter.targets:
                    if not any(name == target or name.endswith(f".{target}") for name in linear):
                        raise ContractError(
                            needed=f"linear maps named {target}",
                            came=f"a {type(module).__name__} with {', '.join(sorted({n.rsplit('.', 1)[-1] for n in linear}))}",
                            remedy="change Lora(targets=...)",
                        )
                linear = [name for name in linear if any(name == each or name.endswith(f".{each}") for each in adapter.targets)]
            return LoraConfig(
                task_type="FEATURE_EXTRACTION" if head is None else None if family == "encoder" else _TASKS[family],
                r=adapter.rank,
                lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # any number: it is divided by the rank
                lora_dropout=adapter.dropout,
                target_modules=linear,
            )
        case PrefixTuning():
            if family == "encoder" and head is not None:
                raise ContractError(
                    needed="a model that takes keys and values of earlier positions",
                    came=f"an encoder with its word head ({type(module).__name__})",
                    remedy="use Lora(...), a soft prompt at the input, or the encoder without its head",
                )
            told = module.config
            return PrefixTuningConfig(
                task_type=_TASKS[family],
                num_virtual_tokens=adapter.length,
                prefix_projection=adapter.hidden is not None,
                encoder_hidden_size=adapter.hidden or told.hidden_size,
                num_layers=told.num_hidden_layers,
            )


def names(adapter: Adapter, module: nn.Module) -> list[str]:
    """Names of the adapter's parameters in a module that `apply` gave."""
    return [name for name, _ in module.named_parameters() if any(fnmatch.fnmatchcase(name, each) for each in adapter.patterns)]


def state(adapter: Adapter, module: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors alone, each with memory of its own: what is saved where the backbone is known by its fingerprint."""
    return {name: module.get_parameter(name).detach().clone() for name in names(adapter, module)}


def restore(adapter: Adapter, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts back what `state` gave. Raises CheckpointError if names or shapes are others."""
    own = names(adapter, module)
    if set(own) != set(tensors):
        odd = sorted(set(own) ^ set(tensors))[0]
        raise CheckpointError(needed=f"the {len(own)} tensors of {adapter!r}", came=f"{len(tensors)}, {odd} in one of both only")
    with torch.no_grad():
        for name in own:
            parameter = module.get_parameter(name)
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    needed=f"{name} of shape {tuple(parameter.shape)}",
                    came=f"{tuple(tensors[name].shape)}",
                    remedy="same settings",
                )
            parameter.copy_(tensors[name])


def _positive(adapter: object, *fields: str) -> None:
    for field in fields:
        if not getattr(adapter, field) > 0:
            raise ContractError(needed=f"{field} above 0", came=f"{field}={getattr(adapter, field)}")
