"""Search spaces: our files, RecBole's format, defaults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recbole_llm.errors import UserError
from recbole_llm.registry import methods, recbole_methods
from recbole_llm.settings.core import CoreSettings
from recbole_llm.tuning.space import VARIED, read_space, searched, space_of
from recbole_llm.tuning.study import starts
from recbole_llm.utils.yaml import properties_folder, property_names
from tests.helpers import layered, make_run, settings_of

BASELINES = [
    *("Pop", "BPR", "LightGCN", "SimpleX", "GRU4Rec", "SASRec", "SRGNN", "GCSAN", "NARM", "BERT4Rec"),
    *("FDSA", "SASRecF", "GRU4RecF"),
]
KNOWN = [name for name in property_names("search") if name in methods() or name in recbole_methods()]


def written(folder: Path, text: str, name: str = "space.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def distributions(path: Path) -> dict[str, Any]:
    return {name: parameter.distribution for name, parameter in read_space(path).items()}


# ---- our files ------------------------------------------------------------------------------------


def test_every_model_of_ours_and_every_baseline_has_a_space() -> None:
    shared = {"ISRFDirect", "SRGNNEnsemble"}  # use the spaces of ISRF and SRGNN
    assert {*BASELINES, *methods()} - shared - {"Lists"} <= set(property_names("search"))
    assert all(space_of(settings_of(name, "ml-100k", protocol="direct_100")) for name in shared)


@pytest.mark.parametrize("name", KNOWN)
def test_a_space_names_settings_of_its_model_and_holds_their_defaults(name: str) -> None:
    settings = layered(name, "ml-100k")
    space = space_of(settings)
    below = {"LLMDMsRec": "SRGNN"}.get(name, name)
    files = [properties_folder() / "search" / f"{each}.yaml" for each in (name, below)]
    assert set(space) == {key for file in files for key in read_space(file)}
    for key, parameter in space.items():
        stored = parameter.stored(settings[key])
        assert parameter.distribution._contains(parameter.distribution.to_internal_repr(stored)), key


def test_a_search_leaves_out_settings_its_trials_never_reach(tiny: Path) -> None:
    """Regression: two-epoch trials, which end with DUIP's first stage, drew the second stage's learning rates."""
    second = {"finetune_learning_rate", "lm_learning_rate"}
    settings = settings_of("DUIP", stage_epochs=[2, 6])
    assert second <= set(space_of(settings)) & set(space_of(settings, epochs=3))
    left_out: list[str] = []
    short = set(space_of(settings, epochs=2, left_out=left_out))
    assert short and not second & short
    assert any("the search leaves lm_learning_rate out, which is of the second stage" in line for line in left_out)
    assert not second & set(space_of(settings_of("DUIP", freeze_lm=True)))
    assert not {*second, "soft_tokens"} & set(space_of(settings_of("DUIP", use_lm=False)))
    mine = written(tiny, "lm_learning_rate: {low: 0.0001, high: 0.01, log: true}")
    with pytest.raises(UserError, match="lm_learning_rate is of the second stage, which begins after 2 epochs: give"):
        space_of(settings, mine, epochs=2)
    assert set(space_of(settings, mine, epochs=3)) == {"lm_learning_rate"}


def test_a_search_whose_trials_have_one_number_of_epochs_does_not_vary_it(tiny: Path) -> None:
    """Regression: --trial_epochs replaced the epochs that were drawn, and the search reported one of them as best."""
    mine = written(tiny, "epochs: [1, 3]")
    with pytest.raises(UserError, match=r"space.yaml: epochs is set by --trial_epochs=2 in every trial; leave one"):
        space_of(layered("GRU4Rec"), mine, epochs=2)
    assert set(space_of(layered("GRU4Rec"), mine)) == {"epochs"}


def test_a_search_leaves_out_options_that_the_loss_does_not_read(tiny: Path) -> None:
    """Regression: negatives of a softmax over all items were searched, and any number of them was called the best."""
    mine = written(tiny, "n_negatives: [4, 8]")
    with pytest.raises(UserError, match=r"space.yaml: n_negatives is not read by softmax, but by objective: sampled_"):
        space_of(settings_of("SASRec"), mine)
    with pytest.raises(UserError, match="n_negatives is not read by loss_type: BPR"):
        space_of(settings_of("GRU4Rec", loss_type="BPR"), mine)
    assert set(space_of(settings_of("SASRec", objective="bce"), mine)) == {"n_negatives"}
    varied = written(tiny, "n_negatives: [4, 8]\nobjective: [softmax, bce]", "varied.yaml")
    assert set(space_of(settings_of("SASRec"), varied)) == {"n_negatives", "objective"}
    with pytest.raises(UserError, match="n_negatives is not read by softmax"):
        space_of(settings_of("SASRec", objective="softmax"), varied)
    left_out: list[str] = []
    assert "calibration" not in space_of(settings_of("gSASRec", objective="bce"), left_out=left_out)
    assert left_out == ["gSASRec: the search leaves calibration out, which is not read by bce, but by objective: gbce"]


def test_each_search_says_once_what_it_leaves_out(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Regression: a second search in the same process said nothing. A search that is only checked stays silent."""
    runs = [make_run("DUIP", semantics=semantics, use_lm=False) for semantics in ("offline", "none")]
    runs.append(make_run("DUIP", freeze_lm=True))
    searched(runs, 3, quiet=True)
    assert not caplog.records
    searched(runs, 3)
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    searched(runs, 3)
    assert said == [record.getMessage() for record in caplog.records]
    assert sorted(said) == [
        "DUIP: the search leaves finetune_learning_rate out, which is of the language model (use_lm: False)",
        "DUIP: the search leaves finetune_learning_rate out, which is of the second stage (freeze_lm: True)",
        "DUIP: the search leaves lm_learning_rate out, which is of the language model (use_lm: False)",
        "DUIP: the search leaves lm_learning_rate out, which is of the second stage (freeze_lm: True)",
        "DUIP: the search leaves soft_tokens out, which is of the language model (use_lm: False)",
    ]


