"""How fast: side by side, in one run, on real servers at their safe settings.

Measuring: `side` is one way of doing the work in a process of its own, `process` the half that asks it, `bursts`
the turns and their ratios, `processors` and `packets` what is read from the kernel, `servers` the databases.

Sides: `shop` (orders, ours and plain), `trio` (three steps, ours), `dbos_side`, `restate_side`, `http_side`.

Parts, each runnable alone with `python -m benchmarks.NAME [--short]`: `against_plain`, `refusals`, `over_http`,
`against_peers`, `on_mongo`, `recovery`, `growth`, `memory`, `routing`. `__main__` runs all of them, `quick` a
selection. `page`, `tables` and `plots` make the page of a result.
"""
