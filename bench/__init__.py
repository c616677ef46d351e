"""Compares the service with what an operator would otherwise run: `python -m bench`.

In reading order: `exchange` (the simulated one, made fast), `tls` (its certificate), `contenders`,
`measure` (processes, Redis and their traffic), `programs` (how each contender is run), `freshness`
(a reader), `hour` (extrapolates a window to an hour), `phases` (what is measured when), `report`
(figures, bars, docs/benchmarks.md), and `__main__`, the program.
"""