@pytest.mark.parametrize("model", ["ComiRecDR", "MIND", "LDMI"])
def test_no_capsule_model_is_searched_without_routing(model: str) -> None:
    """With one round, every item has the same weight; regression: a search chose that as the best ComiRec-DR."""
    space = space_of(settings_of(model, "ml-100k"))
    assert min(space["routing_rounds"].examples()) >= 2
    assert {1.0, 8.0} <= set(space["interest_scale"].examples())
    assert "weight_decay" in space


def test_the_space_of_a_method_is_its_own_and_that_of_its_backbone() -> None:
    assert {"sigma", "semantic_dropout", "dropout_global", "learning_rate"} <= set(
        space_of(settings_of("LLMDMsRec", "ml-100k", backbone="GCEGNN"))
    )
    gcsan = space_of(settings_of("LLMDMsRec", "ml-100k", backbone="GCSAN"))
    assert {"sigma", "hidden_size", "reg_weight"} <= set(gcsan)
    assert "embedding_size" not in gcsan


# ---- YAML -----------------------------------------------------------------------------------------


def test_yaml_gives_choices_and_ranges(tmp_path: Path) -> None:
    text = (
        "a: [1, 2]\nb: {low: 1, high: 9, step: 2}\nc: {low: 1.0e-4, high: 0.1, log: true}\nd: {low: 0.0, high: 1.0}\n"
    )
    assert distributions(written(tmp_path, text)) == {
        "a": CategoricalDistribution([1, 2]),
        "b": IntDistribution(1, 9, step=2),
        "c": FloatDistribution(1e-4, 0.1, log=True),
        "d": FloatDistribution(0.0, 1.0),
    }


def test_choices_that_are_lists_come_back_as_lists(tmp_path: Path) -> None:
    parameter = read_space(written(tmp_path, "a: [[0.1, 0.2], [0.3, 0.4]]"))["a"]
    assert parameter.examples() == [[0.1, 0.2], [0.3, 0.4]]


@pytest.mark.parametrize(
    "entry",
    [
        "3",
        "[]",
        "{low: 1}",
        "{low: 2, high: 1}",
        "{low: a, high: b}",
        "{low: 0.0, high: 1.0, log: true}",
        "{lo: 1, high: 2}",
    ],
)
def test_a_mistake_in_a_yaml_space_is_an_error_with_file_and_setting(tmp_path: Path, entry: str) -> None:
    with pytest.raises(UserError, match=r"space\.yaml, a: give a list of choices or"):
        read_space(written(tmp_path, f"a: {entry}"))


# ---- RecBole's format -----------------------------------------------------------------------------


