"""What is measured: recognition, LgEval's file layout, intervals, and where attention lies."""

from mmlib.measure.recognition import Score, score

__all__ = ["Score", "score"]
