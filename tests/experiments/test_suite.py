"""Suites: what a suite file means, which mistakes are reported, and how a killed suite continues."""

from __future__ import annotations

import re
import shutil
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from recbole_llm import api
from recbole_llm.cli import main
from recbole_llm.errors import UserError
from recbole_llm.experiments import suite
from recbole_llm.experiments.record import SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.suite import Stage
from recbole_llm.tuning.storage import open_storage, storage_address
from recbole_llm.utils.text import names_of
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml
from tests.processes import start_command, wait_for
from tests.reporting.records import run_of

SUITE: dict[str, Any] = {
    "common": {"dataset": "tiny"},
    "stages": [
        {"tune": {"model": ["GRU4Rec", "BPR"], "trials": 5, "epochs": 3}},
        {"run": {"model": "SRGNN", "semantics": ["offline", "none"], "epochs": 2, "tensorboard": False}},
        {"table": {"format": "markdown", "output": "table.md", "groups": True, "check_reference": False}},
    ],
    "budgets": {"small": {"common": {"results_dir": "few"}, "tune": {"trials": 2, "epochs": 1}}},
}


OPTIONS = {verb: signature(getattr(api, verb)).parameters for verb in suite.STAGE_VERBS}


def read_suite(name: str, budget: str = suite.FULL, given: dict[str, Any] | None = None) -> list[Stage]:
    return suite.read_suite(name, OPTIONS, budget, given)


def written(**changes: Any) -> str:
    Path("mine.yaml").write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False), encoding="utf-8")
    return "mine.yaml"


# ---- what a file means --------------------------------------------------------------------------


def test_stages_are_commands_with_the_common_keys_first(workspace: Path) -> None:
    assert [stage.words for stage in read_suite(written())] == [
        ["tune", "--dataset=tiny", "--model=GRU4Rec,BPR", "--trials=5", "--epochs=3"],
        ["run", "--dataset=tiny", "--model=SRGNN", "--semantics=offline,none", "--epochs=2", "--tensorboard=false"],
        ["table", "--dataset=tiny", "--format=markdown", "--output=results/table.md", "--groups"],
    ]


def test_every_flag_and_list_is_written_as_it_is_typed() -> None:
    """Regression: a suite showed ``--dry_run=true`` and ``--objectives=["accuracy", ...]``, which are refused."""
    hints = [get_type_hints(getattr(api, verb)) for verb in suite.STAGE_VERBS]
    flags = {name for options in hints for name, hint in options.items() if hint is bool}
    assert {"batch", "dry_run", "force", "groups"} <= flags
    assert Stage("run", dict.fromkeys(flags, True)).words[1:] == [f"--{name}" for name in flags]
    assert Stage("run", dict.fromkeys(flags, False)).words == ["run"]
    lists = {"objectives": ["accuracy", "seconds"], "config_file": ["a.yaml", "b.yaml"], "seeds": [1, 2]}
    words = ["tune", "--objectives=accuracy,seconds", "--config_file=a.yaml", "--config_file=b.yaml", "--seeds=[1, 2]"]
    assert Stage("tune", lists).words == words


def test_a_budget_wins_over_the_stage_and_the_command_line_over_both(workspace: Path) -> None:
    tune, run, table = (stage.words for stage in read_suite(written(), "small"))
    assert {"--trials=2", "--epochs=1", "--results_dir=few"} < set(tune)
    assert {"--epochs=2", "--results_dir=few"} < set(run)
    assert {"--output=few/table.md", "--results_dir=few"} < set(table)
    given = {"epochs": 7, "topk": [5, 10], "results_dir": "elsewhere"}
    tune, run, table = (stage.words for stage in read_suite(written(), "small", given))
    assert {"--trials=2", "--epochs=7", "--topk=[5, 10]", "--results_dir=elsewhere"} < set(tune)
    assert {"--epochs=7", "--tensorboard=false"} < set(run)
    assert {"--output=elsewhere/table.md", "--results_dir=elsewhere"} < set(table)
    assert not any(word.startswith(("--epochs", "--topk")) for word in table)


