"""The command line: messages, exit codes, output."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_llm
from recbole_llm.cli import VERBS, _report, main
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import methods, recbole_methods
from recbole_llm.utils.yaml import property_names
from tests.helpers import Cli

ROOT = Path(__file__).parents[1]
SHORT = ["--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=128"]


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run_benchmark.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---- a user's mistakes --------------------------------------------------------------------------

MISTAKES = {
    "verb": (["lst"], r"there is no verb 'lst'. Did you mean list\?"),
    "model": (["--model=LLMDMRec", "--dataset=tiny"], "--model=LLMDMRec: .*Did you mean LLMDMsRec"),
    "model, letter case": (["--model=srgnn", "--dataset=tiny"], r"Did you mean SRGNN\?"),
    "module": (["--model=no_such_module:Model", "--dataset=tiny"], "there is no module 'no_such_module'"),
    "class": (["--model=collections:OrderedDikt", "--dataset=tiny"], "Did you mean OrderedDict"),
    "dataset": (["--model=Pop", "--dataset=tinny"], r"--dataset=tinny: .*Did you mean tiny\?"),
    "protocol": (["--model=Pop", "--dataset=tiny", "--protocol=lo"], r"--protocol=lo: .*Did you mean loo\?"),
    "semantics": (
        ["--model=LLMDMsRec", "--dataset=tiny", "--semantics=nothing"],
        "--semantics=nothing: semantics is one of llm, ",
    ),
    "key": (["--model=SRGNN", "--dataset=tiny", "--learnin_rate=1"], r"'learnin_rate'.*Did you mean learning_rate"),
    "key of another model": (["--model=SRGNN", "--dataset=tiny", "--sigma=1"], "it belongs to .*LLMDMsRec"),
    "type": (["--model=SRGNN", "--dataset=tiny", "--epochs=many"], "--epochs=many: epochs takes a whole number"),
    "fraction": (["--model=SRGNN", "--dataset=tiny", "--epochs=1.5"], "epochs takes a whole number"),
    "choice": (["--model=SRGNN", "--dataset=tiny", "--engine=fats"], r"engine is one of .*Did you mean fast\?"),
    "seeds": (["--model=Pop", "--dataset=tiny", "--seeds=some"], "--seeds=some: give a number of seeds"),
    "broken list of seeds": (["--model=Pop", "--dataset=tiny", "--seeds=[1,2"], r"--seeds=\[1,2: give a number"),
    "no seeds": (["--model=Pop", "--dataset=tiny", "--seeds="], r"--seeds=\[\]: give at least one seed"),
    "negative seed": (["--model=Pop", "--dataset=tiny", "--seed=-1"], "--seed=-1: seed is at least 0"),
    "large seed": (
        ["--model=Pop", "--dataset=tiny", "--seed=4294967296"],
        "seed is at most 4294967295; got 4294967296",
    ),
    "large seeds": (["--model=Pop", "--dataset=tiny", "--seeds=[5000000000]"], "a seed is at most 4294967295"),
    "too many candidates": (["--model=Pop", "--dataset=tiny", "--candidates=1000"], "--candidates=1000: so many"),
    "negative candidates": (["--model=Pop", "--dataset=tiny", "--candidates=-5"], "candidates is at least 1; got -5"),
    "word of candidates": (
        ["--model=Pop", "--dataset=tiny", "--candidates=al"],
        "candidates takes a whole number or all",
    ),
    "split": (["--model=Pop", "--dataset=tiny", "--split=foo"], r"split is one of .*Did you mean loo\?"),
    "learning rate": (
        ["--model=SASRec", "--dataset=tiny", "--learning_rate=-1"],
        "learning_rate is at least 0; got -1",
    ),
    "heads": (["--model=SASRec", "--dataset=tiny", "--n_heads=3"], "ValueError: The hidden size .* is not a multiple"),
    "layers": (["--model=SASRec", "--dataset=tiny", "--n_layers=0"], "n_layers=0: SASRec has at least one layer"),
    "clipping": (
        ["--model=SASRec", "--dataset=tiny", "--clip_grad_norm={norm: 1}"],
        "no 'norm'. Did you mean .*max_norm",
    ),
    "twice": (["--model=Pop", "--dataset=tiny", "--epochs=1", "--epochs=2"], "--epochs is given twice"),
    "model twice": (["--model=Pop", "--dataset=tiny", "--model=BPR"], "--model is given twice with different values"),
    "no dashes": (["--model=Pop", "--dataset=tiny", "epochs=1"], "settings are written --key=value"),
    "no value": (["--model=Pop", "--dataset=tiny", "--epochs"], "settings are written --key=value"),
    "one hyphen": (["--model=Pop", "--dataset=tiny", "-epochs=1"], "-epochs=1: .* two hyphens: --epochs=1"),
    "no model": (["--dataset=tiny"], "give --model=NAME"),
    "nothing to prepare": (["prepare"], "Missing argument 'DATASET'"),
    "one column twice": (
        ["--model=Pop", "--dataset=tiny", "--USER_ID_FIELD=item_id"],
        r".*tiny\.inter: user, item and time need a column each; the settings are USER_ID_FIELD=item_id, ITEM_ID_FIELD",
    ),
    "misspelt dataset": (["--model=Pop", "--datset=tiny"], r"give --model=NAME .* --datset: Did you mean dataset\?"),
    "no dataset": (["--model=Pop"], "give --model=NAME and --dataset=NAME"),
    "settings file": (["--model=Pop", "--dataset=tiny", "--config_file=no.yaml"], "no.yaml: No such file"),
    "device": (["--model=Pop", "--dataset=tiny", "--device=cuda:99"], "--device=cuda:99: "),
    "list": (["list", "modles"], r"list=modles: use models, .*Did you mean models\?"),
    "option of a verb": (["list", "--epochs=1"], "No such option: --epochs"),
    "no results": (["table"], "results/ holds no results yet"),
    "format": (["table", "--format=pdf"], "pdf"),
    "paid source without a limit": (
        ["--model=LLMDMsRec", "--dataset=tiny", "--llm=openai"],
        "--llm=openai costs money .*--max_cost=",
    ),
    "source": (["--model=LLMDMsRec", "--dataset=tiny", "--llm=opnai"], r"--llm=opnai: .*Did you mean openai\?"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_a_line_or_two_with_code_2(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli(*words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not re.match(r"\d\d:\d\d:\d\d running ", line)]
    assert out == ""
    assert re.match(f"error: .*{message}", lines[0])
    assert len(lines) <= 2


@pytest.mark.parametrize("option", ["--trial-epochs=0", "--trial_epochs=0"])
def test_options_are_spelt_either_way(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert cli("tune", "--model=GRU4Rec", "--dataset=tiny", "--trials=1", option) == 2
    assert "--trial_epochs and --trial_minutes are positive" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["verb", "model", "dataset", "protocol", "key", "type", "no results"])
def test_a_mistake_ends_the_process_with_code_2_and_no_traceback(tiny: Path, name: str) -> None:
    words, message = MISTAKES[name]
    found = process(*words)
    assert found.returncode == 2
    assert found.stdout == ""
    assert re.match(f"error: .*{message}", found.stderr)
    assert "Traceback" not in found.stderr


def test_a_settings_file_with_a_key_given_twice_is_named(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("epochs: 3\ntopk: [10]\nepochs: 4\n")
    assert cli("--model=Pop", "--dataset=tiny", "--config_file=mine.yaml") == 2
    assert re.match(r"error: mine\.yaml .*'epochs' is given twice.* line 3", capsys.readouterr().err)


ALIASES = ["&a0 [l, l, l, l, l, l, l, l]"] + [f"&a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]


LONG = f"[&a '{'l' * 1_000}', [{', '.join(['*a'] * 10_000)}]]"


@pytest.mark.parametrize(
    "topk", [f"[{', '.join(ALIASES)}]", LONG, "&a [*a]"], ids=["many values", "a long text", "within itself"]
)
def test_a_settings_file_whose_aliases_have_no_end_is_refused(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], topk: str
) -> None:
    Path("mine.yaml").write_text(f"topk: {topk}\n")
    assert cli("--model=Pop", "--dataset=tiny", "--config_file=mine.yaml") == 2
    said = capsys.readouterr().err
    assert said == (
        "error: mine.yaml is not valid YAML: with its aliases written out it has more than 10,000,000 characters\n"
    )


def test_a_settings_file_that_is_no_yaml_is_named(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("epochs: [1\n")
    assert cli("--model=Pop", "--dataset=tiny", "--config_file=mine.yaml") == 2
    assert "mine.yaml is not valid YAML" in capsys.readouterr().err


def test_a_mistake_in_a_settings_file_names_file_and_key(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("epochs: many\n")
    assert cli("--model=Pop", "--dataset=tiny", "--config_file=mine.yaml") == 2
    assert "mine.yaml, epochs: epochs takes a whole number" in capsys.readouterr().err


def test_a_message_holds_nothing_that_a_terminal_obeys(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--model=BPR\x1b[31m\x1b]0;title\x07", "--dataset=tiny") == 2
    error = capsys.readouterr().err
    assert "BPR" in error
    assert not set(error) & set("\x1b\x07")


def test_a_disk_without_room_is_told_in_a_line(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--model=Pop", "--dataset=tiny", *SHORT) == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        assert cli("report") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written (File too large); finished work is kept" in capsys.readouterr().err
    assert [path.name for path in Path("results").glob("*.*")] == []


def test_a_file_that_may_not_be_read_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Root may read every file, so no command of this test could come upon one."""
    assert _report(PermissionError(errno.EACCES, "Permission denied", "dataset/tiny/tiny.inter"), False) == 2
    said = "error: dataset/tiny/tiny.inter: permission denied; it has to be readable and writable.\n"
    assert capsys.readouterr().err == said


