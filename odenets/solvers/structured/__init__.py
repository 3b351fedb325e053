"""Methods for fields of known structure, which are no combination of stages; `method` is what they share.

`exponential` (with `phi`) takes a `semilinear_field`, `splitting` a `separable_field`; the steps of `reversible`
methods can be taken back.
"""
