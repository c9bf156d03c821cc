"""DUIP: its prompt, its gradients through a frozen language model, its heads and its controls."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.methods.duip.model import UNLISTED
from recbole_llm.methods.duip.settings import DUIPSettings
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from tests.device_waits import assert_waits_for_nothing, nothing_at_hand
from tests.helpers import make_run, runner, write_tiny
from tests.methods.duip.duip import SMALL, duip


def first_batch(prepared: Prepared) -> Any:
    return next(iter(training_loader(prepared)[0]))


def cases(prepared: Prepared, count: int = 6) -> Any:
    return prepared.eval_loader("test").batch(np.arange(count))


def sharpened(prepared: Prepared) -> Any:
    """The model with perturbed weights: at initialisation, the intent hardly affects the scores."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return prepared.model.eval()


def titles_and_tokenizer(prepared: Prepared) -> tuple[list[str], Any]:
    """Titles by item, and the tokenizer that a from-scratch model builds from them."""
    from recbole_llm.lm.tokenizer import build_tokenizer
    from recbole_llm.methods.duip.prompt import AFTER, ASKED, BEFORE, OFFERED

    features = prepared.dataset.semantics
    titles = features.texts(features.item_text_ids("title_text"))
    return titles, build_tokenizer([*titles, BEFORE, AFTER, OFFERED, ASKED, ".;"], 120)


def test_the_prompt_lists_the_last_titles_oldest_first(shared_tiny: Path) -> None:
    prepared = duip(prompt_items=2, title_tokens=30)
    model, batch = prepared.model, cases(prepared)
    titles, tokenizer = titles_and_tokenizer(prepared)
    prompt = model.prompt(batch["item_id_list"], batch["item_length"])
    for row in range(len(batch)):
        history = batch["item_id_list"][row, : int(batch["item_length"][row])].tolist()[-2:]
        wanted = f"Session so far: {'; '.join(titles[item] for item in history)}. The next item is"
        assert tokenizer.decode(prompt.ids[row][prompt.mask[row]]) == tokenizer.decode(
            tokenizer(wanted, add_special_tokens=False)["input_ids"]
        )


def test_the_oldest_titles_are_left_out_of_a_long_prompt(tiny: Path) -> None:
    model = (prepared := duip(prompt_items=10, prompt_tokens=25)).model
    batch = cases(prepared, 40)
    _, lengths = model.prompt.history(batch["item_id_list"], batch["item_length"])
    assert int(lengths.sum(1).max()) <= 25
    kept = lengths > 0
    assert bool((kept.sum(1) >= 1).all())
    place = torch.arange(kept.shape[1])
    oldest_kept = torch.where(kept, place, kept.shape[1]).amin(1)
    # The kept titles are contiguous up to the last one.
    assert torch.equal(kept.sum(1) + oldest_kept, torch.where(kept, place, -1).amax(1) + 1)


def test_the_numbers_of_items_without_titles_depend_on_their_tokens_alone(tiny: Path) -> None:
    """Ids follow the first appearance in the whole file, so consecutive ids tell which item a user takes next."""
    prepared = duip(semantics="none")
    model, table = prepared.model, prepared.dataset.table

    def named(tokens: np.ndarray) -> dict[str, str]:
        dataset = SimpleNamespace(semantics=None, table=replace(table, item_tokens=tokens))
        titles, _ = model._texts(DUIPSettings.of(prepared.config), dataset)
        assert titles[0] == ""
        return dict(zip(tokens[1:].tolist(), titles[1:], strict=True))

    tokens = np.asarray(table.item_tokens)
    found = named(tokens)
    assert sorted(found.values()) == sorted(f"item {number}" for number in range(1, len(tokens)))
    assert found == named(np.concatenate([tokens[:1], tokens[:0:-1]]))


