"""The Python API: one function for each verb of the command line, with the same names and the same rules.

The command line is built from these signatures. Heavy packages (torch, RecBole, Optuna) are imported where they are
used, after names and settings were checked, so that mistakes are reported at once.
"""

# No "from __future__ import annotations": the command line reads the annotations as objects, not as text.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from typing_extensions import Doc

from recbole_llm.errors import UserError, check_choice
from recbole_llm.evaluation.names import check_margin
from recbole_llm.execution.choice import check_executor, open_executor
from recbole_llm.experiments.grid import check_importable, check_sources, expand, parse_seeds, parse_shares, unfinished
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.suite import FULL
from recbole_llm.experiments.tracking import open_tracking
from recbole_llm.features.sources import AnswerSource
from recbole_llm.listing import Catalogue, Listed, catalogue
from recbole_llm.reporting.choice import Format, chosen_records, table_columns, twin_protocols
from recbole_llm.stages import StageResult, Verbs, check_generate, checked_stages, run_stages, trained_by
from recbole_llm.utils.caller import alone
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.options import checked
from recbole_llm.utils.progress import Bars
from recbole_llm.utils.text import counted

if TYPE_CHECKING:
    from recbole_llm.experiments.advise import Advice
    from recbole_llm.experiments.doctor import Finding
    from recbole_llm.experiments.estimate import Estimate
    from recbole_llm.experiments.probe_record import ProbeRecord
    from recbole_llm.experiments.recommend import Recommendation
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.raw.prepare import PrepareReport
    from recbole_llm.tuning.study import Study

Names = str | Sequence[str]

# Parameters that several verbs have.
Model = Annotated[str | type | Sequence[str | type], Doc("Model or models: names, package.module:Class, or classes.")]
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
Space = Annotated[str | Path | None, Doc("Search space of a single model: a YAML or .hyper file.")]
TrialEpochs = Annotated[int | None, Doc("Most epochs of a trial.")]
TrialMinutes = Annotated[float | None, Doc("Most minutes of a trial's training and validation.")]
PrunerName = Annotated[str, Doc("median, hyperband, users or none.")]
Objectives = Annotated[Names, Doc("accuracy, or accuracy,seconds.")]
Track = Annotated[str | None, Doc("Send finished runs to wandb, mlflow, trackio or tensorboard.")]
Baseline = Annotated[str | None, Doc("Row that the others are measured against; the best baseline by default.")]
Correction = Annotated[str, Doc("Of the p values: holm, or fdr for the false discovery rate.")]
Margin = Annotated[float | None, Doc("Differences of the primary metric that are smaller count as none.")]
Output = Annotated[str | Path | None, Doc("File that is written.")]
DatasetDir = Annotated[str | Path, Doc("Folder of datasets.")]
DataPath = Annotated[str | None, Doc("Folder that holds the dataset's folder or its files.")]


