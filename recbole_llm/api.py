"""The Python API: one function for each verb of the command line, with the same names and the same rules.

The command line is made from these signatures. Names and settings are checked before anything heavy is loaded, and what
is heavy (torch, RecBole, Optuna) is imported where it is used, so that a mistake is answered at once.
"""

# Annotations are values here, not text: the command line reads them.

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from typing_extensions import Doc

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.experiments.grid import expand, parse_seeds
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.suite import FULL, RUNNING, Stage, read_suite
from recbole_llm.features.sources import AnswerSource, chosen_endpoint
from recbole_llm.listing import Catalogue, Listed, catalogue
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.yaml import properties_folder, read_yaml

if TYPE_CHECKING:
    from recbole_llm.experiments.advise import Advice
    from recbole_llm.experiments.doctor import Finding
    from recbole_llm.experiments.estimate import Estimate, Work
    from recbole_llm.experiments.probe_record import ProbeRecord
    from recbole_llm.experiments.recommend import Recommendation
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.raw.prepare import PrepareReport
    from recbole_llm.tuning.study import Study

Names = str | Sequence[str]

# Parameters that several verbs have.
Model = Annotated[Any, Doc("Model or models: names, package.module:Class, or classes.")]
Dataset = Annotated[Names, Doc("Dataset or datasets.")]
Protocol = Annotated[Names | None, Doc("Protocol or protocols; loo by default.")]
Semantics = Annotated[
    Names | None, Doc("Features as --llm made them, or controls: llm, offline, shuffled, random, none.")
]
Seeds = Annotated[Any, Doc("A number of seeds (5) or a list of them ([1,2,3]).")]
ConfigFiles = Annotated[Names, Doc("YAML file of settings; may be given several times, later ones win.")]
ResultsDir = Annotated[str | Path | None, Doc("Folder of records; results by default.")]
Quiet = Annotated[bool, Doc("Show no progress.")]
Workers = Annotated[int | None, Doc("Jobs that run at once.")]
ExecutorName = Annotated[str | None, Doc("Where jobs run: serial, processes or ray.")]
RayAddress = Annotated[str | None, Doc("A running Ray cluster: auto or host:port.")]
Gpus = Annotated[float | None, Doc("Share of a GPU for each job on Ray.")]
Track = Annotated[str | None, Doc("Send finished runs to wandb, mlflow, trackio or tensorboard.")]
Baseline = Annotated[str | None, Doc("Row that the others are measured against; the best baseline by default.")]
Correction = Annotated[str, Doc("Of the p values: holm, or fdr for the false discovery rate.")]
Margin = Annotated[float | None, Doc("Differences of the primary metric that are smaller count as none.")]
Output = Annotated[str | Path | None, Doc("File that is written.")]
DatasetDir = Annotated[str | Path, Doc("Folder of datasets.")]
DataPath = Annotated[str | None, Doc("Folder that holds the dataset's folder or its files.")]
Format = Literal["text", "terminal", "markdown", "latex", "csv", "html"]


def run(
    model: Model = "",
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    seeds: Seeds = None,
    semantics: Semantics = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    force: Annotated[bool, Doc("Run again what has a record.")] = False,
    quiet: Quiet = True,
    workers: Workers = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    gpus: Gpus = None,
    track: Track = None,
    **settings: Any,
) -> list[Record]:
    """Train and test every run of a grid that has no record yet.

    Returns:
        One record a run; a failed run has ``status == "failed"`` and says why.

    Raises:
        UserError: an unknown name or setting, before anything runs.
    """
    runs = _planned(model, dataset, protocol, seeds, semantics, config_file, results_dir, settings)
    _check_executor(executor, workers, ray_address, gpus)
    store = ResultStore(runs[0].settings["results_dir"])
    made = _tracking(track, store)
    _check_sources(_to_run(runs, store, force))
    from recbole_llm.execution.choice import open_executor
    from recbole_llm.experiments.launch import run_all
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.utils.progress import Bars

    with open_executor(executor, workers, ray_address, gpus) as chosen:
        return run_all(runs, Runner(store, Bars(not quiet), force), chosen, made)


@dataclass(frozen=True)
class Tuned:
    """What :func:`tune` found.

    Attributes:
        records: of the runs with the best settings, and of searches that failed.
        studies: the searches that did not fail.
        report: the page about them, where one was asked for.
    """

    records: list[Record]
    studies: "list[Study]"
    report: Path | None = None


