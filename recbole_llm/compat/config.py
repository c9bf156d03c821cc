"""RecBole's ``Config`` made from our settings.

RecBole's class reads ``sys.argv``, evaluates strings, changes ``CUDA_VISIBLE_DEVICES`` and hard-codes the
path of ml-100k. The subclass replaces exactly those steps and keeps the checks that follow them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data.transform import construct_transform
from recbole.utils import InputType

from recbole_llm.errors import UserError
from recbole_llm.settings.layers import Settings
from recbole_llm.utils.text import one_line


def gpu_number(gpu_id: Any) -> int | None:
    """The GPU that RecBole's ``gpu_id`` names; ``None`` if it is empty, which means the CPU, as in RecBole.

    Raises:
        UserError: it names several GPUs, or is not a number.
    """
    text = "" if gpu_id is None else str(gpu_id).strip()
    if not text:
        return None
    if not text.isdecimal():
        raise UserError(
            f"--gpu_id={gpu_id}: give the number of one GPU, such as 0; with --nproc several processes train one model "
            "and, with --workers, several models run at once."
        )
    return int(text)


def resolve_device(name: str, use_gpu: bool = True, gpu_id: Any = "0") -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` to a device; ``auto`` follows RecBole's ``use_gpu`` and ``gpu_id``.

    Raises:
        UserError: the name or ``gpu_id`` is invalid, or there is no such CUDA device.
    """
    if name == "auto":
        number = gpu_number(gpu_id)
        if not use_gpu or number is None or not torch.cuda.is_available():
            return torch.device("cpu")
        name = f"cuda:{number}" if number else "cuda"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device={name}: use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not count:
            raise UserError(f"--device={name}: torch sees no CUDA device here; use --device=cpu or auto.")
        if (device.index or 0) >= count:
            raise UserError(f"--device={name}: there are {count} CUDA devices, numbered from 0.")
    return device


class BenchConfig(Config):
    """RecBole's configuration, filled only from :class:`~recbole_llm.settings.layers.Settings`.

    Args:
        settings: the layered settings.
        model_class: the model's class.
        folder: the dataset's folder.
        stem: name of its files.

    Raises:
        UserError: RecBole refuses the settings, or a pairwise model is given no negative sampling.
    """

    def __init__(self, settings: Settings, model_class: type, folder: Path, stem: str) -> None:
        self._settings, self._folder = settings, folder
        values = {k: v for k, v in settings.values.items() if k not in ("about", "raw", "text", "dataset")}
        try:
            super().__init__(model=model_class, dataset=stem, config_dict=values)
            if self["transform"]:
                construct_transform(self)  # sets the names of columns that the model's constructor asks for
        except (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError) as error:
            raise UserError(f"--model={settings.method.name}: {one_line(error)}") from error
        sampled = self["train_neg_sample_args"]["distribution"] != "none"
        if self["MODEL_INPUT_TYPE"] == InputType.PAIRWISE and not sampled:
            raise UserError(
                f"--model={settings.method.name} learns from an item that a user has beside one that the user has not: "
                "give train_neg_sample_args, such as {distribution: uniform, sample_num: 1}."
            )

    def _load_config_files(self, file_list: Any) -> dict[str, Any]:
        return {}

    def _build_yaml_loader(self) -> None:
        return None

    def _load_variable_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return dict(config_dict)  # typed already; RecBole would eval() the strings

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        # The settings hold RecBole's own defaults as their lowest layers.
        self.internal_config_dict = {"MODEL_TYPE": model_class.type}

    def _set_default_parameters(self) -> None:
        super()._set_default_parameters()
        self.final_config_dict["data_path"] = str(self._folder)
        self.final_config_dict["valid_metric_bigger"] = True
        self.final_config_dict["model"] = self._settings.method.trained_as  # by which RecBole finds loader and trainer

    def _init_device(self) -> None:
        values = self.final_config_dict
        device = resolve_device(str(values["device"]), bool(values["use_gpu"]), values["gpu_id"])
        values["device"] = device
        values["use_gpu"] = device.type == "cuda"
        values["gpu_id"] = str(device.index or 0) if device.type == "cuda" else ""
        values["single_spec"] = True
        values["local_rank"] = 0
