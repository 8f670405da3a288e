"""Experiments of the papers, from data to report.

`binder2016`   Binder et al. 2016: local response normalization by Taylor expansion or as the identity, by pixel
               flipping: `methods` compared, `studies` in chunks, `neighbours` what happens inside; `tables`,
               `figures`, `report`
`images`       labelled image sets from folders, archives and torchvision's CIFAR-10
"""