def tune(
    model: Model = "",
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    trials: Annotated[int, Doc("Trials of each search, the defaults included.")] = 50,
    seeds: Seeds = None,
    semantics: Semantics = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    storage: Annotated[str | None, Doc("Where trials are kept: .sqlite3 or .log file, or an address.")] = None,
    space: Annotated[str | Path | None, Doc("Search space of a single model: a YAML or .hyper file.")] = None,
    trial_epochs: Annotated[int | None, Doc("Most epochs of a trial.")] = None,
    trial_minutes: Annotated[float | None, Doc("Most minutes of a trial's training and validation.")] = None,
    pruner: Annotated[str, Doc("median, hyperband, users or none.")] = "median",
    objectives: Annotated[Names, Doc("accuracy, or accuracy,seconds.")] = "accuracy",
    report: Annotated[str | Path | None, Doc("Page about the searches; its usual name if none is given.")] = None,
    quiet: Quiet = True,
    workers: Workers = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    gpus: Gpus = None,
    track: Track = None,
    **settings: Any,
) -> Tuned:
    """Search settings with one budget for every model, then run the best ones.

    A setting that is given is fixed and leaves the search space.

    Raises:
        UserError: an unknown name, setting or space, before anything runs; or no search has a result.
    """
    runs = _planned(model, dataset, protocol, None, semantics, config_file, results_dir, settings)
    _check_executor(executor, workers, ray_address, gpus)
    limits = {"trials": trials, "trial_epochs": trial_epochs, "trial_minutes": trial_minutes, "pruner": pruner}
    spaces, budget = _searched(runs, {**limits, "objectives": objectives, "space": space})
    made = _tracking(track, ResultStore(runs[0].settings["results_dir"]))
    _check_sources(runs)
    from recbole_llm.tuning.search import tune_all

    records, studies = tune_all(
        runs,
        spaces,
        budget,
        [parse_seeds(seeds, int(run.settings["seed"])) for run in runs],
        storage=storage,
        quiet=quiet,
        executor=(executor, workers, ray_address, gpus),
        made=made,
    )
    page = None
    if report is not None:
        from recbole_llm.tuning.report import write_search_report

        results = Path(runs[0].settings["results_dir"])
        page = write_search_report(studies, Path(report) if str(report) else results / "search.html")
    return Tuned(records, studies, page)


def estimate(
    model: Model = "",
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    seeds: Seeds = None,
    semantics: Semantics = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    force: Annotated[bool, Doc("Count what has a record too.")] = False,
    trials: Annotated[int | None, Doc("Trials of a search of each model; none: the runs alone.")] = None,
    space: Annotated[str | Path | None, Doc("Search space of a single model: a YAML or .hyper file.")] = None,
    trial_epochs: Annotated[int | None, Doc("Most epochs of a trial.")] = None,
    trial_minutes: Annotated[float | None, Doc("Most minutes of a trial's training and validation.")] = None,
    quiet: Quiet = True,
    **settings: Any,
) -> "Estimate":
    """Say what runs or a search will take: seconds, memory, disk, requests, dollars, from a few measured steps.

    Nothing is trained to its end, asked or kept.

    Raises:
        UserError: an unknown name, setting or space.
    """
    runs = _planned(model, dataset, protocol, None if trials else seeds, semantics, config_file, results_dir, settings)
    search = {"trials": trials, "space": space, "trial_epochs": trial_epochs, "trial_minutes": trial_minutes}
    from recbole_llm.experiments.estimate import estimate_work

    runner = _estimating(runs, force)
    return estimate_work(_work(runs, runner, seeds, search if trials else None), runner)


def estimate_suite(
    name: str, *, budget: str = FULL, dataset: str | None = None, results_dir: ResultsDir = None, **settings: Any
) -> "Estimate":
    """Say what the commands of a suite will take, as :func:`estimate` does; arguments are those of :func:`suite`.

    Raises:
        UserError: there is no such suite or budget, or a mistake in one of the commands.
    """
    planned = []
    for stage in _checked_stages(name, budget, {**settings, "dataset": dataset, "results_dir": results_dir}):
        if stage.verb in ("run", "tune"):
            seeds = stage.keys.get("seeds")
            search = {"trials": inspect.signature(tune).parameters["trials"].default, **stage.keys}
            runs = _stage_runs(stage, None if stage.verb == "tune" else seeds)
            planned.append((runs, seeds, search if stage.verb == "tune" else None))
    if not planned:
        raise UserError(f"{name}: the suite runs nothing that could be estimated.")
    from recbole_llm.experiments.estimate import estimate_work

    runner = _estimating(planned[0][0], False)
    return estimate_work([work for each, own, search in planned for work in _work(each, runner, own, search)], runner)


def _estimating(runs: list[Run], force: bool) -> "Runner":
    from recbole_llm.experiments.runner import Runner

    return Runner(ResultStore(runs[0].settings["results_dir"]), force=force, asks_again=False)


def _work(runs: list[Run], runner: "Runner", seeds: Any, search: dict[str, Any] | None) -> "list[Work]":
    """What a command trains: a grid, or with ``search`` the trials and the runs that follow."""
    from recbole_llm.experiments.estimate import work_of_grid, work_of_search

    if search is None:
        return work_of_grid(runs, runner)
    spaces, budget = _searched(runs, search)
    trials = [budget.trials if space else 1 for space in spaces]  # one without settings to search has one configuration
    tuned = [len(parse_seeds(seeds, int(run.settings["seed"]))) for run in runs]
    return work_of_search(runs, trials, tuned, budget.epochs, budget.seconds)


