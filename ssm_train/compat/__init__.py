"""What other packages need before they can be used here: mmcv without compiled operators, and a quicker start."""
