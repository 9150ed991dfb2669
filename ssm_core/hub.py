"""Saves and loads models in the layout of the Hugging Face Hub, which timm reads as well."""

import json
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg
from torch import nn

from ssm_core.addresses import LIMIT_SWITCH, limit
from ssm_core.described import build_described
from ssm_core.errors import CheckpointError
from ssm_core.folders import CONFIG, PATTERNS, read_json, read_weights
from ssm_core.image_data import SEVERAL_CLASSES, ImageData, check_text, from_folder, from_timm
from ssm_core.layers import ClassifierHead
from ssm_core.model_card import TEMPLATE, THIS_FOLDER, image_fields
from ssm_core.weights import load_exactly

Model = TypeVar("Model", bound="HubModel")


class HubModel(PyTorchModelHubMixin, license="apache-2.0", library_name="timm", model_card_template=TEMPLATE):
    """A mixin for networks that adds ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    A saved folder contains ``model.safetensors``, ``README.md`` and ``config.json``. The last one holds the arguments
    of the constructor, how images are prepared and the names of the classes, in the form that timm and transformers
    read: :meth:`from_pretrained` reads the folder, and so do ``hf-hub:`` and ``local-dir:`` of timm, and transformers'
    ``AutoModel``, ``AutoModelForImageClassification`` and ``pipeline``. The mixin of huggingface_hub does the work.
    """

    # timm knows the models as ``<family>_<arch>``.
    family: ClassVar[str]
    # The network that uses this mixin sets these attributes.
    in_chans: int
    num_classes: int
    num_features: int
    img_size: tuple[int, int] | None
    feature_info: list[dict[str, Any]]
    head: nn.Module
    # timm's name for what it knows of a model's weights. timm sets it, too.
    pretrained_cfg: dict[str, Any]
    # What :meth:`describe_images` was told; None if nobody told anything.
    image_data: ImageData | None = None

    def describe_images(self, data: ImageData) -> None:
        """Say how the images of the model are prepared and what its classes are called, for folders of the Hub.

        ``timm.data.resolve_data_config({}, model=model)`` then gives the same.

        Args:
            data: the description.

        Raises:
            ValueError: it does not fit the model.
        """
        data.check(self.in_chans, self.num_classes)
        self.image_data = data
        others = {key: value for key, value in self._timm_cfg().items() if key not in ("label_names", "notes")}
        self.pretrained_cfg = {
            **others,
            **data.for_timm(self.in_chans, self._reduction()),
            "num_classes": self.num_classes,
        }

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, which huggingface_hub's mixin stores."""
        return cast(dict[str, Any], self._hub_mixin_config)

    def _architecture(self) -> str:
        return f"{self.family}_{self._arguments()['arch']}"

    def _timm_cfg(self) -> dict[str, Any]:
        """Return what timm knows of the model, or of its variant."""
        own: dict[str, Any] | None = getattr(self, "pretrained_cfg", None)
        if own:
            return own
        name = self._architecture()
        registered = get_pretrained_cfg(name)
        if registered is None:
            raise ValueError(f"timm knows no model {name}; register it with timm before it is saved")
        return cast(dict[str, Any], registered.to_dict())

    def _reduction(self) -> int:
        return cast(int, self.feature_info[-1]["reduction"])

    def _present_image_data(self) -> ImageData:
        """Return how the images of the model are prepared, after all that may have changed since it was described."""
        found = from_timm(self._timm_cfg(), self.in_chans, self.num_classes)
        return found if self.img_size is None else found._replace(size=self.img_size)

    def hub_config(self) -> dict[str, Any]:
        """Return the content of ``config.json``, which timm, transformers and :meth:`from_pretrained` read.

        Raises:
            ValueError: timm does not know the model, or text files cannot hold the name of a class.
        """
        arguments = {key: value for key, value in self._arguments().items() if value is not None}
        # How a training went is nothing for who loads the model. Libraries pass the number of classes by themselves.
        for key in ("frozen_stages", "num_classes", "img_size"):
            arguments.pop(key, None)
        # The classifier may have been replaced and the size changed since the constructor ran.
        if isinstance(self.head, ClassifierHead):
            arguments["global_pool"] = self.head.global_pool.pool_type
        if self.img_size is not None:
            arguments["img_size"] = self.img_size
        if self.in_chans == 1:  # most programs read all images in colours
            arguments["grey_from_colours"] = True
        data, cfg = self._present_image_data(), self._timm_cfg()
        more: dict[str, Any] = {}
        if data.classes is not None:
            check_text(data.classes)
            more["label_names"] = data.classes
        if data.multi_label:
            more["problem_type"] = SEVERAL_CLASSES
        if data.value_range is not None:
            more["value_range"] = data.value_range
        return {
            "architecture": self._architecture(),
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            **more,
            "model_args": arguments,
            "pretrained_cfg": {
                "num_classes": self.num_classes,
                **data._replace(classes=None).for_timm(self.in_chans, self._reduction()),
                **{key: cfg[key] for key in ("first_conv", "classifier", "license") if cfg.get(key)},
            },
        }

    def generate_model_card(self, *args: Any, **fields: Any) -> ModelCard:
        """Return the README, which describes the model and says how to load it.

        Args:
            *args: arguments of huggingface_hub's mixin.
            **fields: fields of the template. They replace the values that this method fills in. ``name`` is the title
                of the card, ``place`` the name of the repository, and ``results_table`` is Markdown with measured
                results.
        """
        title, arguments, data = type(self).__name__, self._arguments(), self._present_image_data()
        if arguments.get("depths") is None and arguments.get("dims") is None:
            title = f"{title}-{arguments['arch'].capitalize()}"
        place = fields.get("place", THIS_FOLDER)
        known = {
            "name": title,
            "title": title,
            "model_class": type(self).__name__,
            "package": type(self).__module__.partition(".")[0],
            "parameters": f"{sum(parameter.numel() for parameter in cast(nn.Module, self).parameters()) / 1e6:.3f}",
            "results": f"{self.num_classes} logits" if self.num_classes else "features",
            "has_classes": bool(self.num_classes),
            "is_picture": self.in_chans in (1, 3),  # what transformers reads
            "usual": data.mean == IMAGENET_DEFAULT_MEAN and data.std == IMAGENET_DEFAULT_STD,
            "place": place,
            "timm_name": f"{'local-dir' if place == THIS_FOLDER else 'hf-hub'}:{place}",
            **image_fields(data, self.in_chans, self.in_chans == 1),
        }
        card = super().generate_model_card(*args, **{**known, **fields})
        if not self.num_classes:
            card.data["pipeline_tag"] = "image-feature-extraction"
        return card

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        """Save the model as a repository of the Hub.

        Args:
            repo_id: name of the repository, such as ``"somebody/net"``.
            model_card_kwargs: fields of the model card, see :meth:`generate_model_card`.
            **options: options of huggingface_hub's mixin.

        Returns:
            The address of the commit.
        """
        fields = {"name": repo_id.rpartition("/")[2], "place": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=fields, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        config = self.hub_config()  # before a file is written
        super()._save_pretrained(save_directory)
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(  # type: ignore[override]  # further arguments of the mixin would change the model
        cls: type[Model], pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> Model:
        """Load a model from a folder, or from the Hub.

        The folder may come from anywhere: nothing in it runs, and its config decides nothing that its weights do not
        show.

        Args:
            pretrained_model_name_or_path: the folder, or the name of a repository such as ``"somebody/net"``.
            revision: a branch, a tag or a commit of the repository. A commit names its content for good.

        Raises:
            CheckpointError: there is no such folder, or its config and its weights are of no model of this class.
        """
        folder = local_folder(pretrained_model_name_or_path, PATTERNS, revision)
        config = read_json(folder / CONFIG)
        # Folders of earlier versions have all arguments beside the others.
        told = {**config, **(config["model_args"] if isinstance(config.get("model_args"), dict) else {})}
        known = cls._hub_mixin_init_parameters
        arguments = {name: told[name] for name in told if name in known and name != "self"}
        if "num_classes" in config:
            arguments["num_classes"] = config["num_classes"]
        state = read_weights(folder)
        network = cast(Model, build_described(cast(Any, cls), arguments, state, folder))
        load_exactly(cast(nn.Module, network), state, folder, f"its {cls.__name__}")
        data = from_folder(config, network.in_chans, network.num_classes, folder)
        if data is not None:
            network.describe_images(data)
        return cast(Model, cast(nn.Module, network).eval())


def local_folder(place: str | Path, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Return a folder, or a local copy of a repository of the Hub.

    Args:
        place: the folder, or the name of the repository.
        patterns: which files of the repository are downloaded. Together they may be as large as
            ``SSM_DOWNLOAD_LIMIT`` allows, see :func:`ssm_core.addresses.download`.
        revision: see :meth:`HubModel.from_pretrained`.

    Raises:
        CheckpointError: there is neither, or the files are too large.
    """
    if Path(place).is_dir():
        return Path(place)
    most, found, reason = limit(), None, ""
    try:
        found = HfApi().model_info(str(place), revision=revision, files_metadata=True)
    except HFValidationError:
        raise CheckpointError(f"there is no folder {place}, and it is no name of the Hub's") from None
    except Exception as error:  # without a network a copy from before is used
        reason = " ".join(str(error).split())
    files = [file for file in (found.siblings or []) if _wanted(file.rfilename, patterns)] if found else []
    if sum(file.size or 0 for file in files) > most:
        raise CheckpointError(
            f"{place} is larger than {most / 1e9:g} GB: set {LIMIT_SWITCH} to the GB that may be downloaded"
        )
    try:
        return Path(
            snapshot_download(
                str(place),
                revision=found.sha if found else revision,
                allow_patterns=list(patterns),
                local_files_only=found is None,
            )
        )
    except Exception as error:
        reason = reason or " ".join(str(error).split())
        raise CheckpointError(f"there is no folder {place}, and no copy from the Hub: {reason}") from error


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def save_hub_folder(network: nn.Module, folder: str | Path, **fields: Any) -> None:
    """Save a network in the layout of the Hub. An existing folder is overwritten.

    Args:
        network: a :class:`HubModel`.
        folder: the folder to write.
        **fields: fields of the model card; see :meth:`HubModel.generate_model_card`.

    Raises:
        TypeError: the network is not a :class:`HubModel`.
    """
    if not isinstance(network, HubModel):
        raise TypeError(f"a {type(network).__name__} has no save_pretrained: only models of this project have")
    card = Path(folder) / "README.md"
    card.unlink(missing_ok=True)  # the mixin would not replace an existing card
    network.save_pretrained(folder, model_card_kwargs=fields)
