"""Writes what is known of all configs: their metafiles, the tables of their READMEs, and docs/model_zoo.md.

    python tools/analysis/model_zoo.py [--keep-counts]

configs/<family>/metafile.yml comes from the configs and from configs/results.yml, which holds what no config can tell.
The tables in configs/<family>/README.md and docs/model_zoo.md come from the metafiles. Parameters and FLOPs are
counted, which takes minutes; --keep-counts keeps those of the metafiles and counts only configs that have none.
"""

import argparse
import posixpath
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ssm_train.apis import cli

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
FACTS = CONFIGS / "results.yml"
PAGE = ROOT / "docs" / "model_zoo.md"
# Our names of tasks, and OpenMMLab's.
TASKS = {
    "classification": "Image Classification",
    "detection": "Instance Segmentation",
    "segmentation": "Semantic Segmentation",
    "language": "Language Modeling",
}
# The metrics of OpenMMLab's metafiles that belong to another task than their config's.
METRIC_TASKS = {"box AP": "Object Detection"}
BEGIN, END = "<!-- Written by tools/analysis/model_zoo.py from metafile.yml. -->", "<!-- End of the tables. -->"


class Data(NamedTuple):
    """What a training data set is for."""

    use: str  # a key of USES
    about: str  # a sentence or two for its heading


class Use(NamedTuple):
    """What a newcomer, or somebody with a question, wants of a config."""

    title: str
    about: str = ""


# In the order of the page.
USES = {
    "first run": Use("Start here"),
    "own data": Use("Your own images"),
    "comparison": Use(
        "The families beside a control",
        "ResNet-18 under the same recipe beat both families on Fashion-MNIST and in detection. In segmentation the "
        "three are within 0.6 points of each other, which one run each cannot tell apart.",
    ),
    "study": Use(
        "Studies",
        "Many short runs of small networks, which share a GPU. The page on studies, docs/study.md, has what was found.",
    ),
    "pictures": Use("Weights for pictures of scans"),
    "paper": Use("The papers' recipes"),
    "other data": Use("Other data and other detectors"),
    "ablation": Use("Ablations", "Each changes one argument of the recipe it inherits."),
    "speed": Use("Speed"),
}
DATA = {
    "Digits": Data("first run", "Two to four minutes on a CPU, with data that scikit-learn brings along."),
    "Nuclei": Data(
        "first run",
        "Detection, with and without masks, and segmentation in five to eight minutes on a CPU. "
        "`tree-ssm prepare-data nuclei` makes the data.",
    ),
    "Your own images": Data(
        "own data",
        "Folders `train/<class>/` and `val/<class>/`. Set `load_from` to fine-tune pretrained weights.",
    ),
    "Fashion-MNIST": Data("comparison", "Ten minutes on one GPU."),
    "Composited scenes": Data(
        "comparison", "Ten minutes on one GPU. `tree-ssm prepare-data composite` makes the data."
    ),
    "Photo crops": Data(
        "pictures",
        "Eight minutes on one GPU. `tree-ssm prepare-data photos` makes the data. The models tell 15 photographs apart "
        "and know nothing of others. `tree-ssm explore` shows what their scans do on photographs.",
    ),
    "Wiki demo": Data("comparison", "A Mamba trained from random weights on a megabyte of text, for the next table."),
    "Alpaca demo": Data(
        "comparison",
        "That small Mamba as pretrained, with LoRA alone, and with LoRA and the tree. Perplexities are of held-out "
        "responses, lower is better, the last two are means of three seeds. The tree makes no difference here. "
        "`tree-ssm language-study` runs all of it.",
    ),
    "Fashion-MNIST, 20,000 images": Data("study", "The base of a study, or of its models of one size."),
    "Largest items": Data("study", "Composited scenes of 128×128 by the class of their largest item."),
    "Composited scenes, 128×128": Data("study", "UPerNet on the same scenes."),
    "ImageNet-1k": Data("paper", "300 epochs."),
    "COCO 2017": Data("paper", "1x is 12 epochs; 3x is 36 epochs with images of several sizes."),
    "ADE20K": Data("paper", "160,000 iterations."),
    "Alpaca": Data(
        "paper",
        "Mamba as pretrained, with LoRA alone, and with LoRA and the tree. The papers do not have the model of 1.4 B: "
        "all of its weights are trained, and are sharded between the processes.",
    ),
    "COCO 2017, boxes": Data(
        "other data",
        "Faster R-CNN, RetinaNet, FCOS and DINO, for files without masks: the 1x recipe of Mask R-CNN, or for DINO its "
        "own decay, clipping and rate of the backbone. The papers have no such table.",
    ),
    "Cityscapes": Data("other data", "The recipe of ADE20K at Cityscapes' crop. The papers have no such table."),
    "Noise": Data("speed", "The speed of the whole training loop; there is nothing to learn."),
}
HEAD = """# Model zoo

Every config, ordered by use. `python tools/analysis/model_zoo.py` writes this page from the metafiles beside the
configs, and a test checks that they agree.

- **Parameters** are those of the whole model in training, auxiliary heads and adapters included.
- **GFLOPs** are those of one image at test time. A multiply-add counts once, and scans count. Detectors are counted
  with 1,000 proposals and 100 masks.
- **Measured** figures were measured by this project, in one run with one seed unless the text says otherwise. They link
  to machine, date and command.
- **Published** figures are the authors' own, for their implementations. Nobody has trained the papers' recipes with
  this code yet.
"""


