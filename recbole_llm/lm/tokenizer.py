"""A tokenizer made from a dataset's own text, for language models trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
ID_WORDS = ("user_", "item_")


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Byte-pair encoding of some texts, with whole tokens for the parts of ids.

    ``user_``, ``item_`` and all numbers of one or two digits are single tokens, so that ``item_1234`` is
    ``item_ 12 34``: ids are short and their trie is shallow. The same texts give the same tokenizer.

    Args:
        texts: texts on which merges are counted, usually titles.
        vocab_size: most merged tokens; the id tokens (112) come on top.

    Returns:
        A ``PreTrainedTokenizerFast`` with padding 0 and end of sequence 1.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token=UNKNOWN))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pattern = Regex(r"[^\W\d_]+|\d|_|[^\w\s]")
    words.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    words.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[PAD, EOS, UNKNOWN], show_progress=False)
    words.train_from_iterator(texts, trainer)
    numbers = [str(n) for n in range(10)] + [f"{n:02d}" for n in range(100)]
    words.add_tokens([*ID_WORDS, *numbers])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def tokens_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of some texts, without special tokens."""
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return found
