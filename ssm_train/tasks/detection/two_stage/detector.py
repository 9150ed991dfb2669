"""mmdet's detectors of two stages with a training step that does not wait for the device."""

from collections.abc import Sequence
from typing import Any

from mmdet.models.detectors import TwoStageDetector
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.objects import Objects
from ssm_train.tasks.detection.two_stage.roi_heads import FastCascadeRoIHead, FastRoIHead
from ssm_train.tasks.detection.two_stage.rpn import FastRPNHead, check_proposals


class FastTwoStageDetector(TwoStageDetector):
    """mmdet's ``FasterRCNN``, ``MaskRCNN`` and ``CascadeRCNN`` with a faster training step.

    In training, all images are handled at once, by tensors whose sizes do not depend on their values, so that the host
    never waits for the device. With ``compile``, the neck and the heads are compiled with the backbone. Predictions,
    weights and their names are those of mmdet.

    Args:
        settings: the arguments of mmdet's class. ``rpn_head`` is a :class:`.FastRPNHead`, and ``roi_head`` is a
            :class:`.FastRoIHead` or a :class:`.FastCascadeRoIHead`.

    Raises:
        ConfigError: a head is another one.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        if not isinstance(getattr(self, "rpn_head", None), FastRPNHead):
            raise ConfigError(
                "FastTwoStageDetector needs an rpn_head of type ssm_train.tasks.detection.FastRPNHead: with another "
                "one, use mmdet's FasterRCNN, MaskRCNN or CascadeRCNN as the type of the model"
            )
        if not isinstance(getattr(self, "roi_head", None), FastRoIHead | FastCascadeRoIHead):
            raise ConfigError(
                "FastTwoStageDetector needs a roi_head of type ssm_train.tasks.detection.FastRoIHead or "
                "FastCascadeRoIHead: with another one, use mmdet's FasterRCNN, MaskRCNN or CascadeRCNN as the type of "
                "the model"
            )
        if self.train_cfg is not None:
            check_proposals(self._proposal_settings)
        # They map tensors to tensors and see few shapes. The heads of the second stage are compiled by themselves.
        for module in [self.rpn_head, *([self.neck] if self.with_neck else [])]:
            module.compiles_with_backbone = True

    @property
    def _proposal_settings(self) -> ConfigDict:
        settings: ConfigDict = self.train_cfg.get("rpn_proposal", self.test_cfg.rpn)
        return settings

    def loss(
        self,
        batch_inputs: Tensor,  # [B, C, H, W]
        batch_data_samples: Sequence[DetDataSample],
    ) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            batch_inputs: images.
            batch_data_samples: mmdet's samples with ``gt_instances``.
        """
        features = self.extract_feat(batch_inputs)
        objects = Objects.of(batch_data_samples, batch_inputs.device)
        losses, proposals = self.rpn_head.losses_and_proposals(features, objects, self._proposal_settings)
        losses.update(self.roi_head.losses(features, proposals, objects))
        return losses