def folders() -> list[str]:
    """The families, in the order of the data file."""
    return list(facts()["Collections"])


def facts() -> dict[str, Any]:
    """What no config can tell."""
    return yaml.safe_load(FACTS.read_text())


def leaf_configs(folder: str) -> list[Path]:
    """All configs of a family that can be run."""
    return sorted((CONFIGS / folder).rglob("*.py"))


def training_data(cfg: Mapping[str, Any]) -> str:
    """The data a config is for, a key of ``DATA``."""
    dataset = cfg["test_dataloader"]["dataset"]
    by_type = {"Digits": "Digits", "FashionMNIST": "Fashion-MNIST", "ImageNet": "ImageNet-1k",
               "ImageFolder": "Your own images", "SyntheticImages": "Noise", "TextBlocks": "Wiki demo",
               "WebDatasetImages": "Digits", "HuggingFaceImages": "Digits"}  # fmt: skip
    by_folder = {"photos": "Photo crops", "nuclei": "Nuclei", "composite": "Composited scenes", "coco": "COCO 2017",
                 "cityscapes": "Cityscapes", "ADEChallengeData2016": "ADE20K"}  # fmt: skip
    if dataset["type"] == "ImageArrays":
        names = {"fashion-mnist": "Fashion-MNIST, 20,000 images", "largest-item": "Largest items"}
        return names[Path(dataset["images"]).parent.name]
    if Path(dataset.get("data_root") or "").parent.name == "128px":
        return "Composited scenes, 128×128"
    by_file = {"alpaca_data.json": "Alpaca", "alpaca_en_demo.json": "Alpaca demo"}
    if dataset["type"] == "InstructionRows":
        return by_file[Path(dataset["path"]).name]
    folder = Path(dataset.get("root", dataset.get("data_root", ""))).name
    found = by_folder.get(folder) or by_type[dataset["type"]]
    return f"{found}, boxes" if found == "COCO 2017" and has_boxes_alone(cfg) else found


def has_boxes_alone(cfg: Mapping[str, Any]) -> bool:
    """Whether a config is of a detector without masks."""
    metric = (cfg.get("test_evaluator") or {}).get("metric")
    return cfg.get("default_scope") == "mmdet" and metric == "bbox"


def training(cfg: Mapping[str, Any], name: str) -> dict[str, int]:
    """Length of a config's training, and images or rows of an update of the weights; empty where nothing is trained."""
    loop = cfg["train_cfg"]
    if loop is None:
        return {}
    length = {"Epochs": loop["max_epochs"]} if "max_epochs" in loop else {"Iterations": loop["max_iters"]}
    processes = int(match[1]) if (match := re.search(r"_(\d+)xb\d+", name)) else 1
    accumulated = cfg["optim_wrapper"].get("accumulative_counts", 1)
    return {**length, "Batch Size": processes * accumulated * cfg["train_dataloader"]["batch_size"]}


def results(figures: Mapping[str, float], task: str, dataset: str, source: str) -> list[dict[str, Any]]:
    """Figures in OpenMMLab's form, an entry a task."""
    tasks: dict[str, dict[str, float]] = {}
    for metric, value in figures.items():
        tasks.setdefault(METRIC_TASKS.get(metric, task), {})[metric] = value
    return [{"Task": name, "Dataset": dataset, "Metrics": m, "Source": source} for name, m in tasks.items()]