def test_an_option_of_one_verb_goes_to_its_stages_alone(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"generate": {"model": "SASRecText"}}, *SUITE["stages"]]
    options = ["--seeds=2", "--workers=2", "--trials=3", "--force=true", "--limit=5", "--learning_rate=0.01"]
    assert main(["suite", written(stages=stages), *options, "--dry-run", "--quiet"]) == 0
    commands, estimate = capsys.readouterr().out.split("\n\n", 1)
    generate, tune, run, table = ([f"--{word}" for word in line.split(" --")[1:]] for line in commands.splitlines())
    assert set(generate) & set(options) == {"--limit=5", "--learning_rate=0.01"}
    assert set(tune) & set(options) == {"--seeds=2", "--workers=2", "--trials=3", "--learning_rate=0.01"}
    assert set(run) & set(options) == {"--seeds=2", "--workers=2", "--learning_rate=0.01"}
    assert "--force" in run
    assert not set(table) & set(options)
    trials, tuned = (line.split() for line in estimate.splitlines() if line.startswith("BPR"))
    assert (trials[3:5], tuned[3:6]) == (["trial", "3"], ["tuned", "run", "2"])
    assert not Path("results").exists()


def test_a_common_key_goes_to_the_stages_that_take_it(workspace: Path) -> None:
    common = {"dataset": "tiny", "llm": "vllm", "seeds": 3, "limit": 5, "topk": [5], "baseline": "Pop", "epochs": 2}
    stages = [{"generate": {"model": "EIMF"}}, {"tune": {"model": "BPR"}}, {"run": {"model": "Pop"}}, {"table": {}}]
    budgets = {"small": {"common": {"epochs": 1, "margin": 0.1}}}
    keys = [stage.keys for stage in read_suite(written(common=common, stages=stages, budgets=budgets), "small")]
    shared = {"dataset": "tiny", "topk": [5]}
    assert keys == [
        {"model": "EIMF", **shared, "llm": "vllm", "limit": 5, "epochs": 1},
        {"model": "BPR", **shared, "llm": "vllm", "seeds": 3, "epochs": 1},
        {"model": "Pop", **shared, "llm": "vllm", "seeds": 3, "epochs": 1},
        {**shared, "baseline": "Pop", "margin": 0.1},
    ]


