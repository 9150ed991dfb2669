"""What segmentation needs over mmsegmentation; importing a module of this package imports mmseg."""
