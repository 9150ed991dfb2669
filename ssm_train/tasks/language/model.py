"""Language models with mmengine's model interface: the loss and the log-likelihood of responses."""

from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from ssm_train.registry import MODELS

IGNORED = -100


@MODELS.register_module()
class LanguageModel(BaseModel):
    """A causal language model that is trained on responses. Plain text is a response to an empty prompt.

    Args:
        backbone: config of the network with its head. The network needs transformers' interface and an argument
            ``context_len``. An example is ``dict(type="tree_ssm.language.load_network", path=...)``.
        data_preprocessor: config of the module that moves a batch to the device. By default it is mmengine's, which
            does not wait for the copy.
    """

    task: ClassVar[str] = "language"

    def __init__(self, backbone: dict, data_preprocessor: dict | None = None):
        super().__init__(data_preprocessor or {"type": "BaseDataPreprocessor", "non_blocking": True})
        self.backbone = MODELS.build(backbone)

    def init_weights(self) -> None:
        """Do nothing. The network is loaded with its weights, and mmengine would initialise them again."""

    def blocks(self) -> list[nn.Module]:
        """The layers of the network, which run one after the other and are sharded one by one."""
        from transformers.modeling_layers import GradientCheckpointingLayer  # other tasks do not need transformers

        return [module for module in self.backbone.modules() if isinstance(module, GradientCheckpointingLayer)]

    def forward(
        self,
        inputs: Tensor,  # [B, L]
        data_samples: dict[str, Any],
        mode: Literal["tensor", "loss", "predict"] = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Logits [B, L, vocabulary], the mean loss of the response tokens, or the predictions that metrics take.

        Args:
            inputs: tokens, padded on the right.
            data_samples: ``attention_mask`` [B, L] and ``context_len`` [B]; for a loss or predictions also ``labels``
                [B, L], which are -100 outside of the responses.
            mode: ``"tensor"`` for the logits, ``"loss"`` for the loss, ``"predict"`` for the negative log-likelihood
                and the number of response tokens of every row.
        """
        mask, context = data_samples["attention_mask"], data_samples["context_len"]
        if mode == "loss":
            out = self.backbone(
                input_ids=inputs,
                attention_mask=mask,
                context_len=context,
                labels=data_samples["labels"],
                use_cache=False,
            )
            return {"loss": out.loss}
        logits = self.backbone(input_ids=inputs, attention_mask=mask, context_len=context, use_cache=False).logits
        if mode == "tensor":
            return logits
        targets = data_samples["labels"][:, 1:]
        # Row by row, because the logarithms of a whole batch would need as much memory as its logits.
        losses = [
            F.cross_entropy(row[:-1].float(), target, ignore_index=IGNORED, reduction="sum")
            for row, target in zip(logits, targets, strict=True)
        ]
        return [{"nll": nll, "tokens": tokens} for nll, tokens in zip(losses, (targets != IGNORED).sum(1), strict=True)]