def describe(path: Path, known: Mapping[str, Any], counts: Mapping[str, int] | None) -> dict[str, Any]:
    """A config's entry of the metafile.

    Args:
        path: the config.
        known: the data file.
        counts: ``Parameters`` and ``FLOPs``; counted if left out.
    """
    from ssm_train.apis.analyse import count_cost, default_size
    from ssm_train.runtime.config import load_config
    from ssm_train.tasks import LANGUAGE, task_name_of

    cfg, name = load_config(path), path.stem
    fact = known["Models"].get(name, {})
    data, size = training_data(cfg), default_size(cfg)
    task = "Object Detection" if has_boxes_alone(cfg) else TASKS[task_name_of(cfg)]
    language = task_name_of(cfg) == LANGUAGE
    if language:  # the network is a checkpoint or has a trained vocabulary, so the data file knows its size
        counts = {"Parameters": fact["parameters"]}
    elif counts is None:
        cost = count_cost(cfg, size)
        counts = {"Parameters": cost.parameters, "FLOPs": cost.flops.total}
    entry: dict[str, Any] = {
        "Name": name,
        "In Collection": known["Collections"][path.relative_to(CONFIGS).parts[0]]["Name"],
        "Config": path.relative_to(ROOT).as_posix(),
        "Metadata": {
            "Use": "ablation" if path.parent.name == "ablations" else DATA[data].use,
            "Training Data": data,
            **training(cfg, name),
            **({"Tokens": size[0]} if language else {"Image Size": "x".join(map(str, size))}),
            **counts,
        },
    }
    models, sources = known["Models"], known["Sources"]
    if "measured" in fact:
        entry["Results"] = results(fact["measured"], task, data, sources[fact["source"]])
        if control := fact.get("control"):
            for result in entry["Results"]:
                figures = {metric: models[control]["measured"][metric] for metric in result["Metrics"]}
                result["Control"] = {"Name": control, "Metrics": figures}
    if "published" in fact:
        entry["Published Results"] = results(fact["published"], task, data, sources[fact["published in"]])
    return entry


def order(entry: Mapping[str, Any]) -> tuple:
    """By use, then by data, then by size."""
    meta = entry["Metadata"]
    return list(USES).index(meta["Use"]), list(DATA).index(meta["Training Data"]), meta["Parameters"], entry["Name"]


def known_counts(folder: str) -> dict[str, dict[str, int]]:
    """Parameters and FLOPs by config, from a family's metafile."""
    path = CONFIGS / folder / "metafile.yml"
    entries = yaml.safe_load(path.read_text())["Models"] if path.exists() else []
    return {e["Name"]: {key: e["Metadata"].get(key) for key in ("Parameters", "FLOPs")} for e in entries}