@checked
@alone()
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
        One record per run; a failed run has ``status == "failed"`` and the reason in ``error``.

    Raises:
        UserError: an unknown name or setting, before anything runs.
    """
    runs = expand(model, dataset, protocol, seeds, semantics, config_file, settings, results_dir)
    check_importable(runs, check_executor(executor, workers, ray_address, gpus))
    store = ResultStore(runs[0].settings["results_dir"])
    tracking = open_tracking(track, store)
    check_sources(unfinished(runs, store, force))
    from recbole_llm.experiments.launch import run_all

    with open_executor(executor, workers, ray_address, gpus) as chosen:
        return run_all(runs, _runner(runs, quiet, force=force), chosen, tracking)


@dataclass(frozen=True)
class Tuned:
    """What :func:`tune` found.

    Attributes:
        records: records of the runs with the best settings, and of failed searches.
        studies: the searches that did not fail.
        report: the page about the searches, if one was asked for.
    """

    records: list[Record]
    studies: "list[Study]"
    report: Path | None = None


@checked
@alone()
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
    space: Space = None,
    trial_epochs: TrialEpochs = None,
    trial_minutes: TrialMinutes = None,
    pruner: PrunerName = "median",
    objectives: Objectives = "accuracy",
    report: Annotated[str | Path | None, Doc("Page about the searches; its usual name if none is given.")] = None,
    quiet: Quiet = True,
    workers: Workers = None,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    gpus: Gpus = None,
    track: Track = None,
    **settings: Any,
) -> Tuned:
    """Search the settings of every model with the same budget, then run the best settings.

    A setting that is given is fixed and leaves the search space.

    Raises:
        UserError: an unknown name, setting or space, before anything runs; or no search has a result.
    """
    runs = expand(model, dataset, protocol, None, semantics, config_file, settings, results_dir)
    check_importable(runs, check_executor(executor, workers, ray_address, gpus))
    from recbole_llm.tuning.space import searched

    spaces, budget = searched(runs, trials, trial_epochs, trial_minutes, pruner, objectives, space)
    tracking = open_tracking(track, ResultStore(runs[0].settings["results_dir"]))
    check_sources(runs)
    from recbole_llm.tuning.search import tune_all

    records, studies = tune_all(
        runs,
        spaces,
        budget,
        [parse_seeds(seeds, int(run.settings["seed"])) for run in runs],
        storage=storage,
        quiet=quiet,
        executor=(executor, workers, ray_address, gpus),
        tracking=tracking,
    )
    page = None
    if report is not None:
        from recbole_llm.tuning.report import write_search_report

        results = Path(runs[0].settings["results_dir"])
        page = write_search_report(studies, Path(report) if str(report) else results / "search.html")
    return Tuned(records, studies, page)


@checked
@alone()
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
    space: Space = None,
    trial_epochs: TrialEpochs = None,
    trial_minutes: TrialMinutes = None,
    pruner: PrunerName = "median",
    objectives: Objectives = "accuracy",
    quiet: Quiet = True,
    **settings: Any,
) -> "Estimate":
    """Estimate what runs or a search will take from a few measured steps: seconds, memory, disk, requests, dollars.

    No training is completed, no LLM is asked, and nothing is kept.

    Raises:
        UserError: an unknown name, setting or space.
    """
    runs = expand(model, dataset, protocol, None if trials else seeds, semantics, config_file, settings, results_dir)
    limits = {"trial_epochs": trial_epochs, "trial_minutes": trial_minutes}
    search = {"trials": trials, "space": space, "pruner": pruner, "objectives": objectives, **limits}
    from recbole_llm.experiments.estimate import estimate_work
    from recbole_llm.tuning.work import work_of

    runner = _runner(runs, quiet, force=force, asks_again=False)
    return estimate_work(work_of(runs, runner, seeds, search if trials else None), runner)


@checked
@alone()
def estimate_suite(
    name: str,
    *,
    budget: str = FULL,
    model: Names | None = None,
    dataset: Names | None = None,
    results_dir: ResultsDir = None,
    **settings: Any,
) -> "Estimate":
    """Estimate what the commands of a suite will take, as :func:`estimate` does; arguments as for :func:`suite`.

    Raises:
        UserError: there is no such suite or budget, or a mistake in one of the commands.
    """
    given = {**settings, "model": model, "dataset": dataset, "results_dir": results_dir}
    commands = trained_by(checked_stages(name, _STAGES, budget, given, quiet=True), _STAGES)
    if not commands:
        raise UserError(f"{name}: the suite runs nothing that could be estimated.")
    from recbole_llm.experiments.estimate import estimate_work
    from recbole_llm.tuning.work import work_of

    runner = _runner(commands[0][0], asks_again=False)
    return estimate_work(
        [work for runs, seeds, search in commands for work in work_of(runs, runner, seeds, search)], runner
    )


@checked
@alone()
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
    poll: Annotated[float, Doc("Seconds between two checks of a batch.")] = 60.0,
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
    check_generate(limit, (dry_run, batch, batch_file, export_to, import_from))
    runs = expand(model, dataset, protocol, None, None, config_file, settings, results_dir)
    from recbole_llm.experiments import candidate_tables as candidates
    from recbole_llm.experiments import generate as features

    runner = _runner(runs, quiet)
    if import_from is not None:
        tables = candidates.tables_beside(runs, Path(import_from))
        report = features.take_in(runs, Path(import_from))
        brought = candidates.bring(tables, runs[0].location)
        return f"{import_from}: {report}{candidates.told_tables(brought)}"
    if export_to is not None:
        count = features.export(runs, Path(export_to))
        beside = candidates.export_tables(runs, runner, Path(export_to))
        return f"{export_to}: {counted(count, 'answer')}" + "".join(f"; their candidates: {path}" for path in beside)
    if dry_run:
        return features.render_plan(features.plan(runs, runner, limit))
    if batch_file is not None:
        count = features.batch_file(runs, runner, Path(batch_file), limit)
        return f"{batch_file}: {counted(count, 'request')}; give the answers to generate --import=FILE"
    if batch:
        return features.render_made(features.run_batches(runs, runner, poll, limit))
    return features.render_made(features.make(runs, runner, AnswerSource.of(runs[0].settings, limit)))


@checked
@alone()
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
        One record per dataset and protocol; it is kept in the results folder, where :func:`table` reads it.

    Raises:
        UserError: an unknown name or setting, no LLM, a limit that was reached, or an endpoint that answers nothing.
    """
    if questions < 2:
        raise UserError(f"--questions={questions}: give 2 or more; chance is told from the other questions.")
    from recbole_llm.experiments import probe as probes

    runs = expand(probes.SETTINGS_OF, dataset, protocol, None, None, config_file, settings, results_dir)
    check_sources(runs)
    runner = _runner(runs, quiet)
    return [probes.probe(run, runner, questions) for run in runs]


