"""Names of the data sets that need no path, free of everything else."""

# Data sets that Keras' own loaders serve, with their class names (None: numbers). Keras downloads them once
# and caches them below ~/.keras/datasets.
KERAS_DATASETS = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": None,
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}

# These names go before folders of that name: ./digits is the folder.
NAMES = ("digits", *KERAS_DATASETS)