@pytest.mark.parametrize(
    ("common", "message"),
    [
        ({"limit": 5}, "mine.yaml, common: no stage takes 'limit'; it is an option of generate"),
        ({"epochs": 5}, "mine.yaml, common: no stage takes 'epochs'; settings are for generate, tune, run"),
    ],
)
def test_a_common_key_that_no_stage_takes_is_an_error(workspace: Path, common: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_suite(written(common=common, stages=[{"table": {}}]))


def test_the_command_line_gives_what_tables_alone_take_to_them(workspace: Path) -> None:
    given = {"baseline": "BPR", "protocol": "gts", "track": "mlflow"}
    tune, run, table = (stage.keys for stage in read_suite(written(), given=given))
    assert "baseline" not in {**tune, **run}
    assert (tune["track"], run["protocol"]) == ("mlflow", "gts")
    assert table["baseline"] == "BPR"
    assert not {"protocol", "track"} & {*table}


def test_a_key_with_a_models_name_goes_to_the_stages_that_have_it(workspace: Path) -> None:
    stages = [*SUITE["stages"], {"tune": {"model": "BPR", "trials": 2}}]
    suite_file = written(stages=stages, budgets={"small": {"tune": {"BPR.epochs": 1, "Pop.epochs": 1}}})
    first, run, _, second = (stage.words for stage in read_suite(suite_file, "small", {"SRGNN.step": None}))
    assert {"--BPR.epochs=1", "--Pop.epochs=1"} <= {*first} & {*second}  # no stage has Pop, so each refuses the key
    assert "--SRGNN.step=null" in run
    assert not any(word.startswith("--SRGNN.") for word in (*first, *second))
    first, *_ = (stage.words for stage in read_suite(written(stages=stages), given={"SRGNN.step": 2, "BPR.epochs": 1}))
    assert "--BPR.epochs=1" in first
    run = next(stage.words for stage in read_suite(written(), given={"BPR.epochs": 1}) if stage.verb == "run")
    assert not any(word.startswith("--BPR.") for word in run)


@pytest.mark.parametrize(("budget", "table"), [("full", "ea77079564d1"), ("short", "ea77079564d1"), ("small", None)])
def test_the_flagship_reads_the_answers_that_are_published_for_llmdmsrec(budget: str, table: str | None) -> None:
    """Regression: LLM-DMsRec's row `llm` read the rule's answers, although a strong LLM's are published."""
    (keys,) = (each.keys for each in read_suite("flagship", budget) if "candidate_table" in each.keys)
    assert (keys["model"], keys["semantics"][0]) == ("LLMDMsRec", "llm")
    chosen = keys.get("LLMDMsRec.candidate_table", keys["candidate_table"])
    assert chosen == (f"dataset/ml-100k/answers/ml-100k.{table}.candidates.gz" if table else None)
    assert chosen is None or (Path(__file__).parents[2] / chosen).is_file()
    assert (keys["MAX_ITEM_LIST_LENGTH"], keys["intent_stride"]) == (10, 50)
    assert keys["llm"] == ("claude-2026-11" if table else "offline")


def test_models_and_datasets_of_a_suite_may_be_lists(tiny: Path) -> None:
    stages = [{"run": {"model": ["Pop", "EASE", "ItemKNN"], "force": None}}]
    results = api.suite(written(stages=stages), model=["Pop", "EASE"], dataset=["tiny"], dry_run=True)
    assert [result.stage.words[1:3] for result in results] == [["--dataset=tiny", "--model=Pop,EASE"]]


def test_models_on_the_command_line_choose_among_the_rows(workspace: Path) -> None:
    stages = [*SUITE["stages"], {"tune": {"model": "BPR", "trials": 2, "protocol": "gts"}}]
    for given in ("BPR", ["BPR"]):
        tune, table, other = (stage.words for stage in read_suite(written(stages=stages), given={"model": given}))
        assert tune == ["tune", "--dataset=tiny", "--model=BPR", "--trials=5", "--epochs=3"]
        assert other == ["tune", "--dataset=tiny", "--model=BPR", "--trials=2", "--protocol=gts"]
        assert table[0] == "table"
    run, tune = (stage.keys["model"] for stage in read_suite(written(), given={"model": "SRGNN, GRU4Rec"})[:2][::-1])
    assert (tune, run) == (["GRU4Rec"], ["SRGNN"])
    twice = written(stages=[stages[0], {"tune": {**stages[0]["tune"], "protocol": "gts"}}])
    assert len(read_suite(twice)) == 2
    assert len(read_suite(twice, given={"model": "BPR", "protocol": "loo"})) == 1
    with pytest.raises(UserError, match=r"--model=GRU4rec: mine.yaml has no such row. Did you mean GRU4Rec\?"):
        read_suite(written(), given={"model": "BPR,GRU4rec"})


def test_an_option_that_no_stage_has_is_an_error(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"--trials is an option of tune, and mine.yaml has no such stage"):
        read_suite(written(stages=[{"run": {"model": "Pop"}}]), given={"trials": 3})


# Folders of files that suites name.
NAMED = {"vectors": "vectors", "answers": "answers", "flagship": "answers", "parts": "answers"}
SUITES = [
    (name, budget)
    for name in property_names("suite")
    for budget in ("full", *read_yaml(properties_folder() / "suite" / f"{name}.yaml").get("budgets", {}))
]


@pytest.mark.parametrize(("name", "budget"), SUITES)
def test_every_command_of_our_suites_is_valid(tiny: Path, name: str, budget: str) -> None:
    """A dry run checks every model, key, value and search space, and the files that a suite names."""
    if folder := NAMED.get(name):
        shutil.copytree(Path(__file__).parents[2] / "dataset/ml-100k" / folder, f"dataset/ml-100k/{folder}")
    commands = [
        result.stage.words for result in api.suite(name, budget=budget, dry_run=True, dataset="tiny", llm="vllm")
    ]
    assert len(commands) == len(read_suite(name))
    assert all("--dataset=tiny" in words for words in commands)
    assert not Path("results").exists()


# Bundle's sessions have no training rows of the tested users and no dates; Beauty's sequences have no dates.
REFUSED = {"sessions": {"PopRecent", "ItemKNN", "EASE"}, "beauty": {"PopRecent"}}


@pytest.mark.parametrize("name", property_names("suite"))
def test_every_suite_has_the_rows_that_cost_seconds(name: str) -> None:
    running = [stage for stage in read_suite(name) if stage.verb in suite.RUNNING]
    models = {model for stage in running for model in names_of(stage.keys["model"])}
    wanted = {"Pop", "PopRecent", "PopUser", "MarkovChain", "VSKNN", "ItemKNN", "EASE"}
    assert models >= wanted - REFUSED.get(name, set())


def test_no_budget_but_the_smallest_searches_with_fewer_than_twelve_trials_of_eight_epochs() -> None:
    """With three trials of two epochs, 19 of 23 searches chose the largest size and the highest learning rate."""
    for budget in ("full", "short"):
        for stage in read_suite("flagship", budget):
            if stage.verb == "tune":
                given = dict(word.removeprefix("--").split("=", 1) for word in stage.words[1:] if "=" in word)
                assert int(given["trials"]) >= 12
                assert int(given.get("trial_epochs", 8)) >= 8
                assert int(given.get("epochs", 100)) >= 100  # so that early stopping ends the tuned run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": []}, r"mine\.yaml: there is no 'stage'. Did you mean stages\?"),
        ({"stages": []}, "stages is a list"),
        ({"stages": [{"tun": {}}]}, r"mine\.yaml, stage 1: there is no 'tun'. Did you mean "),
        ({"stages": ["run"]}, "stage 1: a stage is one verb with its keys"),
        ({"stages": [{"run": "Pop"}]}, "stage 1: expected `key: value`"),
        ({"budgets": {"small": {"runs": {}}}}, r"mine\.yaml, budgets, small: there is no 'runs'. Did you mean run"),
        ({"budgets": {"smal": {}}}, r"--budget=small: mine\.yaml has no such budget. Did you mean smal\?"),
    ],
)
def test_a_file_that_is_no_suite_says_what_is_wrong(workspace: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_suite(written(**changes), "small")


def test_an_unknown_suite_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no suite 'flagshp'. Did you mean flagship\?"):
        read_suite("flagshp")


# ---- running ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"run": {"model": "SRGNN", "learnin_rate": 1}}, "Did you mean learning_rate"),
        ({"run": {"model": "SRGN"}}, "Did you mean SRGNN"),
        ({"tune": {"model": "SINE"}}, "no search space for SINE"),
        ({"table": {"form": "markdown"}}, "table has no option 'form'. Did you mean format?"),
        ({"tune": {"model": "SRGNN", "pruner": "medain"}}, "--pruner=medain: use median"),
        ({"tune": {"model": "SRGNN", "trials": 0}}, "--trials=0: give 1 or more"),
        ({"tune": {"model": "SRGNN", "trial_minutes": -1}}, "--trial_minutes are positive"),
        ({"tune": {"model": "SRGNN", "engine": "recbole"}}, "tune needs --engine=fast"),
        ({"tune": {"model": ["SRGNN", "BPR"], "space": "mine.txt"}}, "--space is for one model"),
        ({"table": {"metrics": "foo"}}, "metric 'foo@10': known are hit"),
        ({"table": {"topk": 0}}, "--topk=0: give cut-offs"),
        ({"run": {"model": "SRGNN", "executor": "proceses"}}, "Did you mean processes"),
        ({"tune": {"model": "SRGNN", "workers": 0}}, "--workers=0: give 1 or more"),
        ({"tune": {"model": "SRGNN", "trials": "many"}}, "--trials=many: give a whole number"),
        ({"table": {"groups": "perhaps"}}, "--groups=perhaps: give true or false"),
        ({"tune": {"model": "SRGNN", "storage": "studies.txt"}}, "--storage=studies.txt: give an address"),
        ({"run": {"model": "Pop", "track": "mlflw"}}, "--track=mlflw: use "),
        ({"run": {"model": "EIMF", "llm": "openai"}}, "--llm=openai costs money"),
        (
            {"run": {"model": "EIMF", "llm": "vllm", "answers": "nowhere"}},
            "nowhere is no store of answers: it has no ind",
        ),
        ({"tune": {"model": "EIMF", "llm": "vllm", "answers": "ftp://host/x"}}, "ftp://host/x: a store is a folder"),
        (
            {"generate": {"model": "EIMF", "llm": "vllm", "answers": "hf:nobody"}},
            "hf:nobody: name a dataset of the hub",
        ),
        ({"generate": {"model": "EIMF", "limit": 0}}, "--limit=0: give 1 or more"),
        ({"generate": {"model": "EIMF", "batch": True, "dry_run": True}}, "generate does one thing"),
        ({"table": {"sort": "quality"}}, "--sort=quality: give kind, model"),
        ({"table": {"model": "Pop,SASRecc"}}, "--model=SASRecc: neither this suite nor its results folder has it"),
        (
            {"table": {"dataset": "tyni"}},
            "--dataset=tyni: neither this suite nor its results folder has it. There",
        ),
        ({"table": {"twin": "loo,gts"}}, "--twin=gts: neither this suite"),
        ({"report": {"baseline": "Popp"}}, "--baseline=Popp: neither this suite"),
        ({"report": {"correction": "bonferroni"}}, "--correction=bonferroni: known are"),
        ({"report": {"margin": -1}}, "--margin=-1: give a difference"),
    ],
)
def test_a_mistake_in_the_last_stage_costs_nothing(
    tiny: Path, capsys: pytest.CaptureFixture[str], stage: dict[str, Any], message: str
) -> None:
    assert main(["suite", written(stages=[{"run": {"model": "Pop"}}, stage])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("given", "kept", "shown"),
    [
        (["--protocol=gts"], [], ["--protocol=gts --baseline=Pop", "--model=Pop,MarkovChain"]),
        (["--model=Pop"], [], ["--protocol=loo", "--protocol=gts --baseline=Pop", "--model=Pop", "--twin=loo,gts"]),
        (["--model=MarkovChain"], [], ["--protocol=loo", "--model=MarkovChain", "--twin=loo,gts"]),
        (
            ["--model=MarkovChain", "--protocol=gts"],
            ["loo"],
            ["--protocol=loo", "--model=Pop,MarkovChain", "--twin=loo,gts"],
        ),
        (
            ["--model=Pop", "--protocol=gts"],
            ["loo"],
            ["--protocol=loo", "--protocol=gts --baseline=Pop", "--model=Pop", "--twin=loo,gts"],
        ),
    ],
)
def test_tables_of_rows_that_the_command_line_leaves_out_are_left_out(
    tiny: Path, capsys: pytest.CaptureFixture[str], given: list[str], kept: list[str], shown: list[str]
) -> None:
    """Regression: such a table stopped the command before anything ran, whichever rows were wanted."""
    for protocol in kept:
        ResultStore("results").put(run_of("Pop", 0.1, dataset="tiny", protocol=protocol))
    pop, both = {"protocol": "gts", "baseline": "Pop"}, {"model": ["Pop", "MarkovChain"]}
    tables = [{"protocol": "loo"}, pop, both, {"twin": ["loo", "gts"]}]
    stages = [{"run": {"model": ["Pop", "MarkovChain"], "protocol": ["loo", "gts"]}}, *({"table": t} for t in tables)]
    commands = []
    for words in (["--dry-run"], ["--quiet"]):
        assert main(["suite", written(stages=stages), *given, *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        commands.append([line.partition(" table ")[2] for line in lines if line.startswith("[") and " table " in line])
    assert commands == [[f"--dataset=tiny {words}" for words in shown]] * 2


@pytest.mark.parametrize(
    ("given", "kept", "shown"),
    [
        ([], None, ["EIMF (none)", "SASRec [train_targets=last]"]),
        (["--semantics=offline"], None, ["SASRec [train_targets=last]"]),
        (["--EIMF.semantics=offline"], None, ["SASRec [train_targets=last]"]),
        (["--semantics=offline"], "none", ["EIMF (none)", "SASRec [train_targets=last]"]),
        (["--semantics=offline"], "shuffled", ["SASRec [train_targets=last]"]),
        (["--SASRec.train_targets=all"], None, ["EIMF (none)"]),
    ],
)
def test_tables_whose_baseline_a_given_setting_leaves_out_are_left_out(
    tiny: Path, capsys: pytest.CaptureFixture[str], given: list[str], kept: str | None, shown: list[str]
) -> None:
    """Regression: such a table was an error after all rows had been trained."""
    if kept:
        ResultStore("results").put(run_of("EIMF", 0.1, dataset="tiny", semantics=kept))
    labels = ["EIMF (none)", "SASRec [train_targets=last]"]
    stages = [
        {"run": {"model": "EIMF", "semantics": ["offline", "none"]}},
        {"tune": {"model": "SASRec", "train_targets": "last", "trials": 1}},
        {"tune": {"model": "SASRec", "train_targets": "all", "trials": 1}},
        *({"table": {"baseline": label}} for label in labels),
    ]
    assert [
        str(result.stage.keys["baseline"])
        for result in api.suite(written(stages=stages), dry_run=True, **dict(w[2:].split("=") for w in given))
        if result.stage.verb == "table"
    ] == shown


def test_a_baseline_with_its_texts_and_language_model_is_left_out_with_them(tiny: Path) -> None:
    stages = [
        {"run": {"model": "DUIP", "semantics": ["offline", "shuffled"]}},
        {"run": {"model": "DUIP", "use_lm": False, "semantics": "offline"}},
        {"table": {"baseline": "DUIP (text, no language model)"}},
    ]
    for given, shown in (({}, 1), ({"semantics": "shuffled"}, 0), ({"use_lm": True}, 0), ({"llm": "offline"}, 1)):
        results = api.suite(written(stages=stages), dry_run=True, **given)
        assert sum(result.stage.verb == "table" for result in results) == shown


def test_a_baseline_that_a_suite_never_has_costs_nothing(tiny: Path) -> None:
    stages = [
        {"run": {"model": "EIMF", "semantics": "offline"}},
        {"tune": {"model": "SASRec", "train_targets": "last", "trials": 1}},
    ]
    for label in ("EIMF (none)", "SASRec [train_targets=all]"):
        with pytest.raises(UserError, match=f"has it with --dataset=tiny. The rows of {label.split()[0]} have other"):
            api.suite(written(stages=[*stages, {"table": {"baseline": label}}]), dry_run=True)
    for label in ("EIMF (offline)", "SASRec [hidden_size=1024]"):  # the search may find the latter
        api.suite(written(stages=[*stages, {"table": {"baseline": label}}]), dry_run=True)


def test_a_baseline_of_another_llm_than_the_rows_costs_nothing(tiny: Path) -> None:
    """Regression: the table of such a baseline was an error after all rows had been trained."""
    stages = [{"run": {"model": "EIMF", "llm": "vllm"}}]

    def tables(label: str, **given: Any) -> int:
        suite_file = written(stages=[*stages, {"table": {"baseline": label}}])
        return sum(each.stage.verb == "table" for each in api.suite(suite_file, dry_run=True, **given))

    own = "EIMF (Qwen/Qwen2.5-7B-Instruct)"
    assert [tables(label) for label in (own, "EIMF", f"{own}, 95 % answered")] == [1, 1, 1]
    assert tables(own, llm_model="qwen3") == tables(own, llm="offline") == 0
    assert tables("EIMF (qwen3)", llm_model="qwen3") == 1
    for label in ("EIMF (gpt-4o)", "EIMF (vllm)", "EIMF (gpt-4o, mixed)"):
        with pytest.raises(UserError, match=f"{re.escape(label)}: neither this suite .* The rows of EIMF have other"):
            tables(label)
    kept = run_of("EIMF", 0.1, dataset="tiny", semantics="llm")
    facts = SemanticFacts(llm="openai", llm_model="gpt-4o")
    ResultStore("results").put(kept.model_copy(update={"features": facts}))
    assert tables("EIMF (gpt-4o)") == 1


def test_a_row_that_the_command_line_itself_names_is_not_left_out(tiny: Path) -> None:
    stages = [{"run": {"model": ["Pop", "MarkovChain"]}}, {"table": {}}]
    for given in ({"model": "Pop", "baseline": "MarkovChain"}, {"protocol": "gts", "twin": "loo,gts"}):
        with pytest.raises(UserError, match="neither this suite nor its results folder has it with --dataset=tiny"):
            api.suite(written(stages=stages), **given)


def test_a_suite_with_settings_in_common_shows_its_tables(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ResultStore("results").put(run_of("GRU4Rec", 0.1, dataset="other"))
    common = {"dataset": "tiny", "llm": "offline", "epochs": 1, "metrics": ["Hit", "NDCG"]}
    stages = [
        {"run": {"model": "Pop"}},
        {"table": {"baseline": "Pop", "model": ["Pop"]}},
        {"table": {"dataset": "other", "model": "GRU4Rec"}},  # of an earlier command
    ]
    assert main(["suite", written(common=common, stages=stages), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "GRU4Rec" in out
    assert "Hit@10" in out


def test_a_command_is_shown_without_the_password_of_an_address(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"tune": {"model": "Pop", "storage": "postgresql://me:secret@host/x"}}]
    assert main(["suite", written(stages=stages), "--dry-run"]) == 0
    assert "--storage=postgresql://***@host/x" in capsys.readouterr().out


def test_a_stage_that_fails_keeps_no_other_from_running(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"run": {"model": "Pop", "device": "cuda:99"}}, {"run": {"model": "Pop"}}, {"table": {}}]
    assert main(["suite", written(stages=stages), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert "error: --device=cuda:99" in err
    assert [record.model for record in ResultStore("results")] == ["Pop"]
    assert out.count(" test cases") == 2  # in the tables of the second and third stage


@pytest.mark.parametrize(
    "keys",
    [
        {"model": "EIMF", "llm": "claude-2026-11", "answers": "dataset/ml-100k/answers"},
        {"model": "LLMDMsRec", "candidate_table": "dataset/ml-100k/answers/ml-100k.8c4c7d7a0301.candidates.gz"},
        {"model": "UniSRec", "vectors": "dataset/ml-100k/vectors/films.npy"},
        {"model": "EIMF", "llm": "claude-2026-11", "answers": "dataset/mine/answers"},
    ],
)
def test_files_that_only_the_repository_has_are_said_to_be_there(
    tiny: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, str]
) -> None:
    """Regression: who ran a suite of the installed package outside a clone read only that there is no such file."""
    assert main(["suite", written(stages=[{"run": keys}]), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "dataset/" in said
    assert ("It comes with the repository, not with the package" in said) == ("mine" not in str(keys))


@pytest.mark.parametrize("verbose", [False, True])
def test_a_model_that_cannot_run_is_recorded_and_keeps_no_other_stage_from_running(
    tiny: Path, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    """Five heads cannot divide 64 dimensions, so the model raises an error that is not one of ours."""
    stages = [{"run": {"model": "SASRec", "n_heads": 5}}, {"run": {"model": "Pop"}}, {"table": {}}]
    assert main(["suite", written(stages=stages), "--verbose" if verbose else "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"^error: ValueError: The hidden size \(64\) is not a multiple", err, flags=re.M)
    assert ("Traceback" in err) == verbose
    assert {record.model: record.status for record in ResultStore("results")} == {"SASRec": "failed", "Pop": "ok"}
    assert "SASRec, seed 2020 failed: ValueError: The hidden size (64)" in out


def test_a_model_without_a_file_of_its_own_keeps_no_other_row_or_stage_from_running(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own_reader.py").write_text(
        "from recbole.model.general_recommender import BPR\n\n\n"
        "class Reader(BPR):\n"
        "    def __init__(self, config, dataset):\n"
        "        super().__init__(config, dataset)\n"
        "        self.side = open('no_such.npy')\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    reader = "own_reader:Reader"
    stages = [{"run": {"model": reader}}, {"run": {"model": f"{reader},Pop"}}]
    assert main(["suite", written(stages=stages), "--quiet", "--embedding_size=8"]) == 2
    err = capsys.readouterr().err
    assert "error: FileNotFoundError: [Errno 2] No such file or directory: 'no_such.npy'" in err
    assert "Traceback" not in err
    assert {record.model: record.status for record in ResultStore("results")} == {reader: "failed", "Pop": "ok"}


def test_a_killed_suite_goes_on_where_it_was(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"tune": {"model": "GRU4Rec", "trials": 3, "seeds": 2, "epochs": 1}}, {"run": {"model": "BPR"}}]
    words = ["suite", written(stages=[*stages, SUITE["stages"][2]]), "--epochs=1", "--train_batch_size=128", "--quiet"]
    process = start_command(*words)
    records = Path("results/tiny/loo")
    wait_for(lambda: any(records.glob("*.json")), 240)  # the search and the first tuned run have finished
    process.kill()
    before = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert len(before) < 3
    assert not Path("results/table.md").exists()

    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = {(record.model, record.seed): record for record in ResultStore("results")}
    assert sorted((model, record.trials) for (model, _), record in found.items()) == [
        *[("BPR", None)],
        *[("GRU4Rec", 3)] * 2,
    ]
    storage = open_storage(storage_address(None, Path("results"))).backend
    assert [len(storage.get_all_trials(study._study_id)) for study in storage.get_all_studies()] == [3]
    assert "| GRU4Rec † | 3 trials |" in Path("results/table.md").read_text()

    assert main([*words, "--results_dir=whole"]) == 0
    whole = {(record.model, record.seed): record.metrics for record in ResultStore("whole")}
    assert whole == {key: record.metrics for key, record in found.items()}
    capsys.readouterr()
