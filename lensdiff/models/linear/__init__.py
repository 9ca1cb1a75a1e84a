"""The derivative of a model's blocks along many directions at once, without automatic differentiation.

`plan` and `scores` measure of which forms (`forms`) a model's blocks are, on what a pass had of them (`seen`);
`tangents` has their derivatives as matrix products, `passes` strings them together in one pass, `push` says whether a
model's derivative is known so.
"""
