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
# # From images to predictions
#
# A network learns to tell ten classes apart in sixty thousand small images. Then we ask what decides whether to
# believe it: which classes does it confuse, how certain is it, and is one network really better than another? The
# notebook runs in some five minutes on two processor cores with bfloat16.

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
from cifarlab.statistics.significance import p_text

runs = Path(mkdtemp(prefix="cifarlab-"))  # the folder of runs of this notebook


def show(figure):
    display(Image(figures.to_bytes(figure, "png")))


# %% [markdown]
# ## The data
#
# CIFAR-10 is downloaded once, verified and cached. Images are uint8 `[n, 3, 32, 32]`; labels are int64 `[n]`.

# %%
data = cifarlab.load_data("cifar10")
print("training images:", data.train.images.shape, data.train.images.dtype)
print("test images:", len(data.test))
show(mosaics.class_samples(samples(data.train, columns=12, seed=0), data.classes, "CIFAR-10: samples of each class"))

# %% [markdown]
# ## A small network
#
# Two convolutions and three dense layers, in the manner of LeNet-5. The table shows how the data changes shape from
# layer to layer, and where the weights are: most of them are in the first dense layer.

# %%
network = cifarlab.build_model("lenet5-3x3")
print(draw("lenet5-3x3", layer_table(network, 32), 32))

# %% [markdown]
# ## Train it
#
# The recipe is that of a published experiment, under the honest protocol: 5,000 of the training images are set aside
# for validation after every epoch, and the test images are used once, at the end. The curves and the confusion matrix
# below are redrawn after each epoch.

# %%
honest = {"train_on": "split", "validate_on": "validation", "keep": "best"}
recipe = cifarlab.recipe("relabel/cifar10").changed({**honest, "epochs": 4})
small = cifarlab.train(recipe, name="small", runs=runs)

# %% [markdown]
# Every number is available. `history` has one row for each epoch, and `confusion` has one confusion matrix for each
# epoch.

# %%
for row in small.history:
    print(f"epoch {row.epoch}: training {row.train_accuracy:.1%}, validation {row.validation_accuracy:.1%}")
print(small.confusion.shape)

# %% [markdown]
# ## What does it confuse?
#
# Rows are the true classes, columns the predicted ones. The accuracy alone hides that some classes are much harder.

# %%
evaluation = small.evaluate()
print(f"test accuracy {evaluation.accuracy:.2%}")
for row in sorted(evaluation.per_class, key=lambda row: row.recall):
    print(f"{row.name:12} recall {row.recall:.1%}  precision {row.precision:.1%}")
show(figures.confusion_matrix(evaluation.confusion, evaluation.classes, "Test images, small network"))

# %% [markdown]
# ## A better network
#
# The same data on the same two cores with another design: whitened patches, wide convolutions, and an optimizer
# (Muon) that takes equally large steps in all directions. One epoch is enough here; the recipe has three and then
# reaches 90 %.

# %%
fast = cifarlab.train(cifarlab.recipe("fast90", epochs=1), name="fast", runs=runs)
print(fast)

# %% [markdown]
# ## Is it really better?
#
# Both networks classified the same 10,000 test images. McNemar's test looks only at the images of which exactly one
# network was right. It knows nothing about other seeds. For a claim about the two recipes rather than these two
# networks, train several seeds of each; `compare` then uses Welch's test.

# %%
(pair,) = cifarlab.compare([small, fast]).pairs
print(f"{pair.b} - {pair.a}: {pair.found.difference:+.2%}, p-value {p_text(pair.found.p)}")
print(f"{pair.on_images} on these images; {pair.verdict}")

# %% [markdown]
# ## Predictions
#
# `predict` takes picture files of any size and format. Here are some test images, written to disk as if they came
# from a camera. The name of each file is its true class.

# %%
photos = []
for number in range(8):
    name = data.classes[data.test.labels[number]]
    photos.append(runs / f"{name}-{number}.png")
    Pillow.fromarray(np.ascontiguousarray(data.test.images[number].transpose(1, 2, 0))).save(photos[-1])
for prediction in fast.predict(photos):
    print(f"{Path(prediction.image).name:18} {prediction.label:12} {prediction.probability:.0%}")

# %% [markdown]
# ## Where to go from here
#
# Each run left a folder with weights, figures, a model card and a report with everything on one page:

# %%
print(fast.report)
print(sorted(path.name for path in fast.path.iterdir() if not path.name.startswith(".")))

# %% [markdown]
# - `cifarlab recipes` lists the other recipes; `cifarlab train fast94` reaches 94 %.
# - `cifarlab reproduce relabel --quick` repeats a published experiment over several seeds and compares the results.
# - `cifarlab train --data folder:pets` trains on your own pictures.
# - `cifarlab board` shows all runs in the browser.
