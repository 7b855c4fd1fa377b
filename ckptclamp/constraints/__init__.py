"""The mathematics: one small class for each set that a unit of weights can be held in.

`base` says what a constraint is, `movement` how a projection moves weights; `norms`, `linear`, `l1`,
`sparsity`, `matrices`, `subspaces` and `whole` are the built-in ones; `custom` takes in a user's own;
`spectra` proves what matrices are judged by; `registry` finds constraints by name; `tolerance` says how
near is near enough.
"""