def generate(
    model: Model = "",
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    limit: Annotated[int | None, Doc("Keys of each feature that are asked about: a trial.")] = None,
    dry_run: Annotated[bool, Doc("Count requests, tokens and dollars; ask and write nothing.")] = False,
    batch: Annotated[bool, Doc("Submit to the Batch API, wait and take in.")] = False,
    poll: Annotated[float, Doc("Seconds between two looks at a batch.")] = 60.0,
    batch_file: Annotated[str | Path | None, Doc("Write the open requests for a Batch API.")] = None,
    export_to: Annotated[str | Path | None, Doc("Write the answers to a file (--export).")] = None,
    import_from: Annotated[str | Path | None, Doc("Take in answers from a file (--import).")] = None,
    quiet: Quiet = True,
    **settings: Any,
) -> str:
    """Make, price, export or import the semantic features of models, without training them.

    Returns:
        A table of what was made, or of what it would take, or a line on the file that was written or read.

    Raises:
        UserError: an unknown name or setting, a limit that was reached, or an endpoint that answers nothing.
    """
    _check_generate(limit, (dry_run, batch, batch_file, export_to, import_from))
    runs = _planned(model, dataset, protocol, None, None, config_file, results_dir, settings)
    from recbole_llm.experiments import candidate_tables as candidates
    from recbole_llm.experiments import generate as features
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.utils.progress import Bars

    runner = Runner(ResultStore(runs[0].settings["results_dir"]), Bars(not quiet))
    if import_from is not None:
        tables = candidates.tables_beside(runs, Path(import_from))
        report = features.take_in(runs, Path(import_from))
        brought = candidates.bring(tables, runs[0].location.home)
        return f"{import_from}: {report}{candidates.told_tables(brought)}"
    if export_to is not None:
        count = features.export(runs, Path(export_to))
        beside = candidates.export_tables(runs, runner, Path(export_to))
        return f"{export_to}: {count} answers" + "".join(f"; their candidates: {path}" for path in beside)
    if dry_run:
        return features.render_plan(features.plan(runs, runner, limit))
    if batch_file is not None:
        count = features.batch_file(runs, runner, Path(batch_file), limit)
        return f"{batch_file}: {count} requests; give their answers to generate --import=FILE"
    if batch:
        return features.render_made(features.run_batches(runs, runner, poll, limit))
    return features.render_made(features.make(runs, runner, AnswerSource.of(runs[0].settings, limit)))


def probe(
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    questions: Annotated[int, Doc("Questions of each probe at most.")] = 100,
    quiet: Quiet = True,
    **settings: Any,
) -> "list[ProbeRecord]":
    """Ask an LLM what it remembers of datasets: titles, users' next items, rows of the files.

    Returns:
        One record a dataset and protocol, which is kept in the results folder and read by :func:`table`.

    Raises:
        UserError: an unknown name or setting, no LLM, a limit that was reached, or an endpoint that answers nothing.
    """
    if questions < 2:
        raise UserError(f"--questions={questions}: give 2 or more; chance is told from the other questions.")
    from recbole_llm.experiments import probe as probes

    runs = _planned(probes.SETTINGS_OF, dataset, protocol, None, None, config_file, results_dir, settings)
    _check_sources(runs)
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.utils.progress import Bars

    runner = Runner(ResultStore(runs[0].settings["results_dir"]), Bars(not quiet))
    return [probes.probe(run, runner, questions) for run in runs]


def advise(
    model: Model = "",
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    shares: Annotated[Any, Doc("Growing shares of the answers, such as 0.05,0.2,1.")] = "0.05,0.15,0.4,1",
    margin: Annotated[float | None, Doc("Gains of the validation metric that are smaller count as none.")] = None,
    seeds: Annotated[Any, Doc("Trainings of each look: a number of seeds, or a list of them.")] = 3,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    quiet: Quiet = True,
    **settings: Any,
) -> "Advice":
    """Buy only as many answers as it takes to tell whether models gain by them on the validation cases.

    A command that was stopped goes on: answers and trainings are kept.

    Raises:
        UserError: an unknown name or setting, a model that asks no LLM, shares that do not grow, or an endpoint that
            answers nothing.
    """
    growing = _shares(shares)
    if margin is not None and not 0 < margin < float("inf"):
        raise UserError(f"--margin={margin}: give a difference of the metric above 0, such as 0.005.")
    runs = _planned(model, dataset, protocol, None, None, config_file, results_dir, settings)
    numbers = parse_seeds(seeds, int(runs[0].settings["seed"]))
    _check_sources(runs)
    from recbole_llm.experiments.advise import advise as advised
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.utils.progress import Bars

    runner = Runner(ResultStore(runs[0].settings["results_dir"]), Bars(not quiet))
    return advised(runs, runner, growing, numbers, margin)