def test_scores_are_the_equations_case_by_case(shared_tiny: Path) -> None:
    """LSTM, soft prompt before the hard one, the language model's last state, items by text, id and bias."""
    model = sharpened(prepared := duip(prompt_items=2))
    batch, wanted = cases(prepared), []
    with torch.no_grad():
        e_id, words = model.item_embedding.weight * model.seen, model.lm.get_input_embeddings().weight
        e_out = model.text_vectors @ model.text_out.weight.T + e_id
        for row, length in enumerate(batch["item_length"].tolist()):
            history = batch["item_id_list"][row, :length]
            x = torch.cat([e_id[history], model.text_vectors[history] @ model.text_in.weight.T], dim=1)
            h = model.lstm(x[None])[0][0, -1]
            tokens = F.layer_norm(model.soft.f(h).view(4, 16), (16,), model.soft.norm.weight, model.soft.norm.bias)
            soft = model.soft.scale * tokens
            hard = words[model.prompt(history[None], torch.tensor([length])).ids[0]]
            o = model.lm.transformer(inputs_embeds=torch.cat([soft, hard])[None]).last_hidden_state[0, -1]
            wanted.append(e_out @ model.readout(o) + model.item_bias * model.seen[:, 0])
        torch.testing.assert_close(model.full_sort_predict(batch), torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_dropout_is_on_what_the_lstm_reads_and_on_its_last_state(tiny: Path) -> None:
    model = (prepared := duip()).model
    batch = first_batch(prepared)
    dropped: list[torch.Tensor] = []
    model.dropout.register_forward_hook(lambda _, given, __: dropped.append(given[0]))
    state = model.train().intent(batch["item_id_list"], batch["item_length"])
    read, last = dropped
    assert read.shape == (*batch["item_id_list"].shape, model.lstm.input_size)
    torch.testing.assert_close(state, torch.where(state == 0, 0.0, last / 0.8))
    assert 0.1 < float((state == 0).float().mean()) < 0.3


def test_soft_tokens_begin_on_the_scale_of_word_vectors(shared_tiny: Path) -> None:
    model = duip().model
    words = model.lm.get_input_embeddings().weight
    assert float(model.soft.scale.detach()) == pytest.approx(float(words.detach().std()), rel=1e-5)


@pytest.mark.parametrize("form", ["mlp", "linear"])
def test_gradients_reach_the_lstm_through_a_frozen_language_model(shared_tiny: Path, form: str) -> None:
    model = (prepared := duip(soft_prompt=form)).model
    model.enter_stage(0)
    assert not any(parameter.requires_grad for parameter in model.lm.parameters())
    model.calculate_loss(first_batch(prepared)).backward()
    assert all(float(parameter.grad.norm()) > 0 for parameter in model.lstm.parameters())
    assert all(parameter.grad is None for parameter in model.lm.parameters())


def test_a_row_names_the_language_model_or_says_that_there_is_none(shared_tiny: Path) -> None:
    assert duip().model.language_model == "scratch GPT-2 1x16"
    assert duip(use_lm=False).model.language_model == "no language model"


def test_items_that_were_never_trained_have_no_bias(shared_tiny: Path) -> None:
    model = (prepared := duip()).model.eval()
    model.item_bias.data.fill_(-5.0)
    _, table = model._with_bias(torch.zeros(1, 8))
    assert torch.equal(table[:, -1], torch.where(model.seen[:, 0] > 0, -5.0, 0.0))
    assert prepared.model.n_items > int(model.seen.sum()) > 0


def test_items_of_no_training_row_take_no_part_in_the_softmax_unless_asked_for(tiny: Path) -> None:
    write_tiny(tiny, n_users=10)
    for inside in (False, True):
        prepared = duip(cold_in_softmax=inside)
        model, batch = prepared.model.eval(), first_batch(prepared)
        cold = torch.nonzero(model.seen[1:, 0] == 0)[:, 0] + 1
        assert len(cold)
        before = model.calculate_loss(batch)
        output, table = model._with_bias(model.forward(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]))
        scores = output @ table.T
        if not inside:
            scores = scores.masked_fill(model.seen[:, 0] == 0, -torch.inf)
        torch.testing.assert_close(before, torch.nn.functional.cross_entropy(scores, batch[model.POS_ITEM_ID]))
        model.text_vectors[cold] += 5.0
        assert torch.equal(model.calculate_loss(batch), before) != inside


@pytest.mark.parametrize(
    ("switch", "parts"),
    [({"use_lm": False}, {"lm", "soft", "prompt"}), ({"soft_tokens": 0}, {"lstm", "soft", "text_in"})],
    ids=["LSTM alone", "language model alone"],
)
def test_an_ablation_has_no_parameters_of_what_it_lacks(
    shared_tiny: Path, switch: dict[str, Any], parts: set[str]
) -> None:
    prepared = duip(**switch)
    assert not parts & {name.split(".")[0] for name, _ in prepared.model.named_parameters()}
    assert bool(torch.isfinite(prepared.model.calculate_loss(first_batch(prepared))))


def test_items_that_were_never_trained_keep_only_their_text(shared_tiny: Path) -> None:
    model = duip().model
    with torch.no_grad():
        model.seen[7] = 0.0
        text = model.text_out(model.text_vectors)
        torch.testing.assert_close(model.item_table()[7], text[7])
        assert not torch.allclose(model.item_table()[8], text[8])


