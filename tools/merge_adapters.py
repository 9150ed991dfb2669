"""A training checkpoint as a folder of transformers: python tools/merge_adapters.py CONFIG CKPT FOLDER.

LoRA adapters are added to the weights; ``AutoModelForCausalLM.from_pretrained(FOLDER)`` reads the result once
``tree_ssm.language`` is imported.
"""

import argparse
import sys

from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Merge adapters into plain weights.", allow_abbrev=False)
    parser.add_argument("config", help="the config it was trained with")
    parser.add_argument("checkpoint", help="a .pth file of tools/train.py")
    parser.add_argument("folder", help="where weights, config and tokenizer go")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Merge and write."""
    args = parse_arguments(arguments)
    # Later than the command line, so that --help is quick.
    from mmengine.registry import init_default_scope

    from ssm_core.errors import CheckpointError, ConfigError
    from ssm_train.registry import MODELS, TASK_UTILS
    from ssm_train.runtime import checkpoints as checkpoint
    from ssm_train.runtime.config import load_config
    from ssm_train.runtime.runner import building_from_config
    from tree_ssm.language import save_network

    cfg = load_config(args.config, args.cfg_options)
    if cfg.model.get("type") != "LanguageModel":
        raise ConfigError(f"{args.config} describes no language model, but a {cfg.model.get('type')}")
    init_default_scope(cfg.get("default_scope", "ssm_train"))
    with building_from_config():
        model = MODELS.build(cfg.model)
        tokenizer = TASK_UTILS.build(cfg.test_dataloader.dataset.tokenizer)
    state = checkpoint.load(args.checkpoint)
    weights = checkpoint.strip_prefix(state.get("state_dict", state))
    names, words = checkpoint.misfit(model.state_dict(), weights)
    if names:
        raise CheckpointError(f"{args.checkpoint} does not fit {args.config}: {len(names)} tensors differ, {words}")
    model.load_state_dict(weights)
    save_network(model.backbone, args.folder, tokenizer)
    print(f"written to {args.folder}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
