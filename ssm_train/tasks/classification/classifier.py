"""Image classifiers with mmengine's model interface, timm's losses, mixup and CutMix."""

from typing import Any, ClassVar, Literal

import torch
from mmengine.model import BaseModel
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.data.collate import problems_of
from ssm_train.registry import MODELS


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A network that maps images to logits, trained by cross entropy.

    Args:
        backbone: config of the network with its head, such as ``dict(type="quadtree_ssm.QuadMamba", arch="tiny")`` or
            ``dict(type="timm", name="resnet18")``. The network needs an attribute ``num_classes``.
        label_smoothing: share of the target that is spread over all classes.
        mixup_alpha: parameter of the Beta distribution from which mixup draws its weights; 0 for no mixup.
        cutmix_alpha: the same for CutMix. If both are on, each batch gets one of the two at random.
        mix_prob: probability that a batch is mixed.
        data_preprocessor: config of the module that moves a batch to the device. By default it is mmengine's, which
            does not wait for the copy.
    """

    task: ClassVar[str] = "classification"

    def __init__(
        self,
        backbone: dict,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        mix_prob: float = 1.0,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "BaseDataPreprocessor", "non_blocking": True})
        self.backbone = MODELS.build(backbone)
        self.num_classes = self.backbone.num_classes
        self.mixup = None
        if mixup_alpha > 0 or cutmix_alpha > 0:
            self.mixup = Mixup(
                mixup_alpha, cutmix_alpha, prob=mix_prob, label_smoothing=label_smoothing, num_classes=self.num_classes
            )
        self.soft_loss = SoftTargetCrossEntropy()
        self.hard_loss = LabelSmoothingCrossEntropy(label_smoothing)

    def init_weights(self) -> None:
        """Do nothing. Networks initialise themselves when they are built, and mmengine would initialise some again."""

    def forward(
        self,
        inputs: Tensor,  # [B, C, H, W]
        data_samples: dict[str, Any] | None = None,
        mode: Literal["tensor", "loss", "predict"] = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Logits [B, num_classes], the training loss, or the predictions that metrics take.

        Args:
            inputs: normalised images.
            data_samples: ``label`` [B] and ``unreadable``, as :func:`.collate_images` gives them.
            mode: ``"tensor"`` for the logits, ``"loss"`` for the loss, ``"predict"`` for the predictions.

        Raises:
            ConfigError: mixing is on and the batch has an odd number of images.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples["label"])
        logits = self.backbone(inputs)
        if mode == "tensor":
            return logits
        problems = problems_of(data_samples)
        index = data_samples.get("index", range(len(logits)))  # of the images in their dataset
        rows = enumerate(zip(logits.float(), data_samples["label"], index, strict=True))
        return [
            {"scores": scores, "label": label, "index": own, "unreadable": problems.get(i, "")}
            for i, (scores, label, own) in rows
        ]

    def loss(
        self,
        inputs: Tensor,  # [B, C, H, W]
        label: Tensor,  # [B]
    ) -> dict[str, Tensor]:
        """Cross entropy, over mixed images if mixing is on.

        Raises:
            ConfigError: mixing is on and the batch has an odd number of images.
        """
        if self.mixup is None:
            return {"loss": self.hard_loss(self.backbone(inputs).float(), label)}
        if len(inputs) % 2:
            raise ConfigError(
                f"mixup and CutMix pair images, and a batch has {len(inputs)}: make train_dataloader.batch_size even "
                "and set train_dataloader.drop_last=True"
            )
        with torch.no_grad():
            inputs, target = self.mixup(inputs.clone(), label)
        return {"loss": self.soft_loss(self.backbone(inputs).float(), target)}
