"""Merging what a segmentor finds in several versions of an image."""

from collections.abc import Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample


class AugmentedSegmentor(SegTTAModel):
    """mmseg's mean of the probabilities, which is right for a single channel, too.

    mmseg takes the sigmoid of a single channel when it predicts, and a second time when it merges. And it leaves the
    logits of one version beside the merged classes; here they are the merged ones.
    """

    def merge_preds(self, data_samples_list: Sequence[Sequence[SegDataSample]]) -> list[SegDataSample]:
        """Average the probabilities of every image. The result is the sample of its first version."""
        merged = []
        for samples in data_samples_list:
            found = [sample.seg_logits.data for sample in samples]
            if len(found[0]) > 1:
                found = [logits.softmax(0) for logits in found]
            mean = torch.stack(found).mean(0)
            labels = mean.argmax(0, keepdim=True) if len(mean) > 1 else (mean > self.module.decode_head.threshold)
            # As in a prediction without versions, several channels are logits and a single one is a probability.
            scores = mean.clamp_min(torch.finfo(mean.dtype).tiny).log() if len(mean) > 1 else mean
            samples[0].set_data(
                {"pred_sem_seg": PixelData(data=labels.to(torch.int64)), "seg_logits": PixelData(data=scores)}
            )
            merged.append(samples[0])
        return merged
