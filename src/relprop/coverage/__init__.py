"""Which models of a zoo can be explained: each is captured, explained, its ledger checked.

A zoo is `torchvision`, `timm`, `transformers`, or a Python file with `MODELS`, a dict from a name to a function that
returns a module and inputs for it.
"""