def _shares(given: Any) -> list[float]:
    """Growing shares from a list or ``0.05,0.2,1``.

    Raises:
        UserError: they are none.
    """
    words = given if isinstance(given, (list, tuple)) else names_of(str(given))
    try:
        found = [float(word) for word in words]
    except (TypeError, ValueError):
        found = []
    if not found or found != sorted({*found}) or found[0] <= 0 or found[-1] > 1:
        raise UserError(f"--shares={given}: give growing shares of the answers, above 0 and at most 1: 0.05,0.2,1.")
    return found


def answers(
    action: Annotated[Literal["pull", "push", "verify"], Doc("pull, push or verify.")],
    model: Model = "",
    dataset: Dataset = "",
    *,
    store: Annotated[str, Doc("Store of answers: a folder; for pull and verify an address or hf:OWNER/NAME too.")] = "",
    licence: Annotated[str, Doc("Under which pushed answers may be used.")] = "none stated",
    protocol: Protocol = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    quiet: Quiet = True,
    **settings: Any,
) -> str:
    """Take published answers in (pull), publish those of a dataset (push), or check a store (verify).

    Returns:
        A line on what was taken, written or checked.

    Raises:
        UserError: an unknown name or setting, no store, or one that is not what its index says.
    """
    one_of("answers", action, ("pull", "push", "verify"))
    if not store:
        place = "FOLDER" if action == "push" else "FOLDER or an address"
        raise UserError(f"answers {action}: name the store with --store={place}.")
    from recbole_llm.experiments import answers as verbs

    if action == "verify":
        return verbs.verify(store)
    runs = _planned(model, dataset, protocol, None, None, config_file, results_dir, {**settings, "answers": store})
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.utils.progress import Bars

    runner = Runner(ResultStore(runs[0].settings["results_dir"]), Bars(not quiet))
    return verbs.push(runs, runner, Path(store), licence) if action == "push" else verbs.pull(runs, runner)


def recommend(
    model: Model = "",
    dataset: Dataset = "",
    users: Annotated[Names, Doc("Users: names, a file with one a line, or all.")] = "",
    *,
    topk: Annotated[int, Doc("Length of a list.")] = 10,
    history: Annotated[
        Literal["all", "test", "valid"],
        Doc("Where histories end: all, or test or valid target."),
    ] = "all",
    protocol: Protocol = None,
    semantics: Semantics = None,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    quiet: Quiet = True,
    **settings: Any,
) -> "list[Recommendation]":
    """The first items of chosen users, from a model that was run before.

    Raises:
        UserError: nobody has run these settings, or a user is unknown.
    """
    if topk < 1:
        raise UserError(f"--topk={topk}: give 1 or more.")
    runs = _planned(model, dataset, protocol, None, semantics, config_file, results_dir, settings)
    if len(runs) != 1:
        raise UserError("recommend takes one model and one dataset.")
    from recbole_llm.experiments.recommend import Recommender, users_of
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.utils.progress import Bars

    chosen = runs[0]
    runner = Runner(ResultStore(chosen.settings["results_dir"]), Bars(not quiet), asks_again=False)
    mask = bool(chosen.settings["mask_history"])
    recommender = Recommender.trained(chosen, runner, mask_history=mask, history=history)
    return [*recommender.recommend(users_of(users, recommender), topk)]


def prepare(
    dataset: Annotated[str, Doc("Name of a dataset; `list datasets` shows them.")],
    *,
    raw: Annotated[str | None, Doc("Folder of the raw files; dataset/NAME/raw by default.")] = None,
    kcore: Annotated[int | None, Doc("Fewest interactions of a user and of an item.")] = None,
    force: Annotated[bool, Doc("Make the files again.")] = False,
    dataset_dir: DatasetDir = "dataset",
) -> "PrepareReport":
    """Make atomic files of a dataset's raw files.

    Raises:
        UserError: an unknown dataset, or a raw file that is missing or damaged.
    """
    from recbole_llm.raw.prepare import prepare as prepared

    return prepared(dataset, raw, str(dataset_dir), force, kcore)


