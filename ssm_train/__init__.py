"""Training, testing and everything else that stands on mmengine. Import what you need from the modules.

Importing this package does the two things that have to happen before mmengine and mmdet are imported. It announces the
substitute for mmcv's operators (:mod:`.compat.mmcv`). It announces that mmengine's optimizers are imported without
transformers, which takes long to import (:mod:`.compat.quick_start`). Neither imports torch or mmengine.
"""

from ssm_train.compat import mmcv, quick_start

mmcv.install()
quick_start.install()
