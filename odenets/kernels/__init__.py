"""Per-step operators, each in a folder of its own: `reference.py` (the definition), `triton.py` (the kernels), `op.py`
(what to call: picks the backend, knows its gradient), and a README with equations, backward and bytes moved.
"""

if __name__ != "odenets.kernels":
    raise ImportError(
        f"import odenets.kernels, not {__name__}: the top-level folder 'kernels' is a link into the package."
    )
