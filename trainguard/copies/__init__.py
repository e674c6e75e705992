"""Copies: verified copies of checkpoints that the trainer writes over in place, kept beside the run's records.

`.asking` is what the watchdog needs while it idles, `.keeping` what a child of it does with the files.
"""
