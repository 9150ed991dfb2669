"""Training, testing and everything else that stands on mmengine. Import what you need from the modules.

Importing this package does what has to happen before mmengine and mmdet are imported. It announces the substitute for
mmcv's operators (:mod:`.compat.mmcv`). It imports mmengine's optimizers without transformers, which takes long to
import (:mod:`.compat.quick_start`). It lets mmengine find mmseg under any distribution name (:mod:`.compat.mmseg`).
"""

from ssm_train.compat import mmcv, mmseg, quick_start

mmcv.install()
quick_start.import_optimizers()
mmseg.accept_any_distribution()
