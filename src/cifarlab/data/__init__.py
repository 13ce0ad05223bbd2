"""Data: from files to batches on a device.

- `catalogue`: data sets by name; `cifar10`, `digits` and `own` are their loaders.
- `dataset`: the types `Dataset` and `Data`; dropping, merging and splitting.
- `download` gets a file over the network; `archives` decodes CIFAR-10's files; `images` reads image files.
- `batches`: data on a device, the order of an epoch, and the random numbers of a step; `augment`: random augmentation.
- `quality`: checks, duplicates, likely label errors and outliers.
"""
