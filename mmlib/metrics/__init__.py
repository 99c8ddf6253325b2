"""What is measured: recognition, LgEval's file layout, intervals, and where attention lies."""

from mmlib.metrics.recognition import Score, score

__all__ = ["Score", "score"]
