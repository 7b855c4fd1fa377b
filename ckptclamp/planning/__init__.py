"""How rules and declarations become a plan.

`rules` matches a spec's rules with tensors, `declarations` takes what the checkpoint's own model
says, `axes` finds out what one unit is, `lints` looks for axes that were probably not meant.
"""