def test_recboles_format_is_read_as_recbole_reads_it(tmp_path: Path) -> None:
    """Uses lines from .hyper files in RecBole's documentation."""
    text = (
        "learning_rate loguniform -8,0\n"
        "embedding_size choice [64, 96, 128]\n"
        "train_batch_size quniform 512,2048,512\n"
        "dropout uniform 0.0, 0.5\n"
        "mlp_hidden_size choice ['[64, 64, 64]','[128, 128]']\n"
        "aggregator choice ['mean', None]  # a comment\n"
        "\n"
    )
    found = distributions(written(tmp_path, text, "model.hyper"))
    assert found == {
        "learning_rate": FloatDistribution(math.exp(-8), 1.0, log=True),
        "embedding_size": CategoricalDistribution([64, 96, 128]),
        "train_batch_size": IntDistribution(512, 2048, step=512),
        "dropout": FloatDistribution(0.0, 0.5),
        "mlp_hidden_size": CategoricalDistribution(["[64, 64, 64]", "[128, 128]"]),
        "aggregator": CategoricalDistribution(["mean", None]),
    }


def test_lists_of_recboles_format_reach_the_model_as_lists(tiny: Path) -> None:
    """Regression: '[64,32]', as RecBole's own files write it, became ['[64', '32]'], and every trial failed."""
    file = written(tiny, "mlp_hidden_size choice ['[64,32]','[32]']\nmf_train choice ['True','False']\n", "model.hyper")
    space = space_of(settings_of("NeuMF"), file)
    assert space["mlp_hidden_size"].examples() == [[64, 32], [32], [128, 64]]
    assert space["mf_train"].examples() == [True, False]
    assert settings_of("NeuMF", mlp_hidden_size="[64,32]")["mlp_hidden_size"] == [64, 32]


@pytest.mark.parametrize(
    "line",
    [
        "a choice",
        "a normal 0,1",
        "a choice 3",
        "a uniform 1",
        "a quniform 0,1,0",
        "a uniform x,y",
        "a loguniform 0,9999",
    ],
)
def test_a_mistake_in_recboles_format_is_an_error_with_file_and_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"model\.hyper, line 2: "):
        read_space(written(tmp_path, f"b choice [1,2]\n{line}\n", "model.hyper"))


def test_values_that_go_with_each_other_need_not_go_with_the_defaults(tiny: Path) -> None:
    """Regression: five heads were refused for the default of 64 dimensions, which the file does not name."""
    mine = Path("mine.yaml")
    mine.write_text("hidden_size: [40, 80]\nn_heads: [1, 5]\n", encoding="utf-8")
    assert set(space_of(settings_of("HSTU"), mine)) == {"hidden_size", "n_heads"}
    with pytest.raises(UserError, match=r"hidden_size=64 is no multiple of n_heads=5"):
        space_of(settings_of("HSTU", hidden_size=64), mine)
    mine.write_text("hidden_size: [40, 80]\nn_heads: [1, 7]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is no multiple of n_heads=7"):
        space_of(settings_of("HSTU"), mine)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(UserError, match="line 1"):
        read_space(written(tmp_path, f"a choice open({str(mark)!r},'w')", "model.hyper"))
    assert not mark.exists()


@given(text=st.text(max_size=200))
def test_any_text_gives_a_space_or_a_users_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("hyper") / "model.hyper"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        read_space(path)
    except UserError as error:
        assert "model.hyper" in str(error)


# ---- a model's space ------------------------------------------------------------------------------


def test_what_the_user_gives_is_not_searched(tiny: Path) -> None:
    assert "num_layers" in space_of(settings_of("GRU4Rec"))
    assert "num_layers" not in space_of(settings_of("GRU4Rec", num_layers=2))
    assert "num_layers" not in space_of(settings_of("GRU4Rec", **{"GRU4Rec.num_layers": 1}))


@pytest.mark.parametrize(
    ("entry", "default", "wanted"),
    [
        ("[1, 2]", 3, CategoricalDistribution([1, 2, 3])),
        ("{low: 1, high: 2}", 5, IntDistribution(1, 5)),
        ("{low: 0.1, high: 0.5, step: 0.1}", 0.25, FloatDistribution(0.1, 0.5)),
        ("{low: 0.01, high: 0.5, log: true}", 0.0, FloatDistribution(0.0, 0.5)),
        ("{low: 0.0, high: 0.5, step: 0.1}", 0.3, FloatDistribution(0.0, 0.5, step=0.1)),
    ],
)
def test_a_space_is_widened_to_hold_the_default(tmp_path: Path, entry: str, default: Any, wanted: Any) -> None:
    parameter = read_space(written(tmp_path, f"a: {entry}"))["a"]
    assert parameter.including(default).distribution == wanted


