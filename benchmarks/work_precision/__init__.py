"""The table and the figures of `benchmarks/solvers.py`. Read in this order: `systems` (what is solved, and the exact
answers), `contenders` (who solves), `diffrax_process` and `diffrax_server` (diffrax, in an environment of its own),
`limits`, `rounds` (the gate, then times), `report` and `figure`."""
