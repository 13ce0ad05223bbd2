# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From pictures to predictions
#
# Sixty thousand small pictures, a network that learns to tell ten kinds of things apart, and the questions that decide
# whether to believe it: what does it confuse, how sure is it, and is one network really better than another? Everything
# here runs on two processor cores in less than five minutes.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from IPython.display import Image, display
from PIL import Image as Pillow

import cifarlab
from cifarlab import figures
from cifarlab.data.augment import samples
from cifarlab.figures import mosaics
from cifarlab.models.summary import draw, layer_table

runs = Path(mkdtemp(prefix="cifarlab-"))  # everything that is trained here goes there


def show(figure):
    display(Image(figures.to_bytes(figure, "png")))


# %% [markdown]
# ## The pictures
#
# CIFAR-10 is fetched once, checked, and kept. Images are bytes, `[n, 3, 32, 32]`; labels are whole numbers.

# %%
data = cifarlab.load_data("cifar10")
print(data.train.images.shape, data.train.images.dtype, "to train on;", len(data.test), "to test on")
show(mosaics.class_samples(samples(data.train, columns=12, seed=0), data.classes, "CIFAR-10: some of each class"))

# %% [markdown]
# ## A small network
#
# Two convolutions and three dense layers, in the manner of LeNet-5. The table says what happens to the data on the way,
# and where the weights are: most of them are in the first dense layer.

# %%
network = cifarlab.build_model("lenet5-3x3")
print(draw("lenet5-3x3", layer_table(network, 32), 32))

# %% [markdown]
# ## Training, live
#
# The recipe is the one of a published experiment, but honest: 5,000 of the training images are kept aside to look at
# after every epoch, and the test images are touched once, at the end. Curves and confusion matrix below are
# redrawn after each epoch.

# %%
honest = {"train_on": "split", "validate_on": "validation", "keep": "best"}
recipe = cifarlab.recipe("relabel/cifar10").changed({**honest, "epochs": 4})
small = cifarlab.train(recipe, name="small", runs=runs)

# %% [markdown]
# Every number is there to be computed with. `history` has a row an epoch, `confusion` a matrix an epoch.

# %%
for row in small.history:
    print(f"epoch {row.epoch}: training {row.train_accuracy:.1%}, validation {row.validation_accuracy:.1%}")
print(small.confusion.shape)

# %% [markdown]
# ## What it confuses
#
# Rows are what the pictures are, columns what the network says. Accuracy hides that some classes are much harder.

# %%
evaluation = small.evaluate()
print(f"test accuracy {evaluation.accuracy:.2%}")
for row in sorted(evaluation.per_class, key=lambda row: row.recall):
    print(f"{row.name:12} recall {row.recall:.1%}  precision {row.precision:.1%}")
show(figures.confusion_matrix(evaluation.confusion, evaluation.classes, "Test images, small network"))

# %% [markdown]
# ## A better network
#
# The same data, the same two cores, another design: whitened patches, wide convolutions, an optimizer that learns every
# direction at the same pace. One epoch here; the recipe has three, and then 90 % are right.

# %%
fast = cifarlab.train(cifarlab.recipe("fast90", epochs=1), name="fast", runs=runs)
print(fast)

# %% [markdown]
# ## Is it really better?
#
# Two networks answered the same 10,000 test images. McNemar's test looks only at the images on which they disagree.
# It knows nothing of other seeds: for a claim about recipes rather than about these two networks, train each with
# several seeds, and `compare` uses Welch's test.

# %%
(pair,) = cifarlab.compare([small, fast]).pairs
print(f"{pair.b} - {pair.a}: {pair.found.difference:+.2%}, p = {pair.found.p:.2g}, real: {pair.real}")

# %% [markdown]
# ## Predictions
#
# Any picture file will do; here are some test images, written to disk as if they came from a camera. The name of each
# file is its true class.

# %%
photos = []
for number in range(8):
    name = data.classes[data.test.labels[number]]
    photos.append(runs / f"{name}-{number}.png")
    Pillow.fromarray(np.ascontiguousarray(data.test.images[number].transpose(1, 2, 0))).save(photos[-1])
for found in fast.predict(photos):
    print(f"{Path(found.image).name:18} {found.label:12} {found.probability:.0%}")

# %% [markdown]
# ## Where to go from here
#
# Each run left a folder with weights, figures, a model card and a page with everything on it:

# %%
print(fast.report)
print(sorted(path.name for path in fast.path.iterdir() if not path.name.startswith(".")))

# %% [markdown]
# - `cifarlab recipes` lists what else there is to train, and `cifarlab train fast94` reaches 94 %.
# - `cifarlab reproduce relabel --quick` repeats a published experiment over seeds, and sets the figures side by side.
# - `cifarlab train --data folder:pets` trains on your own pictures.
