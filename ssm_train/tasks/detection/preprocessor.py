"""mmdet's preprocessor for images of any number of channels."""

from mmdet.models import DetDataPreprocessor

from ssm_train.tasks.preprocessing import AnyChannels


class AnyDetDataPreprocessor(AnyChannels, DetDataPreprocessor):
    """mmdet's preprocessor; ``mean`` and ``std`` have a number for each channel, however many there are."""