@pytest.mark.parametrize("head", ["lm", "index"])
def test_heads_over_candidates_learn_and_score_the_listed_items_alone(shared_tiny: Path, head: str) -> None:
    prepared = duip(head=head, protocol="direct_100", candidates=6)
    model = prepared.model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch, losses = first_batch(prepared), []
    for _ in range(6):
        torch.manual_seed(0)
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    tested = cases(prepared)
    with torch.no_grad():
        scores = model.eval().full_sort_predict(tested)
    listed = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, tested["candidates"], True)
    assert bool((scores[listed] > UNLISTED).all())
    assert bool((scores[~listed] == UNLISTED).all())


def test_the_likelihood_of_a_title_is_that_of_transformers(shared_tiny: Path) -> None:
    prepared = duip(head="lm", soft_tokens=0)
    model, batch = prepared.model.eval(), cases(prepared, 3)
    with torch.no_grad():
        found = model._likelihood(batch["item_id_list"], batch["item_length"], None, batch["item_id"])
        for row in range(3):
            prompt = model.prompt(batch["item_id_list"][row : row + 1], batch["item_length"][row : row + 1])
            title, length = model.prompt.continuation(batch["item_id"][row])
            ids = torch.cat([prompt.ids[0], title[:length]])[None]
            logits = model.lm(input_ids=ids).logits[0, :-1].log_softmax(-1)
            wanted = logits.gather(1, ids[0, 1:, None])[-int(length) :].mean()
            torch.testing.assert_close(found[row], wanted)


