"""Investigation: logs, the watchdog's incidents, the kernel log and the GPUs together become crashes.

Which parts are to be read (`sources`) is known without what reads and judges them (`investigating`), which takes a
while to load: a scan with nothing new does without.
"""