@checked
@alone()
def advise(
    model: Model = "",
    dataset: Dataset = "",
    *,
    protocol: Protocol = None,
    shares: Annotated[Any, Doc("Growing shares of the answers, such as 0.05,0.2,1.")] = "0.05,0.15,0.4,1",
    margin: Annotated[float | None, Doc("Gains of the validation metric that are smaller count as none.")] = None,
    seeds: Annotated[Any, Doc("Trainings of each step: a number of seeds, or a list of them.")] = 3,
    config_file: ConfigFiles = (),
    results_dir: ResultsDir = None,
    quiet: Quiet = True,
    **settings: Any,
) -> "Advice":
    """Buy only as many answers as it takes to tell whether they improve models on the validation cases.

    A stopped command can be resumed: answers and trainings are kept.

    Raises:
        UserError: an unknown name or setting, a model that asks no LLM, shares that do not grow, or an endpoint that
            answers nothing.
    """
    growing = parse_shares(shares)
    check_margin(margin)
    runs = expand(model, dataset, protocol, None, None, config_file, settings, results_dir)
    numbers = parse_seeds(seeds, int(runs[0].settings["seed"]))
    check_sources(runs)
    from recbole_llm.experiments.advise import advise as advised

    return advised(runs, _runner(runs, quiet), growing, numbers, margin)


@checked
@alone()
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
    """Import published answers (pull), publish an LLM's answers to a method's prompts (push), check a store (verify).

    ``push`` writes all of the LLM's answers to these prompts about the dataset, whichever settings asked for them.

    Returns:
        A line on what was taken, written or checked.

    Raises:
        UserError: an unknown name or setting, no store, or a store that does not match its index.
    """
    check_choice("answers", action, ("pull", "push", "verify"))
    if not store:
        place = "FOLDER" if action == "push" else "FOLDER or an address"
        raise UserError(f"answers {action}: name the store with --store={place}.")
    from recbole_llm.experiments import answers as verbs

    if action == "verify":
        return verbs.verify(store)
    runs = expand(model, dataset, protocol, None, None, config_file, {**settings, "answers": store}, results_dir)
    runner = _runner(runs, quiet)
    return verbs.push(runs, runner, Path(store), licence) if action == "push" else verbs.pull(runs, runner)


