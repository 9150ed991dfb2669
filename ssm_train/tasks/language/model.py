"""Language models behind mmengine's model interface: losses and perplexities of responses."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from ssm_train.registry import MODELS

IGNORED = -100


@MODELS.register_module()
class LanguageModel(BaseModel):
    """A causal language model trained on responses, or on plain text as one whose prompt is empty.

    Args:
        backbone: config of the network, head included, with transformers' interface and an argument ``context_len``,
            such as ``dict(type="tree_ssm.language.load_network", path=...)``.
        data_preprocessor: config of what moves a batch to the device; mmengine's own by default, not waiting for it.
    """

    task: ClassVar[str] = "language"

    def __init__(self, backbone: dict, data_preprocessor: dict | None = None):
        super().__init__(data_preprocessor or {"type": "BaseDataPreprocessor", "non_blocking": True})
        self.backbone = MODELS.build(backbone)

    def init_weights(self) -> None:
        """Nothing: the network comes with its weights, which mmengine would draw anew."""

    def forward(
        self,
        inputs: Tensor,  # [B, L]
        data_samples: dict[str, Any],
        mode: Literal["tensor", "loss", "predict"] = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Logits [B, L, vocabulary], the mean loss of the response tokens, or what the metrics take.

        Args:
            inputs: tokens, padded on the right.
            data_samples: ``attention_mask`` [B, L] and ``context_len`` [B].
            mode: which of the three.
        """
        mask, context = data_samples["attention_mask"], data_samples["context_len"]
        place = torch.arange(inputs.shape[1], device=inputs.device)
        labels = inputs.masked_fill((place < context.unsqueeze(1)) | (mask == 0), IGNORED)
        if mode == "loss":
            out = self.backbone(
                input_ids=inputs, attention_mask=mask, context_len=context, labels=labels, use_cache=False
            )
            return {"loss": out.loss}
        logits = self.backbone(input_ids=inputs, attention_mask=mask, context_len=context, use_cache=False).logits
        if mode == "tensor":
            return logits
        targets = labels[:, 1:]
        # By rows: a batch's logarithms would be a second tensor of the size of its logits.
        losses = [
            F.cross_entropy(row[:-1].float(), target, ignore_index=IGNORED, reduction="sum")
            for row, target in zip(logits, targets, strict=True)
        ]
        return [{"nll": nll, "tokens": tokens} for nll, tokens in zip(losses, (targets != IGNORED).sum(1), strict=True)]
