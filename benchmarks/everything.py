"""All benchmarks, one after the other, in one go: the tables of README.md.

python benchmarks/everything.py [--quick] > tables.md
"""

from __future__ import annotations

import sys

import attention
import cost_of_layers
import integrated_gradients
import memory
import planning
import scoring
import slopes

if __name__ == "__main__":
    costs = (cost_of_layers, attention, scoring, memory, integrated_gradients, slopes)
    for each in (*costs, planning):
        print(f"\n## {each.__name__}\n", flush=True)
        each.main(sys.argv[1:])
