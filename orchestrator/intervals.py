"""How often to save: the interval that loses least, from what a save costs and how often work is lost.

T = sqrt(2 * cost * time between losses): J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9),
1974; J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006, whose higher
terms matter only where a save costs more than a tenth of the time between losses.
"""

from __future__ import annotations

import math

LEAST_S, MOST_S = 10.0, 3600.0
UNKNOWN_LOSS_S = 3600.0


def save_every(cost_s: float, loss_every_s: float | None, upload_s: float = 0.0) -> float:
    """Seconds between two saves, 10 s to 1 h and never less than `upload_s`, the time until a save is whole in the store.

    `cost_s`: how long the step waits for a save; `loss_every_s`: expected time between losses, None where nobody knows (1 h).
    """
    between = UNKNOWN_LOSS_S if loss_every_s is None else loss_every_s
    best = math.sqrt(2.0 * max(cost_s, 0.0) * max(between, 0.0))
    return max(min(max(best, LEAST_S), MOST_S), upload_s)
