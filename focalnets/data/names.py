"""Names of data sets without a path, and suffixes of data files. Imports nothing."""

# Data sets from keras.datasets and their class names (None for numbers). Keras downloads them once and caches
# them below ~/.keras/datasets.
KERAS_DATASETS = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": None,
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}

# These names take precedence over folders: "./digits" is the folder.
NAMES = ("digits", *KERAS_DATASETS)

TABLE_SUFFIXES = (".csv", ".tsv")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def kind_of_data_file(name):
    """Describe a file that may hold a data set by its suffix. None for all other names.

    >>> from focalnets.data.names import kind_of_data_file
    >>> kind_of_data_file("photos.ZIP"), kind_of_data_file("cat.jpg")
    ('an archive', None)
    """
    name = str(name).lower()
    if name.endswith((".zip", *TAR_SUFFIXES)):
        return "an archive"
    if name.endswith(TABLE_SUFFIXES):
        return "a table"
    return "a file of arrays" if name.endswith(".npz") else None
