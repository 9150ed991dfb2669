"""Training and testing on mmengine's Runner. Import what you need from the modules: nothing of theirs is imported here.

What has to come before mmengine and mmdet are imported is done: the stand-in for mmcv's operators is made known
(:mod:`.mmcv_fallback`), and mmengine's optimizers are imported without a package that takes long (:mod:`.quick_start`).
"""

from ssm_core.engine import mmcv_fallback, quick_start

mmcv_fallback.install()
quick_start.import_optimizers()
