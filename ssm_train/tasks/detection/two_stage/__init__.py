"""Detectors of two stages whose training step does not wait for the device."""
