"""The settings that every run has: the harness's own, and those of RecBole's that it reads.

Defaults are in ``properties/`` (``overall.yaml``, ``protocol/``, ``dataset/``) and, below them, in RecBole's files. A
setting whose type allows null may have no default at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from recbole_llm.errors import UserError
from recbole_llm.settings.schema import Role, SettingsModel, setting
from recbole_llm.utils.bounds import Amount, Count, Share, Whole

Dropout = Share
LARGEST_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]

SPLITS = Literal["loo", "session", "user_split", "temporal", "gts", "parts", "published"]
SEMANTICS = Literal["llm", "offline", "shuffled", "random", "none"]


class CoreSettings(SettingsModel):
    """Settings of every run."""

    # torch.compile gained nothing on a CPU or a GPU; with CUDA graphs it was four times slower.
    retired: ClassVar[dict[str, Any]] = {"compile": "none"}

    # ---- what is run ---------------------------------------------------------------------------
    protocol: str = setting("Protocol: a file of properties/protocol/.")
    preset: str | None = setting("Named settings of a model: properties/preset/<Model>-<preset>.yaml.", Role.SHOWN)
    seed: Seed = setting("Random seed of a single run; --seeds runs several.")

    # ---- data ----------------------------------------------------------------------------------
    data_path: str = setting("Folder that holds the dataset's folder or its files.", Role.FOLDER)
    dataset_dir: str = setting("Folder of datasets and of what is derived from them.", Role.FOLDER)
    load_col: dict[str, Any] | None = setting("Columns that are read, by file suffix.")
    rm_dup_inter: Literal["first", "last", "keep"] | None = setting(
        "Repeats of a user and an item: first or last keeps one of them, null removes exact repeats (same user, item "
        "and time), keep keeps all.",
    )
    field_separator: str = setting("Character between columns, such as ','; the tab by default.")
    val_interval: dict[str, Any] | None = setting("Keep only interactions whose columns lie in these intervals.")
    user_inter_num_interval: str | None = setting("Keep only users with this number of interactions, such as [5,inf).")
    item_inter_num_interval: str | None = setting("Keep only items with this number of interactions, such as [5,inf).")
    threshold: dict[str, Any] | None = setting("RecBole's threshold that turns ratings into labels.")
    seq_len: dict[str, Any] | None = setting("Longest sequence kept, by column.")
    MAX_ITEM_LIST_LENGTH: Count = setting("Longest history that a model sees, in items.")
    filter_inter_by_user_or_item: bool = setting("Leave out interactions whose user or item has no row in its file.")
    train: str | None = setting("File of training interactions, if you bring your own split.", Role.FOLDER)
    valid: str | None = setting("File of validation interactions, if you bring your own split.", Role.FOLDER)
    test: str | None = setting("File of test interactions, if you bring your own split.", Role.FOLDER)
    benchmark_filename: list[Any] | None = setting(
        "Suffixes of your own split files in the dataset's folder: [train,valid,test] for NAME.train.inter etc."
    )
    about: Any = setting("What the dataset or protocol is, for lists and messages.", Role.SHOWN)
    raw: Any = setting("Where the dataset's raw files come from.", Role.SHOWN)
    text: dict[str, Any] | None = setting("Columns of .item that hold an item's texts, as templates.")

    # ---- protocol ------------------------------------------------------------------------------
    split: SPLITS = setting("How interactions are divided into training, validation and test.")
    sessions: dict[str, Any] | None = setting("How histories are cut into sessions; null for one session a user.")
    window_targets: Literal["all", "once", "last"] = setting(
        "Training targets if windows of a session overlap: all items of each, each interaction once, or last items.",
        before="all",
    )
    candidates: Count | Literal["all"] = setting("Negatives that a target is ranked among, or all items.")
    candidate_seed: int | None = setting("Seed that draws the candidates.")
    mask_history: bool = setting("Do not rank items that the user already has (a target is always ranked).")
    valid_from: float | str | None = setting(
        "Where validation begins (protocol gts): after a share of the interactions in the order of time, such as 0.8, "
        "or at a date, such as 2014-03-01."
    )
    test_from: float | str | None = setting("Where the test begins (protocol gts): a share or a date.")
    targets: Literal["last", "first", "random", "all"] | None = setting(
        "Which of a user's interactions after a cut are predicted (protocol gts); random: one, always the same."
    )
    user_order: Literal["hash", "file"] = setting("Order in which users are divided (protocol user_split).")
    min_history: Whole = setting("Shortest history of a training example (protocol user_split).")

    # ---- training ------------------------------------------------------------------------------
    engine: Literal["fast", "recbole"] = setting("Our loops and kernels, or RecBole's own.")
    epochs: Whole = setting("Maximum number of epochs; early stopping ends most runs earlier.")
    stopping_step: Whole = setting("Validations without a better score before training stops.")
    eval_step: int = setting("Epochs between two validations.")
    train_batch_size: Count = setting("Training examples in a batch.")
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"] = setting("Optimiser.")
    learning_rate: Amount = setting("Learning rate.")
    weight_decay: Amount = setting("Weight decay of the optimiser.")
    lr_decay_epochs: Whole = setting(
        "Epochs after which learning rates are multiplied by lr_decay, again and again; 0 for never.",
        Role.LOOP,
        before=0,
        plain=0,
    )
    lr_decay: Amount = setting("Factor of learning rates every lr_decay_epochs.", before=0.1)
    warmup_steps: Whole = setting(
        "Steps in which learning rates rise from zero; of each stage, where a model trains in several.",
        Role.LOOP,
        before=0,
        plain=0,
    )
    warmup_share: Share = setting(
        "Warm-up as a share of a training's (or stage's) maximum steps; the longer of warmup_steps and this counts.",
        Role.LOOP,
        before=0.0,
        plain=0.0,
    )
    min_epoch_steps: Whole = setting(
        "Minimum steps of an epoch: the batch size is halved until it has as many.", Role.LOOP, before=0, plain=0
    )
    clip_grad_norm: dict[str, Any] | None = setting("Arguments of clip_grad_norm_, such as {max_norm: 5}.")
    gradient_accumulation_steps: Count = setting(
        "Batches whose gradients are summed before a step.", Role.LOOP, plain=1
    )
    train_neg_sample_args: dict[str, Any] | None = setting("RecBole's negative sampling in training.")
    transform: str | None = setting("RecBole's transform of training batches.")
    precision: Literal["fp32", "bf16"] = setting(
        "Arithmetic of training: fp32, or bf16 autocast.", Role.LOOP, plain="fp32"
    )
    nproc: Count = setting("Processes that train one model together.", before=1)
    init: Literal["random", "vectors"] = setting(
        "Item embeddings start at random, or from principal components of the items' vectors (sequential models).",
        before="random",
    )
    refit: bool = setting(
        "Train the chosen settings for the chosen number of epochs on training and validation data, then test.",
        Role.LOOP,
        before=False,
        plain=False,
    )
    shuffle: bool = setting("Shuffle the training examples in each epoch.")
    reproducibility: bool = setting("Choose deterministic algorithms.")
    left_out: Any = setting("The fold of users that a candidate model does not see, and the number of folds.")
    train_stage: str | None = setting("Stage of a model that RecBole trains in several.")
    pre_model_path: str | None = setting("Weights that a later stage starts from.")

    # ---- evaluation ----------------------------------------------------------------------------
    metrics: list[Any] | None = setting(
        "Metrics of the ranks: Hit, NDCG, MRR, Recall, Precision, MAP, GAUC.", Role.SHOWN
    )
    list_metrics: list[Any] | None = setting("Metrics of whole top-k lists, such as ItemCoverage.", Role.SHOWN)
    topk: list[Any] = setting("Cut-offs of the metrics.", Role.SHOWN)
    valid_metric: str = setting("Metric that chooses the epoch, and the trial of a search.")
    valid_users: Whole = setting(
        "Number of users in validation, a fixed sample by hash; 0 for all.",
        Role.LOOP,
        before=0,
        plain=0,
    )
    eval_batch_size: Count = setting("Cases scored in one call of the model.", Role.MACHINE)
    score_block_mib: Count = setting("Memory for one block of scores, in MiB.", Role.MACHINE)
    metric_decimal_place: int = setting("Digits to which RecBole rounds before it compares.", Role.SHOWN)
    loss_decimal_place: int = setting("Digits of the loss in RecBole's log.", Role.SHOWN)
    eval_args: dict[str, Any] | None = setting("RecBole's evaluation settings; the protocol gives them.")

    # ---- machine and folders -------------------------------------------------------------------
    device: str = setting("auto, cpu, cuda or cuda:N.", Role.MACHINE)
    gpu_id: Any = setting("The GPU that --device=auto takes, by its number; none for the CPU.", Role.MACHINE)
    use_gpu: bool = setting("Whether --device=auto may take a GPU.", Role.MACHINE)
    cuda_graphs: bool = setting("Record training steps on a GPU and replay them.", Role.MACHINE)
    worker: Whole = setting("RecBole's data-loading processes.", Role.MACHINE)
    state: str = setting("RecBole's logging level.", Role.MACHINE)
    show_progress: bool = setting("RecBole's progress bars.", Role.MACHINE)
    tensorboard: bool = setting("Write TensorBoard curves to log_tensorboard/.", Role.MACHINE)
    log_wandb: bool = setting("RecBole's Weights & Biases log.", Role.MACHINE)
    wandb_project: str | None = setting("Project of the Weights & Biases log.", Role.MACHINE)
    results_dir: str = setting("Folder of records.", Role.FOLDER)
    checkpoint_dir: str = setting("Folder of trained weights.", Role.FOLDER)
    save_dataset: bool = setting("RecBole's pickled datasets.", Role.MACHINE)
    dataset_save_path: str | None = setting("Folder of RecBole's pickled datasets.", Role.MACHINE)
    save_dataloaders: bool = setting("RecBole's pickled data loaders.", Role.MACHINE)
    dataloaders_save_path: str | None = setting("Folder of RecBole's pickled data loaders.", Role.MACHINE)

    # ---- text features -------------------------------------------------------------------------
    llm: str = setting(
        "Source of answers: offline (a rule, no LLM), a name in properties/llm/, or the path of your own file.",
        Role.SEMANTIC,
    )
    llm_model: str | None = setting("Model of the endpoint, if not that of its file.", Role.SEMANTIC)
    llm_base_url: str | None = setting("Address of the endpoint, if not that of its file.", Role.MACHINE)
    llm_temperature: Amount | None = setting(
        "Temperature of sampling, if not that of the endpoint's file.", Role.SEMANTIC, before=None
    )
    llm_max_tokens: Count | None = setting(
        "Most tokens of an answer, including hidden reasoning, instead of the prompts' own limits.",
        Role.SEMANTIC,
        before=None,
    )
    llm_reasoning_effort: str | None = setting(
        "Effort of a reasoning model (low, high, ...), if not that of the endpoint's file.", Role.SEMANTIC, before=None
    )
    llm_knowledge_cut: str | None = setting(
        "Knowledge cut-off of the model (2024-06-30), if its file does not state it.", Role.SHOWN
    )
    llm_price_in: Amount | None = setting("US dollars for a million tokens of questions.", Role.MACHINE)
    llm_price_out: Amount | None = setting("US dollars for a million tokens of answers.", Role.MACHINE)
    llm_concurrency: Count | None = setting("Requests in flight at once.", Role.MACHINE)
    max_cost: Amount | None = setting("US dollars that one command may spend; paid endpoints require it.", Role.MACHINE)
    max_requests: Whole | None = setting("Requests that one command may send.", Role.MACHINE)
    answer_share: Annotated[float, Field(gt=0, le=1)] = setting(
        "Share of each feature's questions that are asked, for a fixed random sample of items, users, ...; larger "
        "shares include smaller ones. The other questions stay unanswered.",
        Role.SEMANTIC,
        before=1.0,
    )
    answers: str | None = setting(
        "Store of published answers, a folder or an address; its answers are taken before any question is asked.",
        Role.MACHINE,
    )
    semantics: SEMANTICS = setting("Features as --llm made them, or a control: shuffled, random, none.", Role.SEMANTIC)
    fill: Literal["none", "offline"] = setting(
        "What fills missing answers: nothing, or the offline rule (the row is then marked mixed).", Role.SEMANTIC
    )
    encoder: str = setting(
        "Sentence encoder: minilm (a wheel), or a sentence-transformers name or folder.", Role.SEMANTIC
    )
    encoder_max_length: Count = setting("Most word pieces of a text that are encoded.", Role.SEMANTIC)
    profiles: str | None = setting("File of item profiles written elsewhere (JSON lines).", Role.FOLDER)
    profiles_by: Literal["title", "item_id"] = setting(
        "How profiles are matched to items: by title, or by item_id.", Role.SEMANTIC
    )
    vectors: list[Any] | None = setting(
        "Vectors of items or users made elsewhere, used instead of the encoder's (.npy, .safetensors, .parquet).",
        Role.FOLDER,
    )
    titles: Literal["real", "pseudonym", "pseudonym_all"] = setting(
        "Titles that an LLM and the encoder read: real, or invented (pseudonym keeps the words of categories, "
        "pseudonym_all invents those too).",
        Role.SEMANTIC,
        before="real",
    )
    titles_seed: Seed = setting(
        "Seed of the invented titles; another seed gives other titles.", Role.SEMANTIC, before=2020
    )
    whitening: Literal["none", "zca"] = setting(
        "Whiten text vectors before they are read, by ZCA over all of them.", Role.SEMANTIC, before="none"
    )
    stage_one_seed: Seed = setting("Seed of a candidate model, apart from the run's own.", Role.SEMANTIC)


class RecBoleSettings(SettingsModel):
    """Bounds of settings that many of RecBole's models have; RecBole itself would fail later and less clearly."""

    embedding_size: Count = setting("Dimension of item and user vectors.")
    hidden_size: Count = setting("Dimension of the hidden layers.")
    inner_size: Count = setting("Dimension of a Transformer's feed-forward layers.")
    n_heads: Count = setting("Attention heads.")
    n_layers: Whole = setting("Layers; sequential models have at least one.")
    num_layers: Whole = setting("Layers; sequential models have at least one.")
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = setting("Activation of a Transformer's layers.")
    hidden_dropout_prob: Dropout = setting("Dropout of a Transformer's layers.")
    attn_dropout_prob: Dropout = setting("Dropout of attention weights.")
    dropout_prob: Dropout = setting("Dropout.")
    layer_norm_eps: Amount = setting("Epsilon of layer normalisation.")
    initializer_range: Amount = setting("Standard deviation of initial weights.")
    step: Whole = setting("Steps of a session graph's propagation.")
    loss_type: Literal["BPR", "CE", "BCE", "NLL", "SoftmaxLoss"] = setting("Training loss.")
    n_codes: Count = setting(
        "Number of text clusters that stand in for the items' texts (--selected_features=text_code)."
    )


