"""Which training loader a model gets."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.dataloader import TrainDataLoader, UserDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.utils import create_samplers, get_dataloader
from recbole.sampler import KGSampler
from recbole.utils import ModelType

from recbole_llm.data.loaders import SequenceLoader, TrainLoader, UserLoader
from recbole_llm.errors import UserError


def training_loader(prepared: Any) -> tuple[Any, str]:
    """The training loader of a prepared model, and a note if it is not what the settings alone say.

    Batches of our loaders are halved until an epoch has ``min_epoch_steps`` steps.

    Raises:
        UserError: RecBole's own loader would make fewer steps, or the settings do not fit the model.
    """
    loader, note = _chosen_loader(prepared)
    wanted, given = int(prepared.config["min_epoch_steps"] or 0), getattr(loader, "step", 0)
    if isinstance(loader, AbstractDataLoader) and len(loader) < wanted:
        raise UserError(
            f"min_epoch_steps={wanted}: an epoch of {prepared.config['model']} has {len(loader)} steps, and the "
            "batches of RecBole's own loader cannot be halved. Give a smaller --train_batch_size."
        )
    while given and len(loader) < wanted and loader.step > 1:
        loader.step = -(-loader.step // 2)
    if given and loader.step < given:
        note = f"batches of {loader.step} for {given}, so that an epoch has {wanted} steps"
    return loader, note


def _chosen_loader(prepared: Any) -> tuple[Any, str]:
    """The loader, and a note if it is RecBole's own.

    A model that learns from its own kind of batches provides their loader (``train_loader``). Our loaders serve every
    model that RecBole feeds with ``TrainDataLoader`` or ``UserDataLoader``. Knowledge graphs, special datasets (DIEN)
    and dynamic negative sampling keep RecBole's loaders.
    """
    config, dataset = prepared.config, prepared.dataset
    label = getattr(prepared.model, "LABEL", None) or getattr(prepared.model, "LABEL_FIELD", None)
    if label and label not in dataset.field2type and config["train_neg_sample_args"]["distribution"] == "none":
        raise UserError(
            f"train_neg_sample_args: {type(prepared.model).__name__} learns to tell what a user has from what the user "
            "has not, and there are no labels: give it, such as {distribution: uniform, sample_num: 1}."
        )
    own = getattr(prepared.model, "train_loader", None)
    if own is not None:
        return own(prepared.device_table(), prepared.train_part, config), ""
    if config["train_targets"] == "all":
        if not getattr(prepared.model, "every_position", False):
            name = type(prepared.model).__name__
            raise UserError(f"train_targets: all: {name} learns from one position of a history at a time.")
        return SequenceLoader(prepared.device_table(), prepared.train_part, config), ""
    wanted = get_dataloader(config, "train")
    plain = type(dataset).__mro__[2] in (Dataset, SequentialDataset)
    if config["engine"] == "fast" and plain and not config["train_neg_sample_args"].get("dynamic"):
        table = prepared.device_table()
        if wanted is UserDataLoader:
            return UserLoader(table, prepared.train_part, config), ""
        if wanted is TrainDataLoader:
            return TrainLoader(table, prepared.train_part, config, prepared.sequential), ""
    loader = recbole_loaders(config, dataset)[0]
    if config["train_neg_sample_args"].get("dynamic") and hasattr(loader, "get_model"):
        loader.get_model(prepared.model)  # to pick hard negatives; RecBole's loop does so too (trainer/trainer.py:432)
    return loader, "" if config["engine"] == "recbole" else "RecBole's own training loader"


def loader_state(loader: Any) -> dict[str, Any]:
    """Random states of a training loader, ours or RecBole's, for a checkpoint that resumes exactly."""
    if hasattr(loader, "state_dict"):
        return dict(loader.state_dict())
    return {name: generator.get_state() for name, generator in _generators(loader).items()}


def restore_loader(loader: Any, state: dict[str, Any]) -> None:
    """Restore :func:`loader_state`; it was read to the model's device, but generators take their state on the CPU."""
    state = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    if hasattr(loader, "load_state_dict"):
        loader.load_state_dict(state)
        return
    for name, generator in _generators(loader).items():
        generator.set_state(state[name])


def _generators(loader: Any) -> dict[str, torch.Generator]:
    """The shuffling generators of a RecBole loader (a knowledge graph's holds two); negatives are drawn by numpy."""
    parts = {"": loader, **getattr(loader, "__dict__", {})}
    return {name: part.generator for name, part in parts.items() if isinstance(part, AbstractDataLoader)}


def recbole_loaders(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """RecBole's training, validation and test loaders over our split (data/utils.py:140)."""
    parts = dataset.build()
    samplers = create_samplers(config, dataset, parts)
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        arguments = config["train_neg_sample_args"]
        kg_sampler = KGSampler(dataset, arguments["distribution"], arguments["alpha"])
        train = get_dataloader(config, "train")(config, parts[0], samplers[0], kg_sampler, shuffle=True)
    else:
        train = get_dataloader(config, "train")(config, parts[0], samplers[0], shuffle=config["shuffle"])
    valid = get_dataloader(config, "valid")(config, parts[1], samplers[1], shuffle=False)
    test = get_dataloader(config, "test")(config, parts[2], samplers[2], shuffle=False)
    return train, valid, test
