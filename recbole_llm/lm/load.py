"""Language models by path or name (``lm:``), and small ones from scratch.

    lm: scratch            a small model with random weights and a tokenizer of the dataset's own text
    lm: path/to/folder     a folder as ``save_pretrained`` writes it (config.json, *.safetensors, tokenizer)
    lm: path/to/file.gguf  a GGUF file that transformers reads
    lm: org/name           a name of the Hugging Face hub; asked for by name, it is downloaded if the cache lacks it

Weights are read from safetensors or GGUF, never from pickles; code that comes with a model is never run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.lm.hub import load_by_name
from recbole_llm.lm.tokenizer import build_tokenizer
from recbole_llm.utils.text import reason_of

SCRATCH = "scratch"
CAUSAL = "causal"
SEQ2SEQ = "seq2seq"
_SIZES = ("hidden_size", "num_layers", "num_heads", "vocab_size")
# Models small enough for a CPU would spend half of their time on drawing dropout masks, and fused attention is slower
# for T5 there, since it has to take a bias of positions.
_OPTIONS: dict[str, Any] = {"dropout": 0.0, "attention": "eager"}


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        model: ``*ForCausalLM`` or ``*ForConditionalGeneration``, float32, on the CPU.
        tokenizer: its tokenizer.
        label: name in result rows; for ``scratch`` the architecture and its sizes.
    """

    model: Any
    tokenizer: Any
    label: str

    @property
    def hidden_size(self) -> int:
        """Size of a token's vector."""
        return int(self.model.get_input_embeddings().weight.shape[1])


def load_language_model(name: str, kind: str, texts: Iterable[str], scratch: Mapping[str, Any]) -> LanguageModel:
    """The language model that the setting ``lm`` names.

    Args:
        name: ``scratch``, a folder, a GGUF file, or a name on the hub.
        kind: ``causal`` or ``seq2seq``.
        texts: for the tokenizer of ``scratch``.
        scratch: sizes of a model from scratch: ``hidden_size``, ``num_layers``, ``num_heads``, ``vocab_size``;
            optionally ``dropout`` and ``attention`` (``eager``, or ``sdpa``: fused kernels).

    Raises:
        UserError: there is no such model, it is of another kind, or ``scratch`` is incomplete or wrong.
    """
    if name == SCRATCH:
        return _from_scratch(kind, texts, scratch)
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"--lm={name}: there is no such file. {_options(kind)}")
        return _pretrained(name, kind, str(path.parent), {"gguf_file": path.name, "local_files_only": True})
    if path.is_dir():
        return _pretrained(name, kind, name, {"local_files_only": True})
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"--lm={name}: there is no such folder. {_options(kind)}")
    return _pretrained(name, kind, name, {})


def _options(kind: str) -> str:
    example = "gpt2" if kind == CAUSAL else "google-t5/t5-small"
    return (
        f"Use {SCRATCH} (a small model, untrained), a folder with config.json and *.safetensors, a .gguf file, or a "
        f"name such as {example} that this machine has in its cache or can download."
    )


def _from_scratch(kind: str, texts: Iterable[str], scratch: Mapping[str, Any]) -> LanguageModel:
    import transformers

    scratch = {**_OPTIONS, **scratch}
    unknown = sorted(set(scratch) ^ {*_SIZES, *_OPTIONS})
    if unknown:
        known = f"{', '.join(_SIZES)}, and may hold {', '.join(_OPTIONS)}"
        raise UserError(f"lm_scratch holds {known}; wrong or missing: {', '.join(unknown)}.")
    for key in _SIZES:
        if type(scratch[key]) is not int or scratch[key] < 1:
            raise UserError(f"lm_scratch: {key} takes a whole number from 1 on, got {scratch[key]!r}.")
    size, layers, heads = (scratch[key] for key in _SIZES[:3])
    if size % heads:
        raise UserError(f"lm_scratch: hidden_size {size} is no multiple of num_heads {heads}.")
    dropout, attention = scratch["dropout"], scratch["attention"]
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise UserError(f"lm_scratch: dropout takes a number from 0 to below 1, got {dropout!r}.")
    if attention not in ("eager", "sdpa"):
        raise UserError(f"lm_scratch: attention takes eager or sdpa, got {attention!r}.")
    tokenizer = build_tokenizer(texts, scratch["vocab_size"])
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if kind == CAUSAL:
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=1024,
            n_embd=size,
            n_layer=layers,
            n_head=heads,
            bos_token_id=tokenizer.eos_token_id,
            activation_function="relu",  # GPT-2's own is slow in so small a model on a CPU
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
            **ends,
        )
        if attention != _OPTIONS["attention"]:  # else transformers chooses
            config._attn_implementation = attention
        made: Any = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=size,
            d_kv=size // heads,
            d_ff=4 * size,
            num_layers=layers,
            num_heads=heads,
            dropout_rate=dropout,
            decoder_start_token_id=tokenizer.pad_token_id,
            **ends,
        )
        config._attn_implementation = attention
        made = transformers.T5ForConditionalGeneration(config)
    architecture = "GPT-2" if kind == CAUSAL else "T5"
    return LanguageModel(made, tokenizer, f"{SCRATCH} {architecture} {layers}x{size}")


def _pretrained(name: str, kind: str, place: str, options: dict[str, Any]) -> LanguageModel:
    try:
        with quiet():
            if "local_files_only" in options:
                tokenizer, model = _read(place, kind, options)
            else:
                tokenizer, model = load_by_name(name, lambda local: _read(place, kind, {"local_files_only": local}))
    except Exception as error:  # readers of foreign files raise anything for a damaged one
        if "gguf_file" in options and ("install" in str(error) or isinstance(error, ImportError)):
            raise UserError(f"--lm={name}: GGUF files need two packages more: pip install gguf accelerate") from error
        raise UserError(f"--lm={name} cannot be loaded ({reason_of(error, 200)}). {_options(kind)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(model, tokenizer, Path(name).stem if Path(name).exists() else name)


def _read(place: str, kind: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and model."""
    import torch
    import transformers

    auto = transformers.AutoModelForCausalLM if kind == CAUSAL else transformers.AutoModelForSeq2SeqLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    safe = {} if "gguf_file" in options else {"use_safetensors": True}
    return tokenizer, auto.from_pretrained(place, trust_remote_code=False, dtype=torch.float32, **safe, **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and loading reports of transformers: the command line owns the screen."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # a GGUF file's progress bar ignores the settings
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
