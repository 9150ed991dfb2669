"""Makes weights that come with a package: python dev/ship_weights.py CONFIG CHECKPOINT [--cfg-options KEY=VALUE …]

The file that `tree-ssm publish --half` writes goes into the folder `weights` of the package: of the family for a
classifier, of ssm_train for other models. It is tested on the test set of the config, and the figure by which the
training chose its best checkpoint goes into the table beside the file. An earlier file of the same config is removed.
The lines of the training and of its validations go from the log of the work folder into docs/logs, and the table in
docs/weights.md is written anew.

A checkpoint that was published already is taken as it is. Its log has to be in docs/logs then.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssm_core.errors import ConfigError, DataError
from ssm_core.hub import HubModel
from ssm_core.safetensors_file import SUFFIX
from ssm_core.shipped import FOLDER, ShippedWeights, digits_of, read_shipped, write_shipped
from ssm_train.apis import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("quadtree_ssm", "tree_ssm", "ssm_train")
MOST = 6_000_000  # bytes of a file, so that the package stays small
SIZE = re.compile(r"-\d+x\d+$")  # at the end of a config's name
LINE = re.compile(r"\d{4}/\d\d/\d\d (\d\d:\d\d:\d\d) - mmengine - INFO - ((Epoch|Iter)\((train|val)\).*)")
BEGIN, END = "<!-- Written by dev/ship_weights.py. -->", "<!-- End of the table. -->"
NOTHING = "No weights come with this version."


def ship(config: str, checkpoint: Path, options: Sequence[str] = (), root: Path = ROOT) -> ShippedWeights:
    """Make the file, its row of the table, its log, and the page.

    Args:
        config: the config that the checkpoint was trained with, one of those that come with the package.
        checkpoint: a file in the work folder of the training, or one of tree-ssm publish --half, which is taken as it
            is.
        options: changes ``key=value`` of the config, such as the place of the test data.
        root: the repository.

    Raises:
        ConfigError: the config is wrong or of somebody's own, or the file would be too large.
        CheckpointError: the checkpoint cannot be published, or does not fit the config.
        DataError: the work folder has no log, or there is no test data.
    """
    from ssm_train.apis.publish import publish_checkpoint
    from ssm_train.apis.train import test
    from ssm_train.runtime.config import run_config
    from ssm_train.tasks import CLASSIFICATION, image_task_of, task_name_of

    config = name_of(config)
    published, stem = checkpoint.suffix == SUFFIX, Path(config).name
    place_of_log = log_of(root, config)
    log = place_of_log.read_text() if published and place_of_log.is_file() else training_in(checkpoint.parent)
    # Everything that can go wrong is done in a folder of its own.
    with tempfile.TemporaryDirectory() as place:
        cfg = run_config(config, list(options), f"{place}/test", "none")
        model, _ = image_task_of(cfg).load(checkpoint)
        network, classifies = model.backbone, task_name_of(cfg) == CLASSIFICATION
        if classifies and not isinstance(network, HubModel):
            raise ConfigError(f"{config} has a network of another project: its weights do not come with this one")
        made = checkpoint if published else publish_checkpoint(checkpoint, Path(place), stem, half=True).path
        if made.stat().st_size > MOST:
            raise ConfigError(f"the weights of {config} take more than {MOST / 1e6:g} MB, even in float16")
        metric = cfg.default_hooks.checkpoint.save_best
        figures = {metric: round(float(test(cfg, made)[metric]), 2)}
        name, timm_cfg, package = stem, None, "ssm_train"
        if classifies:
            known = network.hub_config()
            name = f"{known['architecture']}.{SIZE.sub('', stem).rpartition('_')[2]}"
            timm_cfg = {**known["pretrained_cfg"], "label_names": known.get("label_names")}
            package = type(network).__module__.partition(".")[0]
        folder = root / package / FOLDER
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}-{digits_of(made)}{SUFFIX}"
        if not (path.exists() and path.samefile(made)):
            shutil.copyfile(made, path)
    row, before = ShippedWeights(name, path, config, figures, timm_cfg), read_shipped(folder)
    kept = [other for other in before if other.config != config]
    write_shipped(folder, [*kept, row])
    for old in {other.path for other in before} - {other.path for other in [*kept, row]}:
        old.unlink(missing_ok=True)
    place_of_log.write_text(log)
    write_page(root)
    return row


def name_of(config: str) -> str:
    """The name of a config that comes with the package.

    Raises:
        ConfigError: there is no such config, or it is of somebody's own.
    """
    from ssm_train.compat.shipped import SHIPPED
    from ssm_train.runtime.config_files import find_config

    path = find_config(config).resolve()
    if not path.is_relative_to(SHIPPED.resolve()):
        raise ConfigError(f"{config} does not come with the package: its weights would not be found")
    return path.relative_to(SHIPPED.resolve()).with_suffix("").as_posix()


def log_of(root: Path, config: str) -> Path:
    """Where the log of a config's training is, for readers of the repository."""
    return root / "docs" / "logs" / f"{SIZE.sub('', Path(config).name)}.log"


def training_in(work_folder: Path) -> str:
    """The lines of a training and of its validations, from the newest log of its work folder."""
    logs = sorted(work_folder.glob("*/*.log"))
    found = map(LINE.fullmatch, logs[-1].read_text().splitlines() if logs else ())
    lines = [f"{match[1]} {match[2]}" for match in found if match]
    if not lines:
        raise DataError(f"{work_folder} has no log of a training: name a checkpoint in the work folder of its training")
    return "\n".join(lines) + "\n"


def table(rows: Iterable[ShippedWeights]) -> str:
    """The table of docs/weights.md."""
    lines = [
        f"| `{row.name}` | [{row.config}](../configs/{row.config}.py) | {said(row)} "
        f"([log](logs/{log_of(ROOT, row.config).name})) | {row.path.stat().st_size / 1e6:.1f} MB | `{row.path.name}` |"
        for row in rows
    ]
    if not lines:
        return NOTHING
    head = ["| name | config | measured | size | file |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *lines])


def said(row: ShippedWeights) -> str:
    """The figures of a row."""
    return ", ".join(f"{metric} {value:.2f}" for metric, value in row.figures.items())


def page(text: str, rows: Iterable[ShippedWeights]) -> str:
    """The text of docs/weights.md with its table renewed."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}"


def write_page(root: Path) -> None:
    """Write the table of docs/weights.md from the tables of the packages."""
    rows = [row for package in PACKAGES for row in read_shipped(root / package / FOLDER)]
    place = root / "docs" / "weights.md"
    place.write_text(page(place.read_text(), rows))


def main(arguments: list[str] | None = None) -> None:
    """Ship what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="the name of a config, such as quadmamba/quadmamba-nano_fmnist")
    parser.add_argument(
        "checkpoint", type=Path, help="a checkpoint in the work folder of the training, or a published one"
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    args = parser.parse_args(arguments)
    row = ship(args.config, args.checkpoint, args.cfg_options)
    print(f"{row.path}: {row.name}, {said(row)}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
