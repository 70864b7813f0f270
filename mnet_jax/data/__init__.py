"""Images and their targets: where they come from, which of them a seed trains on, and how they reach the step.

Each file imports only files named before it:

transforms  one encoded image to pixels on the host: decode, crop, resize, RandAugment.
augment     augmentation of a batch on the device, inside the step.
disk        data sets on disk: prepared by TFDS, or folders of images by class.
dataset     the record `Dataset`, the split and the order of an epoch.
builtin     digits, Fashion-MNIST and CIFAR-10 from their original files.
load        a data set by its name or by the config.
pipeline    batches that are read and cropped on the host.
prepare     the command that downloads, stores and measures.
"""