def table(
    *,
    model: Annotated[Names | None, Doc("Models whose rows are shown.")] = None,
    dataset: Annotated[Names | None, Doc("Datasets that are shown.")] = None,
    protocol: Annotated[Names | None, Doc("Protocols that are shown.")] = None,
    baseline: Baseline = None,
    metrics: Annotated[Names | None, Doc("Columns, such as ndcg@10 or ndcg.")] = None,
    topk: Annotated[Any, Doc("Cut-offs of the columns, such as 5,10, or all.")] = None,
    sort: Annotated[str | None, Doc("Order of the rows: a metric, model or kind.")] = None,
    correction: Correction = "holm",
    margin: Margin = None,
    groups: Annotated[bool, Doc("Show popular, rare and cold items, short and long histories apart.")] = False,
    twin: Annotated[Names | None, Doc("Two protocols to be shown beside each other, such as loo,gts.")] = None,
    check_reference: Annotated[bool, Doc("Hold baselines against published numbers.")] = False,
    format: Annotated[Format, Doc("text, terminal (text in colour), markdown, latex, csv or html.")] = "text",
    output: Output = None,
    results_dir: ResultsDir = None,
) -> str:
    """Tables of finished runs, as text and, with ``output``, in a file.

    Raises:
        UserError: no such results, an unknown metric, order, correction or baseline, or options that do not go
            together.
    """
    protocols = _twin_of(twin, protocol=protocol, baseline=baseline, margin=margin, check_reference=check_reference)
    columns, cut_offs = _columns(metrics, topk, groups and not protocols, check_reference, format)
    store, chosen = _chosen(results_dir, model=model, dataset=dataset, protocol=protocol)
    from recbole_llm.reporting.tables import render, render_check
    from recbole_llm.reporting.twin import render_twin

    if protocols:
        text = render_twin(chosen, protocols, format, columns, store, cut_offs, groups, correction, sort)
    elif check_reference:
        text = render_check(chosen, format, store)[0]
    else:
        text = render(chosen, format, columns, store, cut_offs, baseline, groups, correction, margin, sort)
    if output:
        with whole_file(Path(output), "w") as stream:
            stream.write(text + "\n")
    return text


def out_of_band(*, results_dir: ResultsDir = None, **chosen: Names | None) -> bool:
    """Whether a baseline among some records (``model``, ``dataset``, ``protocol``) is out of its published band."""
    store, records = _chosen(results_dir, **chosen)
    from recbole_llm.reporting.tables import render_check

    return render_check(records, "text", store)[1]


def report(
    *,
    model: Annotated[Names | None, Doc("Models that are shown.")] = None,
    dataset: Annotated[Names | None, Doc("Datasets that are shown.")] = None,
    protocol: Annotated[Names | None, Doc("Protocols that are shown.")] = None,
    baseline: Baseline = None,
    correction: Correction = "holm",
    margin: Margin = None,
    output: Output = None,
    results_dir: ResultsDir = None,
) -> Path:
    """Write one page with tables and charts of finished runs; it opens without a server.

    Returns:
        The page; ``report.html`` in the results folder by default.

    Raises:
        UserError: no such results, or an unknown baseline.
    """
    store, chosen = _chosen(results_dir, model=model, dataset=dataset, protocol=protocol)
    from recbole_llm.reporting.page import write_report

    path = Path(output or store.folder / "report.html")
    write_report(chosen, store, path, baseline, correction, margin)
    return path


def submit(
    folder: Annotated[str | Path, Doc("Results folder whose records are handed in.")],
    *,
    verify: Annotated[bool, Doc("Run the cheapest row again and compare.")] = False,
    dataset_dir: DatasetDir = "dataset",
    output: Output = None,
) -> str:
    """Check records and write them as one folder for review; with ``verify`` run one of them again.

    Returns:
        What was checked and where it lies.

    Raises:
        UserError: a record does not hold, or its row comes out otherwise.
    """
    from recbole_llm.experiments.submission import read_submission, write_submission
    from recbole_llm.utils.text import counted

    found = read_submission(Path(folder), Path(dataset_dir))
    lines = [f"{counted(len(found.entries), 'record')}: every metric follows from the ranks"]
    lines.append(f"settings give the key: {sum(entry.settings_checked for entry in found.entries)}")
    read = [entry.answers_checked for entry in found.entries if entry.answers_checked is not None]
    lines.append(f"answers have their hashes: {sum(map(bool, read))} of {len(read)} that read any")
    if found.failed:
        lines.append(f"left out: {counted(found.failed, 'run')} that failed")
    if verify:
        from recbole_llm.experiments.verify import verify as run_again

        lines.append(f"run again: {run_again(found, Path(dataset_dir))}")
    target = Path(output or Path("submissions") / found.name)
    write_submission(found, target)
    return "\n".join([*lines, f"submission: {target}/"])


def board(
    folder: Annotated[str | Path, Doc("Folder of submissions, or of results folders.")] = "submissions",
    *,
    dataset_dir: DatasetDir = "dataset",
    output: Annotated[str | Path, Doc("Folder of the site.")] = "board",
) -> str:
    """Write a leaderboard of submissions: static pages, one a dataset and protocol.

    Raises:
        UserError: there is no submission, or one of them does not hold.
    """
    from recbole_llm.reporting.board import write_board

    rows = write_board(Path(folder), Path(output), Path(dataset_dir))
    return f"{rows} rows: {Path(output) / 'index.html'}"