def title_by_title(model: Any, batch: Any) -> torch.Tensor:
    """The loss of the ``lm`` head, row by row: the negative mean log-probability of each title's tokens."""
    words, found = model.lm.get_input_embeddings().weight, []
    state = model.intent(batch["item_id_list"], batch["item_length"])
    for row, target in enumerate(batch["item_id"]):
        prompt = model.prompt(batch["item_id_list"][row : row + 1], batch["item_length"][row : row + 1])
        title, length = model.prompt.continuation(target)
        ids = torch.cat([prompt.ids[0, : int(prompt.length)], title[:length]])
        read = torch.cat([model.soft(state[row : row + 1])[0], words[ids]])
        logits = model.lm(inputs_embeds=read[None]).logits[0, -1 - int(length) : -1]
        found.append(logits.log_softmax(-1).gather(1, title[:length, None]).mean())
    return -torch.stack(found).mean()


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_the_loss_and_gradients_of_titles_of_any_length_are_those_of_one_at_a_time(
    tiny: Path, on_a_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = tiny / "tiny.item"
    text = items.read_text("utf-8")
    items.write_text(text.replace("Brush No.", "Brush").replace("Lipstick No.", "Lipstick, red, No."), "utf-8")
    model = sharpened(prepared := duip(head="lm", title_tokens=30))
    batch = first_batch(prepared)
    assert len(model.prompt.continuation(batch["item_id"])[1].unique()) > 1
    if on_a_gpu:
        nothing_at_hand(monkeypatch)
    losses, gradients = [], []
    for loss_of in (model.calculate_loss, partial(title_by_title, model)):
        model.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("head", ["lm", "index"])
def test_a_step_of_a_head_over_candidates_waits_for_nothing_on_a_gpu(
    tiny: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = duip(head=head, protocol="direct_100", candidates=6, title_tokens=30)
    assert_waits_for_nothing(prepared.model, partial(first_batch, prepared), monkeypatch)


def test_titles_score_the_same_alone_and_in_passes_of_several(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.methods.duip.model.PAIRS", 5)
    model = sharpened(prepared := duip(head="lm", protocol="direct_100", candidates=6))
    batch = cases(prepared)
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for items in batch["candidates"].T:
            batch["item_id"] = items
            alone = scores.gather(1, items[:, None])[:, 0]
            torch.testing.assert_close(model.predict(batch), alone, rtol=1e-4, atol=1e-4)


def test_candidates_are_scored_by_the_logits_of_their_numbers(shared_tiny: Path) -> None:
    prepared = duip(head="index", soft_tokens=0, protocol="direct_100", candidates=6, prompt_items=2, title_tokens=30)
    model, batch = prepared.model.eval(), cases(prepared, 3)
    titles, tokenizer = titles_and_tokenizer(prepared)
    numbers = [tokenizer(f" {number}", add_special_tokens=False)["input_ids"][-1] for number in range(1, 8)]
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for row, offered in enumerate(batch["candidates"]):
            history, length = batch["item_id_list"][row : row + 1], batch["item_length"][row : row + 1]
            ids = model.prompt(history, length, candidates=offered[None]).ids
            named = "; ".join(titles[item] for item in history[0, : int(length)].tolist()[-2:])
            listed = "".join(f" {number}. {titles[item]};" for number, item in enumerate(offered.tolist(), start=1))
            wanted = f"Session so far: {named}. Candidates:{listed} The number of the next item is"
            assert tokenizer.decode(ids[0]) == tokenizer.decode(
                tokenizer(wanted, add_special_tokens=False)["input_ids"]
            )
            torch.testing.assert_close(scores[row, offered], model.lm(input_ids=ids).logits[0, -1, numbers])


def test_a_training_prompt_lists_its_target_once_anywhere(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = duip(head="index", protocol="direct_100", candidates=6)
    model, batch, drawn = prepared.model, first_batch(prepared), []
    target = batch["item_id"][:, None]

    def choice(item_seq: Any, length: Any, state: Any, offered: torch.Tensor) -> torch.Tensor:
        drawn.append(offered)
        return 50.0 * (offered == target)

    monkeypatch.setattr(model, "_choice", choice)
    assert float(model.calculate_loss(batch)) < 1e-6  # a target listed twice would cost log 2
    (offered,) = drawn
    assert offered.shape == (len(target), 7)
    assert int(offered.min()) >= 1
    assert int(offered.max()) < model.n_items
    assert len((offered == target).int().argmax(1).unique()) == 7


def test_the_index_head_asks_for_a_protocol_with_candidates(shared_tiny: Path) -> None:
    with pytest.raises(UserError, match="temporal_20"):
        duip(head="index")


@pytest.mark.parametrize("head", ["lm", "index"])
def test_a_head_that_reads_titles_needs_some_of_them(shared_tiny: Path, head: str) -> None:
    """Otherwise all items would have the same score."""
    with pytest.raises(UserError, match=f"head: {head} tells items apart by their titles"):
        duip(head=head, title_tokens=0, protocol="direct_100", candidates=6)


def test_prompts_that_are_longer_than_the_language_model_reads_are_refused(tiny: Path) -> None:
    write_tiny(tiny, n_items=160)
    with pytest.raises(UserError, match=r"prompts of up to \d+ tokens, and scratch GPT-2 1x16 reads 1024"):
        duip(head="index", protocol="direct_100")
    assert duip(head="index", protocol="direct_100", title_tokens=4).model.n_offered == 100


@pytest.mark.parametrize("head", ["item", "lm", "index"])
def test_no_prompt_is_longer_than_is_said(shared_tiny: Path, head: str) -> None:
    prepared = duip(head=head, protocol="direct_100", candidates=6, prompt_items=9, prompt_tokens=20)
    prompt, batch = prepared.model.prompt, cases(prepared, 60)
    extra = {"lm": {"continuation": batch["item_id"]}, "index": {"candidates": batch["candidates"]}}.get(head, {})
    found = prompt(batch["item_id_list"], batch["item_length"], **extra).ids.shape[1]
    assert found <= prompt.longest(10, prepared.model.n_offered, head == "lm") <= found + 20


@pytest.mark.parametrize("semantics", ["shuffled", "random", "none"])
def test_controls_change_the_prompts(shared_tiny: Path, semantics: str) -> None:
    real, control = duip(), duip(semantics=semantics)
    assert not torch.equal(real.model.prompt.session.tokens[:, :3], control.model.prompt.session.tokens[:, :3])


def test_the_record_names_the_language_model(tiny: Path) -> None:
    record = runner().run(make_run("DUIP", **SMALL, epochs=1))
    assert record.language_model == "scratch GPT-2 1x16"
    assert record.label == "DUIP (text, scratch GPT-2 1x16)"


def test_a_language_model_from_a_folder_of_another_architecture(tiny: Path) -> None:
    """Any causal language model of transformers can read the prompts; this is a Llama."""
    import transformers

    from recbole_llm.lm.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(["Lipstick No. 1", "The next item is", ";."], 80)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained("llama")
    tokenizer.save_pretrained("llama")
    prepared = duip(lm="llama")
    prepared.model.calculate_loss(first_batch(prepared)).backward()
    assert prepared.model.language_model == "llama"
    assert float(prepared.model.lm.get_input_embeddings().weight.grad.norm()) > 0


@pytest.mark.parametrize("rows", [192, 160])
def test_summed_gradients_equal_those_of_a_larger_batch(tiny: Path, rows: int) -> None:
    """Two batches of 32 per step equal one of 64, and a last single batch equals one of 32: losses are averaged."""
    weights = []
    for size, steps in ((64, 1), (32, 2)):
        prepared = duip(
            use_lm=False, dropout_prob=0.0, train_batch_size=size, gradient_accumulation_steps=steps, weight_decay=0.0
        )
        trainer = make_trainer(prepared.config, prepared.model)
        loader, _ = training_loader(prepared)
        loader.rows = loader.rows[:rows]
        trainer._train_epoch(loader, 0)
        weights.append(prepared.model.readout.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)
