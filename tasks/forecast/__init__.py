"""The forecast behind `nightreel plan`: cost and time of a batch, before anything is sent.

`forecast` runs the same policies as a batch on simulated lanes (`lane_model`), whose clock
does not tick. Each job takes the typical time of its lane: the median of earlier ledgers, or
else the catalogue's. A simulated lane keeps the slots, the submits per minute and per day,
the hours, the daily cap on money, and the learned limits of the real one. The result has the
jobs, cost and end of each lane, the jobs that no lane can make or that would be late, and the
same batch on each lane alone.
"""

from tasks.forecast.forecast import Alone, Forecast, Share, bounds, in_turn, typical

__all__ = [
    "Alone",
    "Forecast",
    "Share",
    "bounds",
    "in_turn",
    "typical",
]
