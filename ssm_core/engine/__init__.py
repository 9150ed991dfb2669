"""Training and testing on mmengine's Runner. Import what you need from the modules: nothing is imported here."""