@checked
@alone()
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
    """The top items for chosen users, from a model that an earlier run trained.

    Raises:
        UserError: these settings have no run, or a user is unknown.
    """
    if topk < 1:
        raise UserError(f"--topk={topk}: give 1 or more.")
    runs = expand(model, dataset, protocol, None, semantics, config_file, settings, results_dir)
    if len(runs) != 1:
        raise UserError("recommend takes one model and one dataset.")
    from recbole_llm.experiments.recommend import Recommender, users_of

    mask = bool(runs[0].settings["mask_history"])
    runner = _runner(runs, quiet, asks_again=False)
    recommender = Recommender.trained(runs[0], runner, mask_history=mask, history=history)
    return [*recommender.recommend(users_of(users, recommender), topk)]


@checked
def prepare(
    dataset: Annotated[str, Doc("Name of a dataset; `list datasets` shows them.")],
    *,
    raw: Annotated[str | None, Doc("Folder of the raw files; dataset/NAME/raw by default.")] = None,
    kcore: Annotated[int | None, Doc("Fewest interactions of a user and of an item.")] = None,
    force: Annotated[bool, Doc("Make the files again.")] = False,
    dataset_dir: DatasetDir = "dataset",
) -> "PrepareReport":
    """Make RecBole's atomic files from a dataset's raw files.

    Raises:
        UserError: an unknown dataset, or a raw file that is missing or damaged.
    """
    from recbole_llm.raw.prepare import prepare as prepared

    return prepared(dataset, raw, str(dataset_dir), force, kcore)


@checked
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
    """Tables of finished runs as text; with ``output`` they are also written to a file.

    Raises:
        UserError: no such results, an unknown metric, order, correction or baseline, or options that do not go
            together.
    """
    protocols = twin_protocols(
        twin, protocol=protocol, baseline=baseline, margin=margin, check_reference=check_reference
    )
    columns, cut_offs = table_columns(metrics, topk, groups and not protocols, check_reference, format)
    store, chosen = chosen_records(results_dir, model=model, dataset=dataset, protocol=protocol)
    from recbole_llm.reporting.tables import render, render_check
    from recbole_llm.reporting.twin import render_twin

    if protocols:
        text = render_twin(
            chosen,
            protocols,
            format,
            metrics=columns,
            store=store,
            topk=cut_offs,
            groups=groups,
            correction=correction,
            sort=sort,
        )
    elif check_reference:
        text = render_check(chosen, format, store)[0]
    else:
        text = render(
            chosen,
            format,
            columns,
            store,
            topk=cut_offs,
            baseline=baseline,
            groups=groups,
            correction=correction,
            margin=margin,
            sort=sort,
        )
    if output:
        with whole_file(Path(output), "w") as stream:
            stream.write(text + "\n")
    return text


@checked
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
    store, chosen = chosen_records(results_dir, model=model, dataset=dataset, protocol=protocol)
    from recbole_llm.reporting.page import write_report

    path = Path(output or store.folder / "report.html")
    write_report(chosen, store, path, baseline, correction, margin)
    return path


@checked
@alone()
def submit(
    folder: Annotated[str | Path, Doc("Results folder whose records are handed in.")],
    *,
    verify: Annotated[bool, Doc("Run the cheapest row again and compare.")] = False,
    dataset_dir: DatasetDir = "dataset",
    output: Output = None,
) -> str:
    """Check records and write them as one folder for review; with ``verify`` run one of them again.

    Returns:
        What was checked, and where the submission is.

    Raises:
        UserError: a record fails its checks, or running a row again gives other results.
    """
    from recbole_llm.experiments.submission import read_submission, render_submission, write_submission

    found = read_submission(Path(folder), Path(dataset_dir))
    lines = [render_submission(found)]
    if verify:
        from recbole_llm.experiments.verify import verify as run_again

        lines.append(f"run again: {run_again(found, Path(dataset_dir))}")
    target = Path(output or Path("submissions") / found.name)
    write_submission(found, target)
    return "\n".join([*lines, f"submission: {target}/"])


@checked
def board(
    folder: Annotated[str | Path, Doc("Folder of submissions, or of results folders.")] = "submissions",
    *,
    dataset_dir: DatasetDir = "dataset",
    output: Annotated[str | Path, Doc("Folder of the site.")] = "board",
) -> str:
    """Write a leaderboard of submissions: static pages, one per dataset and protocol.

    Raises:
        UserError: there is no submission, or one of them fails its checks.
    """
    from recbole_llm.reporting.board import write_board

    rows = write_board(Path(folder), Path(output), Path(dataset_dir))
    return f"{counted(rows, 'row')}: {Path(output) / 'index.html'}"


