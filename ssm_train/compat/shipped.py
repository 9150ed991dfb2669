"""Where the configs are that come with the package. Importing this is fast: it needs the standard library alone."""

from pathlib import Path

import ssm_train

# The folder that OpenMMLab's tools look into. In the repository it is a link to configs/.
SHIPPED = Path(ssm_train.__file__).with_name(".mim") / "configs"
OURS = f"{ssm_train.__name__}::"  # what a base of these begins with
