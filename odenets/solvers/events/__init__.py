"""Events: `event` (what is watched), `roots` (where it happens), `stepping` (what follows in the loops), and `segments`
(events of solves that hide their steps).
"""
