"""Implicit methods: their equations, the solvers of those, and gradients by the implicit function theorem.

Read in this order: `linear` (matrices I - h gamma J and their factors), `nonlinear` with `newton` and `fixed_point`,
`stages`, `gradient`; then the methods: `runge_kutta`, `collocation`, `rosenbrock` (with `slopes`), `imex` (with
`split_field`), `bdf`, `switching`; and states of a special form: `complex_states`, `mass_matrix`, `integrals`.
"""
