"""How rules and declarations become a plan.

`rules` matches a spec's rules with tensors, `declarations` takes what the checkpoint's own model
says. `names` knows by which names a tensor may be meant, `matching` which tensors patterns govern,
`exact` finds the patterns that govern some tensors and no others. `axes` finds out what one unit is,
`lints` looks for axes that were probably not meant.
"""
