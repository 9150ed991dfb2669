"""Training and testing on mmengine's Runner. Import what you need from the modules: nothing is imported here.

Only the stand-in for mmcv's operators is made known (:mod:`.mmcv_fallback`), before anything imports mmdet.
"""

from ssm_core.engine import mmcv_fallback

mmcv_fallback.install()