def test_code_is_never_run_as_a_value(tiny: Path, cli: Cli) -> None:
    assert cli("--model=Pop", "--dataset=tiny", "--epochs=__import__('os').mkdir('made')") == 2
    assert not Path("made").exists()


# ---- help, version, lists -----------------------------------------------------------------------


def test_the_version_is_the_packages() -> None:
    found = process("--version")
    assert (found.returncode, found.stdout) == (0, recbole_llm.__version__ + "\n")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_shows_every_verb_with_code_0(cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli(*words) == 0
    out, err = capsys.readouterr()
    if len(words) == 2:
        assert f"recbole-llm {words[0]}" in out
        assert all(line.startswith(" ") for line in out.split("Options:")[1].splitlines() if line)
    else:
        assert all(re.search(rf"^  {verb} +[A-Z]", out, flags=re.M) for verb in VERBS)
    assert err == ""


def test_the_list_holds_models_datasets_and_protocols(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("list") == 0
    out = capsys.readouterr().out
    assert re.search(r"--preset=paper:\n.*DUIP.*GCEGNN", out)
    words = set(re.findall(r"[\w.-]+", out))
    assert {*methods(), *recbole_methods()} <= words
    assert {"tiny", *property_names("dataset")} <= words
    assert set(property_names("protocol")) <= words


@pytest.mark.parametrize(("what", "there", "absent"), [
    ("models", "LLMDMsRec", "leave"),
    ("datasets", "tiny", "LLMDMsRec"),
    ("protocols", "loo", "LLMDMsRec"),
])  # fmt: skip
def test_a_list_of_one_kind_holds_that_kind_alone(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], what: str, there: str, absent: str
) -> None:
    assert cli("list", what) == 0
    out = capsys.readouterr().out
    assert there in out
    assert absent not in out


def test_lists_do_not_load_torch() -> None:
    code = "import sys; from recbole_llm.cli import main; main(['list']); sys.exit('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert found.returncode == 0


def test_the_module_can_be_run(tiny: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "recbole_llm", "list", "datasets"]
    found = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
    assert "tiny" in found.stdout


@pytest.mark.parametrize("words", [["list"], ["list", "models"], ["--help"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(words: list[str]) -> None:
    """As in ``recbole-llm list | head -1``, but the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        found = subprocess.run(
            [sys.executable, str(ROOT / "run_benchmark.py"), *words],
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (found.returncode, found.stderr) == (0, "")


def test_the_doctor_answers_with_code_0_on_a_sound_machine(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line[:4] in ("ok  ", "note") for line in lines)
    assert any("RecBole loads" in line for line in lines)


def test_the_doctor_answers_with_code_1_where_something_is_missing(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    assert cli("doctor") == 1
    assert "FAIL Python" in capsys.readouterr().out


# ---- running ------------------------------------------------------------------------------------


def test_a_run_prints_its_table_and_where_the_records_are(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--model=Pop,GRU4Rec", "--dataset=tiny", *SHORT) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^Pop +2020 ", out, flags=re.M)
    assert re.search(r"^GRU4Rec † +2020 ", out, flags=re.M)
    assert "records: results/ (2 of this command)" in out
    assert "running GRU4Rec on tiny" in err
    assert "running" not in out


def test_run_is_the_default_verb(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("run", "--model=Pop", "--dataset=tiny", "--quiet") == 0
    first = capsys.readouterr().out
    assert cli("--model=Pop", "--dataset=tiny", "--quiet") == 0
    assert capsys.readouterr().out == first


def test_quiet_shows_the_table_alone(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--model=Pop", "--dataset=tiny", "--quiet") == 0
    out, err = capsys.readouterr()
    assert "records:" not in out
    assert err == ""


def test_the_same_command_again_runs_nothing(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("--model=Pop", "--dataset=tiny")
    first = capsys.readouterr().out
    assert cli("--model=Pop", "--dataset=tiny") == 0
    out, err = capsys.readouterr()
    assert out == first
    assert "1 of 1 results are present already" in err
    assert "running" not in err


def test_force_runs_again(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("--model=Pop", "--dataset=tiny")
    capsys.readouterr()
    assert cli("--model=Pop", "--dataset=tiny", "--force") == 0
    assert "running Pop" in capsys.readouterr().err


def test_a_failed_cell_gives_code_1_and_stands_in_the_table(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--model=Pop,GRU4Rec", "--dataset=tiny", "--GRU4Rec.learning_rate=1e30", *SHORT) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^GRU4Rec +failed", out, flags=re.M)
    assert re.search(r"^GRU4Rec, seed 2020 failed: training diverged", out, flags=re.M)
    assert "Traceback" not in err


def test_where_no_run_has_a_result_the_code_is_2_as_of_a_lone_one(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = ("--model=EIMF", "--dataset=tiny", "--llm=vllm", "--llm_base_url=http://127.0.0.1:9/v1", *SHORT)
    assert cli(*dead, "--seeds=2") == 2
    out, err = capsys.readouterr()
    assert "cannot be reached" in err
    assert "Qwen" not in out  # no row bears the name of an LLM that did not answer
    assert cli(*dead) == 2


def test_settings_files_come_before_the_command_line(tiny: Path, cli: Cli) -> None:
    Path("a.yaml").write_text("epochs: 9\nlearning_rate: 0.5\n")
    Path("b.yaml").write_text("learning_rate: 1e-2\n")
    assert cli("--model=Pop", "--dataset=tiny", "--config_file=a.yaml", "--config_file=b.yaml", "--epochs=1") == 0
    (record,) = ResultStore()
    assert (record.settings["epochs"], record.settings["learning_rate"]) == (1, 0.01)
    assert (record.origin["epochs"], record.origin["learning_rate"]) == ("command line", "b.yaml")


def test_settings_that_go_together_are_checked_together(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: settings were checked one by one, so the weight was refused even with ``n_sampled`` set."""
    words = ["--model=REMI", "--dataset=tiny", "--hard_negative_beta=1", "--quiet", *SHORT]
    assert cli(*words) == 2
    assert "give n_sampled too" in capsys.readouterr().err
    assert cli(*words, "--n_sampled=5") == 0


def test_several_seeds_make_one_row(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--model=GRU4Rec", "--dataset=tiny", "--seeds=[3,1]", "--quiet", *SHORT) == 0
    assert re.search(r"^GRU4Rec † +1,3 +\d\.\d+ ±", capsys.readouterr().out, flags=re.M)


def test_recbole_does_not_see_our_arguments(tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recbole-llm", "--model=Pop", "--dataset=tiny", "--quiet"])
    assert main() == 0
    assert sys.argv == ["recbole-llm"]


def test_a_long_user_list_is_not_taken_for_a_file_name(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--model=Pop", "--dataset=tiny", "--epochs=1", "--quiet") == 0
    capsys.readouterr()
    users = [f"u{number}" for number in range(80)] * 2
    words = ["--model=Pop", "--dataset=tiny", "--epochs=1", f"--users={','.join(users)}", "--topk=1", "--quiet"]
    assert cli("recommend", *words) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]] == users


@pytest.mark.parametrize(
    ("users", "code", "said"),
    [
        (b"u1\r\n\n u2 \n", 0, "u2\t1\ti"),
        (b"\xef\xbb\xbfu1\nu2\n", 0, "u2\t1\ti"),
        (b"u1\nu 2\n", 2, "--users: there is no user 'u 2'"),
        (b"u1\n\xff\xfe\n", 2, "--users=users.txt: the file is not UTF-8 text"),
    ],
)
def test_a_file_of_users_holds_one_a_line(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], users: bytes, code: int, said: str
) -> None:
    assert cli("--model=Pop", "--dataset=tiny", "--quiet") == 0
    capsys.readouterr()
    Path("users.txt").write_bytes(users)
    assert cli("recommend", "--model=Pop", "--dataset=tiny", "--users=users.txt", "--topk=1", "--quiet") == code
    there = capsys.readouterr()
    assert said in there.out + there.err
    assert bool(there.out) == (code == 0)


@pytest.mark.parametrize("user", [" u1", "u2 ", "u,3"])
def test_a_name_keeps_its_blanks_and_its_comma(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], user: str
) -> None:
    """The reader keeps both in ids. Regression: names were split and stripped, and then matched no user."""
    path = tiny / "tiny.inter"
    path.write_text(path.read_text().replace(f"{user.replace(',', '').strip()}\t", f"{user}\t"))
    Path("users.txt").write_text(f"{user}\n")
    assert cli("--model=Pop", "--dataset=tiny", "--quiet") == 0
    capsys.readouterr()
    for users in (user, "users.txt"):
        words = ["--model=Pop", "--dataset=tiny", f"--users={users}", "--topk=1", "--quiet"]
        assert cli("recommend", *words) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith(f"{user}\t1\ti")


@pytest.mark.parametrize("users", ["", " ", ","])
def test_recommending_to_nobody_is_a_mistake(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], users: str
) -> None:
    assert cli("--model=Pop", "--dataset=tiny", "--quiet") == 0
    assert cli("recommend", "--model=Pop", "--dataset=tiny", f"--users={users}", "--quiet") == 2
    assert "it names no user" in capsys.readouterr().err


def test_a_model_whose_weights_are_elsewhere_is_trained_again_and_an_unknown_one_is_not(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model=GRU4Rec", "--dataset=tiny", *SHORT]
    lists = ["recommend", *words, "--users=u1,u2", "--topk=3"]
    assert cli(*lists) == 2
    assert "run it first" in capsys.readouterr().err
    assert cli(*words) == 0
    capsys.readouterr()
    assert cli(*lists) == 0
    there = capsys.readouterr()
    assert "training again" not in there.err
    (weights,) = Path("saved").rglob("best.pt")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert cli(*lists) == 2
    assert "best.pt is not a readable checkpoint" in (err := capsys.readouterr().err)
    assert "Delete it; the same command then trains anew." in err
    weights.unlink()
    assert cli(*lists) == 0
    again = capsys.readouterr()
    assert "training again" in again.err
    assert again.out == there.out