@checked
def doctor(
    *,
    leaks: Annotated[bool, Doc("Look for leaks in a dataset's semantic files.")] = False,
    dataset: Annotated[str | None, Doc("Say what of this dataset is missing, or look at it with --leaks.")] = None,
    data_path: DataPath = None,
    dataset_dir: DatasetDir = "dataset",
    results_dir: ResultsDir = None,
    **settings: Any,
) -> "list[Finding]":
    """Check this machine, one dataset, or semantic files for leaks.

    With ``leaks``, settings state how interactions were read and split, for folders whose manifest does not.

    Raises:
        UserError: ``leaks`` without a dataset, an unknown dataset or one without semantic files, or settings that are
            not used here.
    """
    if settings and not leaks:
        raise UserError(f"--{next(iter(settings))}: doctor takes settings with --leaks alone.")
    if not leaks and dataset:
        from recbole_llm.experiments.dataset_report import examine_dataset

        return examine_dataset(dataset, data_path, str(dataset_dir))
    if not leaks:
        from recbole_llm.experiments.doctor import examine

        return examine(Path(dataset_dir), Path(results_dir or "results"))
    if not dataset:
        raise UserError("doctor --leaks looks at one dataset: give --dataset=NAME.")
    from recbole_llm.experiments.leak_report import examine_leaks

    return examine_leaks(dataset, data_path, str(dataset_dir), settings)


@checked
def suite(
    name: Annotated[str, Doc("A file of properties/suite/, or the path of a .yaml file.")],
    *,
    budget: Annotated[str, Doc("full, or a budget that the suite names.")] = FULL,
    model: Annotated[Names | None, Doc("Models of the suite, as A,B, whose rows are run; all by default.")] = None,
    dataset: Annotated[Names | None, Doc("Dataset of every command.")] = None,
    results_dir: ResultsDir = None,
    dry_run: Annotated[bool, Doc("Show the commands alone.")] = False,
    quiet: Quiet = True,
    **settings: Any,
) -> Iterator[StageResult]:
    """Run the commands of a suite in order; if one of them fails, the others still run.

    All commands are checked first, so that a mistake in the last one is found before hours of work. Tables of rows
    that the given models, protocols and settings leave out, and that the results folder does not have, are left out.

    Yields:
        Each command twice: without a value before it runs, and then with its result. In a dry run only the former.

    Raises:
        UserError: there is no such suite or budget, or a mistake in one of the commands.
    """
    given = {**settings, "model": model, "dataset": dataset, "results_dir": results_dir}
    stages = checked_stages(name, _STAGES, budget, given, asks=not dry_run)
    return run_stages(stages, _STAGES, dry_run, quiet)


_STAGES: Verbs = {"run": run, "tune": tune, "generate": generate, "table": table, "report": report}


@checked
def list_(
    what: Annotated[Listed | None, Doc("What is listed; everything but settings by default.")] = None,
    *,
    stats: Annotated[bool, Doc("Count users, items and interactions of the datasets.")] = False,
    model: Annotated[str | None, Doc("Model whose settings are listed.")] = None,
    data_path: DataPath = None,
    dataset_dir: DatasetDir = "dataset",
) -> Catalogue:
    """List the models, datasets, protocols, suites and settings that there are.

    Raises:
        UserError: ``stats`` or ``model`` with a list that does not take it, an unknown list, or an unknown model.
    """
    if what is not None:
        check_choice("list", what, get_args(Listed))
    return catalogue(what, stats, model, data_path, Path(dataset_dir))


def _runner(runs: Sequence[Run], quiet: bool = True, **options: bool) -> "Runner":
    """The runner of a command's runs, with the command's results folder."""
    from recbole_llm.experiments.runner import Runner

    return Runner(ResultStore(runs[0].settings["results_dir"]), Bars(not quiet), **options)