# Options of a next-item loss, and the objectives that read them.
_DRAWING = ("sampled_softmax", "bce", "gbce")
_READ_BY = {
    "n_negatives": _DRAWING,
    "shared_negatives": _DRAWING,
    "negatives_by": _DRAWING,
    "log_q": ("sampled_softmax",),
    "calibration": ("gbce",),
}


class NextItemSettings(SettingsModel):
    """How a sequential model is trained to predict the next item: at which positions, by which loss.

    With the ``before`` value of every setting, training is RecBole's.
    """

    train_targets: Literal["last", "all"] = setting(
        "Examples: one for each prefix of a history (last, RecBole's) or the history with all its targets (all).",
        Role.LOOP,
        before="last",
        plain="last",
    )
    objective: Literal["softmax", "sampled_softmax", "bce", "gbce"] = setting(
        "Loss if loss_type is CE: softmax over all items, or a loss over the target and sampled negatives.",
        Role.LOOP,
        before="softmax",
        plain="softmax",
    )
    n_negatives: Count = setting("Negatives drawn for each target (objective other than softmax).", before=256)
    shared_negatives: bool = setting("Draw negatives once for a batch instead of once for each target.", before=True)
    negatives_by: Literal["uniform", "popularity"] = setting(
        "How negatives are drawn: uniformly, or in proportion to an item's training interactions.", before="uniform"
    )
    log_q: bool = setting(
        "Correct a sampled softmax by the logarithm of the chances, so that it estimates the softmax over all items.",
        before=False,
    )
    calibration: Share = setting("Calibration of gBCE: 0 is BCE, 1 gives calibrated scores.", before=0.75)

    def check(self, values: Mapping[str, Any]) -> None:
        """A pairwise loss takes its negatives from the loader and has one target per example.

        Raises:
            UserError: such a loss is combined with training at every position or with another objective.
        """
        if values.get("loss_type") in (None, "CE"):
            return
        for name, usual in (("train_targets", "last"), ("objective", "softmax")):
            if getattr(self, name) not in (None, usual):
                raise UserError(f"{name}={getattr(self, name)} goes with loss_type: CE, not {values['loss_type']}.")

    def not_followed(self, loss_type: str | None) -> dict[str, str]:
        """Options that the loss does not read, with the reason."""
        loss = self.objective or "softmax" if loss_type in (None, "CE") else f"loss_type: {loss_type}"
        return {
            name: f"is not read by {loss}, but by objective: {' or '.join(readers)}"
            for name, readers in _READ_BY.items()
            if loss not in readers
        }