def make_metafile(folder: str, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """A family's metafile; configs that ``counts`` lacks are counted."""
    known = facts()
    entries = [describe(path, known, counts.get(path.stem)) for path in leaf_configs(folder)]
    collection = {**known["Collections"][folder], "README": f"configs/{folder}/README.md"}
    return {"Collections": [collection], "Models": sorted(entries, key=order)}


def dump(metafile: Mapping[str, Any]) -> str:
    """The text of a metafile."""
    text = yaml.safe_dump(metafile, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=None)
    return f"# Written by tools/analysis/model_zoo.py from the configs and configs/results.yml.\n{text}"


def tables(entries: Iterable[Mapping[str, Any]], folder: str, level: int) -> str:
    """Headings and tables of some configs, by use and data.

    Args:
        entries: of metafiles.
        folder: of the page, in the repository, such as ``"docs"``.
        level: number of ``#`` of the headings.
    """
    groups: dict[str, dict[str, list]] = {}
    for entry in sorted(entries, key=lambda entry: order(entry)[:2]):
        meta = entry["Metadata"]
        groups.setdefault(meta["Use"], {}).setdefault(meta["Training Data"], []).append(entry)
    lines = []
    for use, of_use in groups.items():
        lines += [f"{'#' * level} {USES[use].title}", ""]
        if USES[use].about:
            lines += [USES[use].about, ""]
        for data, of_data in of_use.items():
            if use != "ablation":
                heading = [f"{'#' * (level + 1)} {data}", ""] if data != USES[use].title else []
                lines += [*heading, DATA[data].about, ""]
            for rows in _by_metrics(of_data):
                lines += [*_table(rows, folder), ""]
            if sources := sorted({result["Source"] for row in of_data for result in row.get("Published Results", [])}):
                lines += [f"Published in {'; '.join(sources)}.", ""]
    return "\n".join(lines)


def _by_metrics(entries: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Entries of one task each: detectors and segmentors may learn from the same data."""
    groups: dict[str, list] = {}
    for entry in entries:
        kind = next((kind for kind in ("upernet", "mask-rcnn") if kind in entry["Name"]), "")
        groups.setdefault(kind, []).append(entry)
    return list(groups.values())


def _table(rows: list[Mapping[str, Any]], folder: str) -> list[str]:
    columns = {
        "config": [_link(row["Name"], row["Config"], folder) for row in rows],
        "parameters": [f"{row['Metadata']['Parameters'] / 1e6:.3f} M" for row in rows],
    }
    if all("FLOPs" in row["Metadata"] for row in rows):
        columns["GFLOPs"] = [f"{row['Metadata']['FLOPs'] / 1e9:.3f}" for row in rows]
    columns |= {"input": [_input(row) for row in rows], "training": [_training(row) for row in rows]}
    for title, key in (("measured", "Results"), ("published", "Published Results")):
        figures = [[result["Metrics"] for result in row.get(key, [])] for row in rows]
        if metrics := next(
            (" / ".join(name for metric in found for name in metric) for found in figures if found), None
        ):
            columns[f"{title} {metrics}"] = [
                _linked(text, row.get(key), folder) for text, row in zip(_values(figures), rows, strict=True)
            ]
    controls = [[result["Control"] for result in row.get("Results", []) if "Control" in result] for row in rows]
    # On the page of all families the control has a row of its own.
    if not {control["Name"] for found in controls for control in found} <= {row["Name"] for row in rows}:
        texts = _values([[control["Metrics"] for control in found] for found in controls])
        columns["control"] = [f"{c[0]['Name']}: {text}" if c else "" for c, text in zip(controls, texts, strict=True)]
    lines = (columns, ["---"] * len(columns), *zip(*columns.values(), strict=True))
    return [f"| {' | '.join(line)} |" for line in lines]


def _input(row: Mapping[str, Any]) -> str:
    meta = row["Metadata"]
    return f"{meta['Tokens']:,} tokens" if "Tokens" in meta else meta["Image Size"].replace("x", " × ")


def _training(row: Mapping[str, Any]) -> str:
    meta = row["Metadata"]
    if "Batch Size" not in meta:
        return "none"
    length = f"{meta['Iterations']:,} iterations" if "Iterations" in meta else f"{meta['Epochs']} epochs"
    return f"{length.removesuffix('s') if meta.get('Epochs') == 1 else length}, batch {meta['Batch Size']:,}"


def _values(column: Iterable[Iterable[Mapping[str, float]]]) -> list[str]:
    """The metrics of every row as text, all with as many digits as the most exact has."""
    rows = [[value for metrics in row for value in metrics.values()] for row in column]
    digits = max((len(str(value).partition(".")[2]) for row in rows for value in row), default=0)
    return [" / ".join(f"{value:.{digits}f}" for value in row) for row in rows]


def _link(text: str, target: str, folder: str) -> str:
    return f"[{text}]({posixpath.relpath(target, folder)})"


def _linked(text: str, found: list[Mapping[str, Any]] | None, folder: str) -> str:
    """A figure, with a link if its source is a page in docs/ that says how it was measured."""
    source = found[0]["Source"] if found else ""
    return _link(text, source, folder) if source.startswith("docs/") else text


def make_readme(folder: str, metafile: Mapping[str, Any]) -> str:
    """A family's README with its tables renewed."""
    text = (CONFIGS / folder / "README.md").read_text()
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(metafile['Models'], f'configs/{folder}', 3)}\n{END}{rest.split(END)[1]}"


def make_page(metafiles: Iterable[Mapping[str, Any]]) -> str:
    """The text of docs/model_zoo.md."""
    entries = [entry for metafile in metafiles for entry in metafile["Models"]]
    return f"{HEAD}\n{tables(entries, 'docs', 2)}"


def main(arguments: list[str] | None = None) -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description="Write metafiles, READMEs and docs/model_zoo.md.", allow_abbrev=False)
    parser.add_argument("--keep-counts", action="store_true", help="count only configs that the metafiles lack")
    keep = parser.parse_args(arguments).keep_counts
    from ssm_train.runtime.files import write_text_atomically

    metafiles = []
    for folder in folders():
        metafile = make_metafile(folder, known_counts(folder) if keep else {})
        write_text_atomically(CONFIGS / folder / "metafile.yml", dump(metafile))
        write_text_atomically(CONFIGS / folder / "README.md", make_readme(folder, metafile))
        metafiles.append(metafile)
    write_text_atomically(PAGE, make_page(metafiles))
    print(f"{PAGE}: {sum(len(metafile['Models']) for metafile in metafiles)} configs")


if __name__ == "__main__":
    sys.exit(cli.run(main))
