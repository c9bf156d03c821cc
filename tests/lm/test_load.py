"""Language models by path or name: what is built, what is refused, what is never downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import UserError
from recbole_llm.lm.load import CAUSAL, SEQ2SEQ, load_language_model
from recbole_llm.lm.tokenizer import build_tokenizer, tokens_of

SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
TEXTS = ["Toy Story (1995)", "Heat, the movie & its sequel", "A toy story told again"]


@pytest.mark.parametrize(("kind", "label"), [(CAUSAL, "scratch GPT-2 1x16"), (SEQ2SEQ, "scratch T5 1x16")])
def test_scratch_makes_a_small_model_and_says_so(kind: str, label: str) -> None:
    lm = load_language_model("scratch", kind, TEXTS, SIZES)
    assert lm.label == label
    assert lm.hidden_size == 16
    assert lm.model.get_input_embeddings().weight.shape[0] == len(lm.tokenizer)


@pytest.mark.parametrize("kind", [CAUSAL, SEQ2SEQ])
def test_dropout_and_attention_of_scratch_may_be_told(kind: str) -> None:
    plain = load_language_model("scratch", kind, TEXTS, SIZES).model
    told = load_language_model("scratch", kind, TEXTS, {**SIZES, "dropout": 0.3, "attention": "sdpa"}).model
    told.load_state_dict(plain.state_dict())
    rates = {module.p for module in told.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert told.config._attn_implementation == "sdpa"
    ids = torch.tensor([[3, 4, 5, 6], [5, 4, 0, 0]])
    given = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids}
    with torch.no_grad():
        same = [model.eval()(**given).logits for model in (plain, told)]
        torch.testing.assert_close(*same, rtol=1e-4, atol=1e-4)
        torch.manual_seed(1)
        assert not torch.allclose(told.train()(**given).logits, same[1])


def test_a_saved_folder_is_loaded_with_its_own_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lm = load_language_model("scratch", CAUSAL, TEXTS, SIZES)
    lm.model.save_pretrained(tmp_path / "mine")
    lm.tokenizer.save_pretrained(tmp_path / "mine")
    capfd.readouterr()
    again = load_language_model(str(tmp_path / "mine"), CAUSAL, [], {})
    assert again.label == "mine"
    for name, value in lm.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    assert tokens_of(again.tokenizer, TEXTS) == tokens_of(lm.tokenizer, TEXTS)
    assert capfd.readouterr().err == ""  # no progress bar and no load report


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    lm = load_language_model("scratch", CAUSAL, TEXTS, SIZES)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(lm.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_language_model(str(tmp_path), CAUSAL, [], {})


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.MyConfig"}}')
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_language_model(str(tmp_path), CAUSAL, [], {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "missing.gguf", "gpt2-that-is-not-in-the-cache"])
def test_a_missing_model_names_the_options(name: str) -> None:
    with pytest.raises(UserError, match="Use scratch"):
        load_language_model(name, CAUSAL, [], {})


def test_a_broken_gguf_file_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF nothing")
    with pytest.raises(UserError, match=r"broken\.gguf"):
        load_language_model(str(tmp_path / "broken.gguf"), CAUSAL, [], {})


@pytest.mark.parametrize(
    "sizes",
    [
        *[{"hidden_size": 16}, {**SIZES, "layers": 2}, {**SIZES, "num_heads": 3}],
        *[{**SIZES, "dropout": 1.0}, {**SIZES, "dropout": True}, {**SIZES, "attention": "fast"}],
        *[{**SIZES, "hidden_size": 0}, {**SIZES, "num_layers": -1}, {**SIZES, "vocab_size": "many"}],
    ],
)
def test_sizes_of_scratch_are_checked(sizes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="lm_scratch"):
        load_language_model("scratch", CAUSAL, TEXTS, sizes)


def test_ids_are_few_tokens() -> None:
    tokenizer = build_tokenizer(TEXTS, 60)
    (tokens,) = tokens_of(tokenizer, ["user_12345 item_123"])
    assert tokenizer.convert_ids_to_tokens(tokens) == ["user_", "12", "34", "5", "item_", "12", "3"]


@given(st.integers(0, 10**9))
def test_numbers_are_read_back_as_they_were_written(number: int) -> None:
    tokenizer = _shared()
    (tokens,) = tokens_of(tokenizer, [str(number)])
    assert tokenizer.decode([*tokens, tokenizer.eos_token_id], skip_special_tokens=True) == str(number)


_KNOWN: list[transformers.PreTrainedTokenizerFast] = []


def _shared() -> transformers.PreTrainedTokenizerFast:
    if not _KNOWN:
        _KNOWN.append(build_tokenizer(TEXTS, 60))
    return _KNOWN[0]


def test_the_same_texts_give_the_same_tokenizer() -> None:
    first, second = (build_tokenizer(TEXTS, 60) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
