"""relprop inside other libraries; each module needs only what its library brings, and imports none of them.

`relprop.integrations.quantus`   `explain_func` for the metrics of Quantus
"""
