"""Summaries: `Summarizer` and what it is made of."""

from chatglm.apps.summarize.summarizer import Summarizer
from chatglm.apps.summarize.task import Summary

__all__ = ["Summarizer", "Summary"]
