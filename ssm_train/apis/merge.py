"""Merging: a language model's checkpoint becomes a folder of transformers, with its adapters added to the weights."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import TASK_UTILS

from ssm_core.errors import ConfigError
from ssm_train.runtime.building import building_in_scope
from ssm_train.runtime.files import assembling, check_folder
from ssm_train.tasks import LANGUAGE, task_name_of, task_of


def merge_adapters(cfg: Config, checkpoint: str | Path, folder: str | Path) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` read once ``tree_ssm.language`` is imported.

    Args:
        cfg: the config that the model was trained with.
        checkpoint: a file of tree-ssm train.
        folder: where weights, config and tokenizer go.

    Raises:
        ConfigError: the config describes no language model, or cannot be built.
        CheckpointError: the checkpoint is missing, damaged or of another model.
        WriteError: the folder cannot be written.
    """
    check_folder(folder)
    if task_name_of(cfg) != LANGUAGE:
        raise ConfigError(f"{cfg.filename} describes no language model, but a {cfg.get('model', {}).get('type')}")
    # Imported here because it imports transformers, which only this task needs.
    from tree_ssm.language import save_network

    task = task_of(cfg)
    model, _ = task.load(checkpoint)
    with building_in_scope(task.scope):
        tokenizer = TASK_UTILS.build(cfg.test_dataloader.dataset.tokenizer)
    with assembling(folder) as place:
        save_network(model.backbone, place, tokenizer)