def doctor(
    *,
    leaks: Annotated[bool, Doc("Look for leaks in a dataset's semantic files.")] = False,
    dataset: Annotated[str | None, Doc("Say what of this dataset is missing, or look at it with --leaks.")] = None,
    data_path: DataPath = None,
    dataset_dir: DatasetDir = "dataset",
    results_dir: ResultsDir = None,
) -> "list[Finding]":
    """Check this machine, one dataset, or semantic files for leaks.

    Raises:
        UserError: no dataset to look at, nothing is known of it, or it has no semantic files.
    """
    if not leaks and dataset:
        from recbole_llm.experiments.dataset_report import examine_dataset

        return examine_dataset(dataset, data_path, str(dataset_dir))
    if not leaks:
        from recbole_llm.experiments.doctor import examine

        return examine(Path(dataset_dir), Path(results_dir or "results"))
    if not dataset:
        raise UserError("doctor --leaks looks at one dataset: give --dataset=NAME.")
    from recbole_llm.experiments.leak_report import examine_leaks

    return examine_leaks(dataset, data_path, str(dataset_dir))


@dataclass(frozen=True)
class StageResult:
    """One command of a suite.

    Attributes:
        stage: the command.
        place: its number among all of them, as 1/5.
        value: what its function gave; ``None`` before it ran and where it failed.
        error: why it failed.
    """

    stage: Stage
    place: str
    value: Any = None
    error: Exception | None = None


def suite(
    name: Annotated[str, Doc("A file of properties/suite/, or the path of a .yaml file.")],
    *,
    budget: Annotated[str, Doc("full, or a budget that the suite names.")] = FULL,
    dataset: Annotated[str | None, Doc("Dataset of every command.")] = None,
    results_dir: ResultsDir = None,
    dry_run: Annotated[bool, Doc("Show the commands alone.")] = False,
    quiet: Quiet = True,
    **settings: Any,
) -> Iterator[StageResult]:
    """Run the commands of a suite one after the other; one that fails does not keep the others from running.

    All of them are checked first, so that a mistake in the last one costs no hours.

    Yields:
        Each command twice: before it runs, without a value, and with its result. In a dry run once.

    Raises:
        UserError: there is no such suite or budget, or a mistake in one of the commands.
    """
    given = {**settings, "dataset": dataset, "results_dir": results_dir}
    return _staged(_checked_stages(name, budget, given, asks=not dry_run), dry_run, quiet)


def _staged(stages: Sequence[Stage], dry_run: bool, quiet: bool) -> Iterator[StageResult]:
    for number, stage in enumerate(stages, start=1):
        place = f"{number}/{len(stages)}"
        yield StageResult(stage, place)
        if dry_run:
            continue
        shown = {"quiet": quiet} if stage.verb in ("run", "tune", "generate") else {}
        try:
            yield StageResult(stage, place, _STAGES[stage.verb](**{**shown, **stage.keys}))
        except Exception as error:  # the caller says what it was; the other commands go on
            yield StageResult(stage, place, error=error)


def _checked_stages(name: str, budget: str, given: dict[str, Any], asks: bool = False) -> list[Stage]:
    """The commands of a suite, after all of them were checked; with ``asks`` the sources of their answers too."""
    options = {verb: inspect.signature(function).parameters for verb, function in _STAGES.items()}
    stages = read_suite(name, options, budget, {key: value for key, value in given.items() if value is not None})
    runs: list[Run] = []
    for stage in stages:
        if stage.verb in RUNNING:
            runs += _checked_runs(stage, asks)
        else:
            _check_shown(stage, runs)
    return stages


def _checked_runs(stage: Stage, asks: bool) -> list[Run]:
    """The runs of a command that is still to come.

    Raises:
        UserError: a mistake in an option, a name, a key or a value.
    """
    given = stage.keys
    if stage.verb == "generate":
        actions = [given.get(key) for key in ("dry_run", "batch", "batch_file", "export_to", "import_from")]
        _check_generate(given.get("limit"), actions)
        asks = asks and not any(actions[2:] + actions[:1])
    runs = _stage_runs(stage, given.get("seeds"))
    store = ResultStore(runs[0].settings["results_dir"])
    if stage.verb != "generate":
        _check_executor(given.get("executor"), given.get("workers"), given.get("ray_address"), given.get("gpus"))
        _tracking(given.get("track"), store)
    if stage.verb == "tune":
        from recbole_llm.tuning.storage import storage_address

        _searched(runs, dict(given))
        storage_address(given.get("storage"), store.folder)
    if asks:
        _check_sources(_to_run(runs, store, bool(given.get("force"))) if stage.verb == "run" else runs)
    return runs