def test_a_range_that_loses_its_logarithm_to_the_default_says_so(tiny: Path) -> None:
    """Regression: with the default 0, `weight_decay` from 1e-6 to 0.1 was drawn evenly without a word."""
    left_out: list[str] = []
    mine = written(tiny, "weight_decay: {low: 1.0e-6, high: 0.1, log: true}")
    space = space_of(settings_of("BPR"), mine, left_out=left_out)
    assert space["weight_decay"].distribution == FloatDistribution(0.0, 0.1)
    (said,) = left_out
    assert said.startswith("BPR: the search draws weight_decay evenly and not by its logarithm, which the default 0.0 ")


def test_settings_that_a_search_may_vary_exist() -> None:
    assert CoreSettings.model_fields.keys() >= VARIED


@pytest.mark.parametrize(
    ("model", "text", "default"),
    [
        ("SASRec", "clip_grad_norm: [{max_norm: 1}, {max_norm: 5}]", None),
        ("BPR", "train_neg_sample_args.sample_num: [2, 5]", 1),
        ("NeuMF", "mlp_hidden_size: [[64, 32], [32, 16]]", [128, 64]),
    ],
)
def test_the_first_trial_has_the_default_of_every_setting(tiny: Path, model: str, text: str, default: Any) -> None:
    """Regression: a null, and a key within a setting, were drawn at random, and the result was called the default's."""
    run = make_run(model)
    space = space_of(run.settings, written(tiny, text))
    ((name, parameter),) = space.items()
    assert parameter.value(starts(run, space)[0][name]) == default


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("GRU4Rec", "num_layer: [1, 2]", r"no setting 'num_layer'.*Did you mean num_layers"),
        ("GRU4Rec", "num_layers: [1, deep]", "num_layers takes a whole number"),
        ("LLMDMsRec", "n_candidates: [10, 50]", "decides what the semantic features are"),
        ("LLMDMsRec", "candidate_folds: [1, 5]", "decides what the semantic features are"),
        ("LLMDMsRec", "stage_one_model: [SRGNN, GRU4Rec]", "decides what the semantic features are"),
        ("GRU4Rec", "valid_metric: [NDCG@10, Hit@10]", "valid_metric cannot be searched: all trials"),
        ("GRU4Rec", "mask_history: [true, false]", "mask_history cannot be searched"),
        ("GRU4Rec", "candidates: [10, all]", "candidates cannot be searched"),
        ("GRU4Rec", "val_interval.rating: ['[3,inf)', '[4,inf)']", "val_interval.rating cannot be searched"),
        ("GRU4Rec", "seed: [1, 2]", "seed cannot be searched.*give --seed to the command"),
        ("GRU4Rec", "reproducibility: [true, false]", "reproducibility cannot be searched"),
        ("GRU4Rec", "dataset: [tiny]", "dataset cannot be searched"),
        ("GRU4Rec", "GRU4Rec.num_layers: [1, 2]", "the space of GRU4Rec alone; write num_layers"),
        ("GRU4Rec", "SASRec.n_layers: [1, 2]", "the space of GRU4Rec alone; write n_layers"),
        ("GRU4Rec", "hidden_size: {low: 16.0, high: 32.0}", r"hidden_size takes a whole number .*, got 21\.09"),
        ("GRU4Rec", "", "names no setting to search"),
    ],
)
def test_a_space_that_does_not_fit_its_model_is_an_error(tiny: Path, model: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space_of(settings_of(model), written(tiny, text))


def test_a_value_is_checked_with_what_the_user_fixed(tiny: Path) -> None:
    """Regression: it was checked with the defaults, which other values fit than what the trials train with."""
    mine = written(tiny, "hard_negative_beta: [0.5, 1.0]")
    with pytest.raises(UserError, match=r"space.yaml: hard_negative_beta=0.5 weighs sampled negatives: give n_sampled"):
        space_of(settings_of("REMI"), mine)
    assert set(space_of(settings_of("REMI", n_sampled=64), mine)) == {"hard_negative_beta"}
    assert set(space_of(settings_of("REMI", **{"REMI.n_sampled": 64}), mine)) == {"hard_negative_beta"}
    mine = written(tiny, "train_targets: [last, all]")
    assert set(space_of(settings_of("GRU4Rec"), mine)) == {"train_targets"}
    with pytest.raises(UserError, match=r"space.yaml: train_targets=all goes with loss_type: CE, not BPR"):
        space_of(settings_of("GRU4Rec", loss_type="BPR"), mine)


def test_a_model_without_a_space_is_an_error_with_what_to_do(tiny: Path) -> None:
    with pytest.raises(UserError, match="no search space for NeuMF: write one and give --space=FILE"):
        space_of(settings_of("NeuMF"))
