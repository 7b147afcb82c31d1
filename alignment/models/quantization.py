"""In which precision the frozen base is held: full, half, or quantised to 8 or 4 bits by bitsandbytes.

LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339) and NF4 with double quantisation (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314). Only the linear layers inside the decoder are quantised; adapters and heads stay in float32.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from alignment.errors import ModelError
from alignment.models.distributed import is_sharded

QUANTISED = ("int8", "int4")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def training_dtypes(precision: str, accelerator: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """The type of weights that are not quantised, and the type of autocast, if any, while training.

    An accelerator multiplies in bf16 (fp16 for a base in fp16); a processor does not use autocast.
    """
    autocast = None
    if accelerator:
        autocast = torch.float16 if precision == "fp16" else torch.bfloat16
    return DTYPES.get(precision, autocast or torch.float32), autocast


def mixed_precision(precision: str) -> dict[str, Any]:
    """The arguments `bf16` and `fp16` of a transformers trainer on this machine."""
    _, autocast = training_dtypes(precision, torch.cuda.is_available())
    return {"bf16": autocast is torch.bfloat16, "fp16": autocast is torch.float16}


def load_options(precision: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a base in this precision, on the accelerator where there is one.

    Raises `ModelError` where bitsandbytes is missing, saying what to install.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype, _ = training_dtypes(precision, device.type != "cpu")
    if precision not in QUANTISED:
        return {"dtype": dtype}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"A base in {precision} is quantised by bitsandbytes, which is not installed. Install it with `pip install "
            "'concord-rlhf[quantization]'` (a CUDA, ROCm, XPU or x86-64 machine), or set base_precision to bf16."
        )
    if device.type not in ("cuda", "xpu", "cpu"):
        raise ModelError(
            f"bitsandbytes does not quantise on this machine's accelerator ({device.type}). Set base_precision to bf16 "
            "or fp16, or use a machine with a CUDA, ROCm or XPU device."
        )
    if is_sharded():
        raise ModelError(
            f"A base in {precision} cannot be sharded: FSDP does not split what bitsandbytes holds. Set base_precision "
            "to bf16, or train with --nproc, a copy on each device."
        )
    from transformers import BitsAndBytesConfig

    if precision == "int8":
        quantisation = BitsAndBytesConfig(load_in_8bit=True)
    else:
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"dtype": dtype, "quantization_config": quantisation, "device_map": {"": device}}


def is_quantised(model: Any) -> bool:
    """Whether bitsandbytes holds some of the weights."""
    return bool(
        getattr(model, "is_loaded_in_8bit", False) or getattr(model, "is_loaded_in_4bit", False)
    )


def keep_trained_in_float32(model: Any) -> None:
    """Put what trains into float32: TRL puts adapters on a quantised base into bf16, too coarse for small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