def _check_shown(stage: Stage, runs: Sequence[Run]) -> None:
    """Check a command that shows what is in the results folder, or what some runs will have put there by then.

    Raises:
        UserError: a mistake in an option, a name or a value.
    """
    from recbole_llm.reporting.results_table import build

    given, parameters = stage.keys, inspect.signature(_STAGES[stage.verb]).parameters
    for key in given:
        if key not in parameters:
            raise UserError(f"{stage.verb} has no option {key!r}.{did_you_mean(key, parameters)}")
    twin = []
    if stage.verb == "table":
        others = {key: given.get(key) for key in ("protocol", "baseline", "margin", "check_reference")}
        twin = _twin_of(given.get("twin"), **others)
        groups, check_reference = bool(given.get("groups")) and not twin, bool(given.get("check_reference"))
        _columns(given.get("metrics"), given.get("topk"), groups, check_reference, given.get("format", "text"))
    build([], correction=given.get("correction", "holm"), margin=given.get("margin"), sort=given.get("sort"))
    wanted = {key: names_of(given.get(key)) for key in ("model", "dataset", "protocol")}
    if given.get("baseline"):
        wanted["baseline"] = [re.split(r" \(|, ", str(given["baseline"]))[0]]  # a label begins with its model
    _check_names({**wanted, "twin": twin}, runs, given.get("results_dir"))


def _check_names(wanted: dict[str, list[str]], runs: Sequence[Run], results_dir: str | Path | None) -> None:
    """Raise a ``UserError`` where neither some runs nor the records of a folder have a name that a table shows."""
    there: dict[str, set[str]] = {"model": set(), "dataset": set(), "protocol": set()}
    for run in runs:
        method, settings = run.settings.method, run.settings
        there["model"].add(method.target if method.is_external else method.name)
        there["model"].update([str(settings[method.stage_one])] if method.stage_one else [])
        there["dataset"].add(run.location.name)
        there["protocol"].add(str(settings["protocol"]))
    column = {"baseline": "model", "twin": "protocol"}
    if all({*names} <= there[column.get(option, option)] for option, names in wanted.items()):
        return
    for record in ResultStore(results_dir or "results"):
        for key, held in there.items():
            held.add(getattr(record, key))
    for option, names in wanted.items():
        known = sorted(there[column.get(option, option)])
        for name in names:
            if name not in known:
                raise UserError(
                    f"--{option}={name}: neither this suite nor its results folder has it."
                    f"{did_you_mean(name, known)} There are {', '.join(known) or 'none'}."
                )


def _stage_runs(stage: Stage, seeds: Any) -> list[Run]:
    """The runs of a command that runs something."""
    parameters = inspect.signature(_STAGES[stage.verb]).parameters
    own = ("model", "dataset", "protocol", "semantics", "config_file", "results_dir")
    defaults = {"model": "", "dataset": "", "config_file": ()}
    named = {key: stage.keys.get(key, defaults.get(key)) for key in own}
    others = {key: value for key, value in stage.keys.items() if key not in parameters}
    return _planned(**named, seeds=seeds, settings=others)


def _searched(runs: list[Run], given: dict[str, Any]) -> tuple[list[Any], Any]:
    """Spaces and budget of a search.

    Raises:
        UserError: a model that cannot be searched or has no space, or a budget that is none.
    """
    from recbole_llm.tuning.budget import Budget
    from recbole_llm.tuning.space import spaces_of

    names = ("trials", "trial_epochs", "trial_minutes", "pruner", "objectives")
    defaults = inspect.signature(tune).parameters
    budget = Budget.given(*(given.get(name, defaults[name].default) for name in names))
    return spaces_of(runs, given.get("space"), budget.epochs), budget


_STAGES: dict[str, Callable[..., Any]] = {
    "run": run, "tune": tune, "generate": generate, "table": table, "report": report,
}  # fmt: skip


def list_(
    what: Annotated[Listed | None, Doc("What is listed; everything but settings by default.")] = None,
    *,
    stats: Annotated[bool, Doc("Count users, items and interactions of the datasets.")] = False,
    model: Annotated[str | None, Doc("Model whose settings are listed.")] = None,
    data_path: DataPath = None,
    dataset_dir: DatasetDir = "dataset",
) -> Catalogue:
    """What there is: models, datasets, protocols, suites, settings.

    Raises:
        UserError: statistics or a model where there is no place for them, or an unknown model.
    """
    if what is not None:
        one_of("list", what, get_args(Listed))
    return catalogue(what, stats, model, data_path, Path(dataset_dir))


# ---- what several verbs do -------------------------------------------------------------------------


def _planned(
    model: Any,
    dataset: Any,
    protocol: Any,
    seeds: Any,
    semantics: Any,
    config_file: Names,
    results_dir: str | Path | None,
    settings: dict[str, Any],
) -> list[Run]:
    """The runs of a grid; every name and setting is checked."""
    files = [config_file] if isinstance(config_file, (str, Path)) else list(config_file)
    given = {**settings, **({"results_dir": str(results_dir)} if results_dir is not None else {})}
    if not model and given.get("lists"):
        model = "Lists"
    return expand(model, dataset, protocol, seeds, semantics, files, given)


