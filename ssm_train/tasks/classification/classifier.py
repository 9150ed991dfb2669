"""Image classifiers with mmengine's model interface, mixup and CutMix of timm."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.utils.data import Dataset

from ssm_core.errors import ConfigError
from ssm_train.data.augmentation import finish
from ssm_train.data.classes import are_weights, class_counts, listed
from ssm_train.data.collate import problems_of
from ssm_train.registry import MODELS
from ssm_train.runtime.custom_keys import frozen_modules
from ssm_train.tasks.classification.distillation import Teacher
from ssm_train.tasks.classification.fitting import logits_of
from ssm_train.tasks.classification.losses import balanced_weights, binary_cross_entropy, cross_entropy


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A network that maps images to logits, trained by cross entropy or by its focal form.

    An image has one class, or any number of them if ``multi_label`` is on. Every class then is a question of yes or no.

    Args:
        backbone: config of the network with its head, such as ``dict(type="quadtree_ssm.QuadMamba", arch="tiny")`` or
            ``dict(type="timm", name="resnet18")``. The network needs an attribute ``num_classes``.
        label_smoothing: share of the target that is spread over all classes.
        mixup_alpha: parameter of the Beta distribution from which mixup draws its weights; 0 for no mixup.
        cutmix_alpha: the same for CutMix. If both are on, each batch gets one of the two at random.
        mix_prob: probability that a batch is mixed.
        class_weight: weight of every class in the loss, such as ``[1, 3]``, or ``"balanced"`` for weights by the
            numbers of training images (:func:`.balanced_weights`).
        focal_gamma: exponent of the focal loss, usually 2; 0 for plain cross entropy.
        multi_label: whether an image can have several classes or none, as in :class:`.ImageList`.
        binary: whether the loss asks yes or no for every class although images have one. ``multi_label`` implies it.
        teacher: config of a trained network whose answers are learnt too, see :class:`.Teacher`.
        teacher_weights: its checkpoint; None if it comes with weights.
        teacher_share: share of the loss that its answers have, from 0 to 1.
        temperature: see :class:`.Teacher`.
        data_preprocessor: config of the module that moves a batch to the device. By default it is an
            :class:`.ImagePreprocessor`. One that changes images needs transforms with ``on_device=False``.

    Raises:
        ConfigError: there is no choice between classes, the network gives no answer for the whole image, or an argument
            does not fit the others.
    """

    task: ClassVar[str] = "classification"
    fixed_shapes: ClassVar[bool] = True  # all images of a training have one size

    def __init__(
        self,
        backbone: dict,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        mix_prob: float = 1.0,
        class_weight: Sequence[float] | Literal["balanced"] | None = None,
        focal_gamma: float = 0.0,
        multi_label: bool = False,
        binary: bool = False,
        teacher: dict | None = None,
        teacher_weights: str | None = None,
        teacher_share: float = 0.5,
        temperature: float = 1.0,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "ssm_train.ImagePreprocessor"})
        if backbone.get("global_pool") == "":
            raise ConfigError(
                "model.backbone.global_pool='' gives logits for every token, and a classifier answers for the whole "
                "image: choose 'avg', 'max', 'avgmax' or 'catavgmax'"
            )
        self.backbone = MODELS.build(backbone)
        self._frozen = frozen_modules(self.backbone, [p for p in self.backbone.parameters() if not p.requires_grad])
        self.num_classes = self.backbone.num_classes
        self.multi_label = multi_label
        self.binary = binary or multi_label
        if self.num_classes < 2 and not multi_label:
            raise ConfigError(
                f"nothing can be learnt of a choice with model.backbone.num_classes={self.num_classes}: give the "
                "images without the class a class of their own and set 2, or, for a question of yes or no by a single "
                "output, take an ImageList in which some images have no class, and set model.multi_label=True"
            )
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.balanced = class_weight == "balanced"
        # No buffer: checkpoints fit models of other weights, and averaged models have none.
        self.class_weight = None if self.balanced else self._weights(class_weight)
        self.teacher: Teacher | None = None  # built by `start`, since only training needs it
        self.teacher_config = None if teacher is None else (teacher, teacher_weights, self.num_classes, temperature)
        self.teacher_share = teacher_share
        self.started = not self.balanced and teacher is None
        self.mixup = None
        if mixup_alpha > 0 or cutmix_alpha > 0:
            if multi_label:
                raise ConfigError("mixup and CutMix mix images of one class: set both to 0 or model.multi_label=False")
            self.mixup = Mixup(
                mixup_alpha, cutmix_alpha, prob=mix_prob, label_smoothing=label_smoothing, num_classes=self.num_classes
            )
        self.soft_loss = SoftTargetCrossEntropy()
        self.hard_loss = LabelSmoothingCrossEntropy(label_smoothing)

    def _weights(self, class_weight: Sequence[float] | str | None) -> Tensor | None:
        if class_weight is None:
            return None
        if isinstance(class_weight, str) or not are_weights(class_weight, self.num_classes):
            raise ConfigError(
                f"model.class_weight is 'balanced' or one finite number from 0 on for each of the {self.num_classes} "
                f"classes, not {class_weight!r}"
            )
        return torch.tensor(class_weight, dtype=torch.float32)

    def start(self, dataset: Dataset) -> None:
        """Count the images of each class if the weights are to be balanced, and load the teacher if there is one.

        Args:
            dataset: the training data.

        Raises:
            ConfigError: the dataset does not know the classes of its images, or see :class:`.Teacher`.
            CheckpointError: see :class:`.Teacher`.
        """
        names = getattr(dataset, "metainfo", {}).get("classes")
        if self.balanced:
            counts = class_counts(dataset)
            self.class_weight = balanced_weights(counts, len(dataset), self.binary)
            if missing := [name for name, count in zip(names, counts, strict=True) if count == 0]:
                MMLogger.get_current_instance().warning(
                    f"the training data have no image of {len(missing)} classes, whose weight is 0: {listed(missing)}"
                )
        if self.class_weight is not None and names is not None:
            pairs = zip(names, self.class_weight.tolist(), strict=True)
            weights = ", ".join(f"{name} {weight:.4g}" for name, weight in pairs)
            MMLogger.get_current_instance().info(f"weights of the classes: {weights}")
        if self.teacher_config is not None:
            self.teacher = Teacher(*self.teacher_config)
        self.started = True

    def train(self, mode: bool = True) -> "ImageClassifier":
        """Choose between training and evaluation. Parts of the backbone that came frozen stay in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def init_weights(self) -> None:
        """Do nothing. Networks initialise themselves when they are built, and mmengine would initialise some again."""

    def forward(
        self,
        inputs: Tensor,  # [B, C, H, W]
        data_samples: dict[str, Any] | None = None,
        mode: Literal["tensor", "loss", "predict"] = "tensor",
        drawn: dict[str, Any] | None = None,
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Logits [B, num_classes], the training loss, or the predictions that metrics take.

        Args:
            inputs: normalised images.
            data_samples: ``label`` [B] and ``unreadable``, as :func:`.collate_images` gives them.
            mode: ``"tensor"`` for the logits, ``"loss"`` for the loss, ``"predict"`` for the predictions.
            drawn: what is still to be done to unfinished images. Only a preprocessor of another kind leaves it.

        Raises:
            ConfigError: a preprocessor has changed unfinished images, mixing is on and the batch has an odd number of
                images, or see :func:`.logits_of`.
        """
        if drawn is not None:
            if inputs.dtype != torch.uint8:
                raise ConfigError(
                    f"{type(self.data_preprocessor).__name__} changes images that are still to be augmented: take an "
                    "ImagePreprocessor as model.data_preprocessor, or set "
                    "train_dataloader.dataset.transform.on_device=False"
                )
            inputs = finish(inputs, drawn)
        if mode == "loss":
            return self.loss(inputs, data_samples["label"])
        logits = logits_of(self.backbone, inputs, "model.backbone")
        if mode == "tensor":
            return logits
        problems = problems_of(data_samples)
        logits = logits.float()
        columns = {
            "scores": logits,
            "probabilities": logits.sigmoid() if self.binary else logits.softmax(1),
            "label": data_samples["label"],
            "index": data_samples.get("index", range(len(logits))),  # of the images in their dataset
        }
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True), unreadable=problems.get(i, "")) for i, row in enumerate(rows)]

    def loss(
        self,
        inputs: Tensor,  # [B, C, H, W]
        label: Tensor,  # [B], or [B, classes] of several labels
    ) -> dict[str, Tensor]:
        """The loss, over mixed images if mixing is on.

        Raises:
            ConfigError: mixing is on and the batch has an odd number of images, or see :func:`.logits_of`.
        """
        if (label.ndim == 2) != self.multi_label:
            raise ConfigError(
                f"the images have {'several classes' if label.ndim == 2 else 'one class'} each: set "
                f"model.multi_label={label.ndim == 2}"
            )
        if not self.started:
            raise ConfigError("balanced weights and teachers need the hook ModelStartHook in default_hooks")
        target = label
        if self.mixup is not None:
            inputs, target = self._mixed(inputs, label)
        logits = logits_of(self.backbone, inputs, "model.backbone").float()
        loss = self._loss_of(logits, target)
        if self.teacher is None:
            return {"loss": loss}
        share = self.teacher_share
        taught = self.teacher.loss(logits, inputs, self.binary)
        return {"loss_labels": (1 - share) * loss, "loss_teacher": share * taught}

    def _mixed(self, inputs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        if len(inputs) % 2:
            raise ConfigError(
                f"mixup and CutMix pair images, and a batch has {len(inputs)}: make train_dataloader.batch_size even "
                "and set train_dataloader.drop_last=True"
            )
        with torch.no_grad():
            return self.mixup(inputs.clone(), label)

    def _loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.class_weight is not None:
            self.class_weight = self.class_weight.to(logits.device)
        if self.binary:
            if target.ndim == 1:
                target = F.one_hot(target, self.num_classes)
            if not self.mixup:
                target = target * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
            return binary_cross_entropy(logits, target.to(logits.dtype), self.class_weight, self.focal_gamma)
        if self.class_weight is None and not self.focal_gamma:
            return (self.hard_loss if target.ndim == 1 else self.soft_loss)(logits, target)
        return cross_entropy(logits, target, self.label_smoothing, self.class_weight, self.focal_gamma)
