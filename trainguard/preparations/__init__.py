"""Preparations: what must be known before a start is found out by a child, beside the watchdog."""

from trainguard.preparations.asking import Preparation

__all__ = ("Preparation",)