def _to_run(runs: Sequence[Run], store: ResultStore, force: bool) -> list[Run]:
    """The runs that have no finished record."""
    return [run for run in runs if force or (done := store.find(run.key)) is None or done.status != "ok"]


def _check_generate(limit: int | None, actions: Sequence[Any]) -> None:
    """Raise a ``UserError`` where ``generate`` is to do two things, or nothing."""
    if sum(action not in (None, False) for action in actions) > 1:
        raise UserError("generate does one thing: --dry_run, --batch, --batch_file, --export or --import.")
    if limit is not None and limit < 1:
        raise UserError(f"--limit={limit}: give 1 or more.")


def _check_sources(runs: Sequence[Run]) -> None:
    """Refuse an endpoint that cannot be used, such as one that costs money without a limit, before anything loads."""
    for run in runs:
        if run.settings["semantics"] != "none":
            chosen_endpoint(run.settings)


def results_folder(given: dict[str, Any]) -> Path:
    """The folder of records of a command: its option, the last settings file that names one, or the default."""
    files = given.get("config_file") or ()
    layers = [read_yaml(Path(file)) for file in ([files] if isinstance(files, str) else files)]
    named = [layer["results_dir"] for layer in layers if layer.get("results_dir")]
    default = read_yaml(properties_folder() / "overall.yaml")["results_dir"]
    return Path(given.get("results_dir") or (named[-1] if named else default))


def _check_executor(executor: str | None, workers: int | None, ray_address: str | None, gpus: float | None) -> None:
    from recbole_llm.execution.choice import check_executor

    check_executor(executor, workers, ray_address, gpus)


def _tracking(name: str | None, store: ResultStore) -> Callable[[Record], None] | None:
    """What sends finished runs to a tracker.

    Raises:
        UserError: an unknown tracker, or its library is missing.
    """
    if name is None:
        return None
    from recbole_llm.experiments.tracking import open_tracking

    return open_tracking(name, store)


def one_of(option: str, value: str, known: Sequence[str]) -> None:
    """Raise a ``UserError`` where a word is none of those that an option takes."""
    if value not in known:
        raise UserError(f"{option}={value}: use {', '.join(known)}.{did_you_mean(value, known)}")


def names_of(text: Names | None) -> list[str]:
    """``"A, B"``, ``"[A,B]"`` or a sequence to its names."""
    if text is None:
        return []
    parts = text.strip().removeprefix("[").removesuffix("]").split(",") if isinstance(text, str) else map(str, text)
    return [part.strip() for part in parts if part.strip()]


def _columns(
    metrics: Names | None, topk: Any, groups: bool, check_reference: bool, style: str
) -> tuple[list[str] | None, list[int] | None]:
    """Names and cut-offs of a table's columns.

    Raises:
        UserError: an unknown metric, no cut-off, or subgroups where there is no place for them.
    """
    from recbole_llm.evaluation.names import metric_title, parse_metric

    one_of("--format", style, get_args(Format))
    names = names_of(metrics) or None
    for name in names or ():
        parse_metric(name if "@" in name or metric_title(name) == "GAUC" else f"{name}@10")
    if groups and (style == "csv" or check_reference):
        other = "--check_reference" if check_reference else "--format=csv"
        raise UserError(f"--groups: {other} shows no subgroups; leave one of them out.")
    if topk is None or topk == "all":
        return names, None if topk is None else []
    words = names_of(str(topk) if isinstance(topk, int) else topk)
    if not words or not all(word.isdigit() and int(word) > 0 for word in words):
        raise UserError(f"--topk={topk}: give cut-offs such as 5,10, or all.")
    return names, [int(word) for word in words]


def _twin_of(twin: Names | None, **others: Any) -> list[str]:
    """The protocols of a twin table; none where there is none.

    Raises:
        UserError: not two of them, or an option that a twin table has no place for.
    """
    if twin is None:
        return []
    names = list(dict.fromkeys(names_of(twin)))
    if len(names) != 2:
        raise UserError(f"--twin={twin}: give two protocols, such as loo,gts.")
    for option, value in others.items():
        if value:
            raise UserError(f"--twin shows rows under two protocols; leave --{option} out.")
    return names


def _chosen(results_dir: str | Path | None, **wanted: Names | None) -> tuple[ResultStore, list[Record]]:
    """The store and the records that the options name.

    Raises:
        UserError: there are none.
    """
    store = ResultStore(results_dir or "results")
    chosen = list(store)
    if not chosen:
        raise UserError(f"{store.folder}/ holds no results yet; run something first.")
    for key, value in wanted.items():
        names = names_of(value)
        there = sorted({getattr(record, key) for record in chosen})
        for name in names:
            if name not in there:
                hint = did_you_mean(name, there)
                raise UserError(
                    f"--{key}={name}: {store.folder}/ holds no such results.{hint} It has {', '.join(there)}."
                )
        chosen = [record for record in chosen if not names or getattr(record, key) in names]
    return store, chosen
