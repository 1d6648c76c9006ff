"""Layouts of folders, zips, tars and tables. Run this file to print the table of layouts."""

import csv
import itertools
import pathlib
import random
import re
import tarfile
import tempfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from focalnets import open_dataset
from focalnets.data.files import list_folder
from focalnets.data.layout import read_layout
from focalnets.data.left_out import DEEPER, EMPTY

# Layout -> data set. Braces are alternatives, " + " adds files, and a "/" at the end is an empty folder. All
# files are images, except those that end in .txt, .db, .ini or .DS_Store.
LAYOUTS = {
    # === Splits ===
    "{train,test}/{cat,dog}/{1,2}.png": "train: cat 2, dog 2; test: cat 2, dog 2",
    "{Training,Testing}/{cat,dog}/{1,2}.png": "train: cat 2, dog 2; test: cat 2, dog 2",
    "{Train,TEST}/{cat,dog}/1.png": "train: cat 1, dog 1; test: cat 1, dog 1",
    "{training_set,test_set}/{cat,dog}/1.png": "train: cat 1, dog 1; test: cat 1, dog 1",
    "dataset/{training_set/training_set,test_set/test_set}/{cat,dog}/1.png": (
        "train: cat 1, dog 1; test: cat 1, dog 1"
    ),
    "{seg_train/seg_train,seg_test/seg_test}/{sea,street}/1.png + seg_pred/seg_pred/{1,2}.png": (
        "train: sea 1, street 1; test: sea 1, street 1. Left out 2 images outside the split folders"
    ),
    "{train,valid,test}/{cat,dog}/1.png": "train: cat 1, dog 1; val: cat 1, dog 1; test: cat 1, dog 1",
    "{train,validation}/{cat,dog}/1.png": "train: cat 1, dog 1; val: cat 1, dog 1",
    "{train,dev}/{cat,dog}/1.png": "train: cat 1, dog 1; val: cat 1, dog 1",
    "{train2017,val2017}/{cat,dog}/1.png": "train: cat 1, dog 1; val: cat 1, dog 1",
    "{train_images,test_images}/{cat,dog}/1.png": "train: cat 1, dog 1; test: cat 1, dog 1",
    "{xray_train,xray_test}/{ill,well}/1.png": "train: ill 1, well 1; test: ill 1, well 1",
    "{train,test}/images/{cat,dog}/1.png": "train: cat 1, dog 1; test: cat 1, dog 1",
    "archive/data/{train,test}/{cat,dog}/1.png + archive/data/readme.txt": (
        "train: cat 1, dog 1; test: cat 1, dog 1. Left out 1 file that is not an image"
    ),
    "train/{cat,dog}/1.png": "train: cat 1, dog 1",
    "validation/{cat,dog}/1.png": "val: cat 1, dog 1",
    "training/{train,test}/{cat,dog}/1.png": "train: cat 1, dog 1; test: cat 1, dog 1",
    "{cat,dog}/{train,test}/{1,2}.png": "train: cat 2, dog 2; test: cat 2, dog 2",
    "train/{cat,dog}/1.png + test/{1,2,3}.png": (
        "train: cat 1, dog 1. Left out 3 images outside the class folders"
    ),
    "{train,test}/{cat,dog}/1.png + extra/cat/{1,2}.png + cover.png": (
        "train: cat 1, dog 1; test: cat 1, dog 1. Left out 3 images outside the split folders"
    ),
    "{train,test}/{cat,dog}/1.png + train/cat/more/{1,2}.png": (
        "train: cat 3, dog 1; test: cat 1, dog 1. Counted 2 images in subfolders as images of the class "
        "folders above them"
    ),
    # === Classes without splits ===
    "{cat,dog}/{1,2,3,4,5}.png": "cat 5, dog 5",
    "animals/{cat,dog}/{1,2,3}.png": "cat 3, dog 3",
    "a/b/c/{cat,dog}/{1,2,3}.png": "cat 3, dog 3",
    "{car,train}/{1,2,3}.png": "car 3, train 3",
    "{cat,dog}/{1,2,3}.png + cat/kittens/{4,5}.png": (
        "cat 5, dog 3. Counted 2 images in subfolders as images of the class folders above them"
    ),
    "{cat/cat,dog/dog}/{1,2,3}.png": "cat 3, dog 3",
    "{cat,dog}/photos/{1,2,3}.png": "cat 3, dog 3",
    "{cat,dog}/{1,2,3}.png + {cover,logo}.png": "cat 3, dog 3. Left out 2 images outside the class folders",
    "{cat,dog}/{1,2,3}.png + pink/": "cat 3, dog 3. Left out 1 folder without images",
    "{cat,dog}/{1,2,3}.png + notes/{a,b}.txt": (
        "cat 3, dog 3. Left out 2 files that are not images. Left out 1 folder without images"
    ),
    "{cat,dog}/{1,2,3}.{jfif,JPG,webp} + {cat,dog}/{4,scan.2019}": "cat 11, dog 11",
    "{cat,dog}/{1,2}.png + one/1.png": "cat 2, dog 2, one 1",
    # === Masks ===
    "{flu,well}/{images,masks}/{1,2,3}.png": "flu 3, well 3. Left out 6 segmentation masks",
    "{images,masks}/{flu,well}/{1,2,3}.png": "flu 3, well 3. Left out 6 segmentation masks",
    "{flu,well}/{1,2,3}.png + {flu,well}/masks/{1,2,3}.png": "flu 3, well 3. Left out 6 segmentation masks",
    "{flu,well}/scan{1,2,3}{,_mask,_mask_1}.png": "flu 3, well 3. Left out 12 segmentation masks",
    "train/{images,masks}/{flu,well}/1.png": "train: flu 1, well 1. Left out 2 segmentation masks",
    # === Files of operating systems, network drives and editors ===
    "{cat,dog}/{1,2,3}.png + .DS_Store + cat/{Thumbs.db,._1.png,desktop.ini}": (
        "cat 3, dog 3. Left out 4 hidden or system files and folders"
    ),
    "pets/{cat,dog}/{1,2,3}.png + __MACOSX/pets/cat/._1.png": (
        "cat 3, dog 3. Left out 1 hidden or system file or folder"
    ),
    "{cat,dog}/{1,2,3}.png + cat/@eaDir/1.png/thumb.png + #recycle/cat/4.png + $RECYCLE.BIN/5.png": (
        "cat 3, dog 3. Left out 3 hidden or system files and folders"
    ),
    "{train,test}/{cat,dog}/1.png + train/{.ipynb_checkpoints,.thumbnails}/1.png + lost+found/9.png": (
        "train: cat 1, dog 1; test: cat 1, dog 1. Left out 3 hidden or system files and folders"
    ),
    # === Labels ===
    "{cat ,cat,dog}/{1,2,3}.png": "cat 6, dog 3",
    "{cafe\u0301,caf\u00e9,tea}/{1,2,3}.png": "caf\u00e9 6, tea 3",
    # === Errors ===
    "{1,2,3}.png": "error: has no class folders",
    "{train,test}/{1,2}.png": "error: has no class folders",
    "{images,masks}/{1,2}.png": "error: has no class folders",
    "{1,2,3,4}.png + cat/1.png": "error: has most images outside the class folders",
    "{fruit/{apple,pear},roots/{beet,carrot}}/1.png": (
        "error: has two levels of folders that could be the classes: fruit, roots or apple, beet, carrot"
    ),
    "{patient1,patient2}/{0,1}/{1,2}.png": (
        "error: has two levels of folders that could be the classes: patient1, patient2 or 0, 1"
    ),
    "{train,test,Train}/{cat,dog}/1.png": "error: has 2 folders for the split train (Train, train)",
    "{fold1,fold2}/{train,test}/{cat,dog}/1.png + cover/1.png": (
        "error: has split folders (test, train) inside other folders"
    ),
    "{cat,dog}/1.png + old/test/cat/2.png": "error: has split folders (test) inside other folders",
    "notes/{a,b}.txt": "error: holds no images of the form train/<class>/<image> or <class>/<image>",
}

# The tables (of paths, labels and splits, or of paths only) come last because they are written to the folder.
FORMS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "labels", "paths")


def expand(pattern):
    """List the names that match a pattern with braces."""
    found = re.search(r"\{([^{}]*)\}", pattern)  # an innermost pair
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return list(itertools.chain.from_iterable(expand(before + one + after) for one in found[1].split(",")))


def write_tree(folder, layout):
    """Write the files of a layout. Each image has a different color."""
    folder.mkdir()
    names = itertools.chain.from_iterable(expand(pattern) for pattern in layout.split(" + "))
    for number, name in enumerate(dict.fromkeys(names)):
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if name.endswith((".txt", ".db", ".ini", ".DS_Store")):
            path.write_text("no image")
        elif not name.endswith("/"):
            Image.new("RGB", (4, 4), (number, 255 - number, 99)).save(path, "PNG")


def write_form(form, folder):
    """Write the tree in `folder` in another form. Returns the path."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix != ".csv")
    target = folder.with_name(f"{folder.name}.{form}")
    if form == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.write(path, path.relative_to(folder))
    elif form.startswith("tar"):
        with tarfile.open(target, f"w:{form[4:]}") as archive:
            archive.add(folder, ".")
    else:
        target = folder / f"{form}.csv"
        rows = [("path",), *((path.relative_to(folder),) for path in paths if path.is_file())]
        if form == "labels":
            found = list_folder(folder).rows
            rows = [("path", "label", "split")]
            rows += [(pathlib.Path(name).relative_to(folder), label, split) for split, label, name in found]
        with target.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return target


def summarize(source):
    """Tuple (data set, line that describes it), or (None, error)."""
    try:
        dataset = open_dataset(str(source))
    except ValueError as error:
        return None, "error: " + str(error).removeprefix(f"{source} ")
    splits = dataset.splits if dataset.drawn_from is None else {"": dataset.everything()}
    texts = []
    for name in ("", "train", "val", "test"):
        if name in splits:
            counts = np.bincount(splits[name].labels, minlength=len(dataset.class_names))
            shown = ", ".join(f"{one} {n}" for one, n in zip(dataset.class_names, counts, strict=True) if n)
            texts.append(f"{name}: {shown}" if name else shown)
    return dataset, ". ".join(["; ".join(texts), *(str(one).partition(":")[0] for one in dataset.left_out)])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_open_dataset_reads_tree_equally_in_all_forms(layout, tmp_path):
    folder = tmp_path / "data"
    write_tree(folder, layout)
    expected, line = summarize(folder)
    if expected is None:
        assert line.startswith(LAYOUTS[layout])
        assert "Found:\n" in line
    else:
        assert line == LAYOUTS[layout]
    for form in FORMS:
        if form == "labels" and expected is None:
            continue
        dataset, other = summarize(write_form(form, folder))
        if expected is None:
            assert other == line, form
            continue
        if form not in ("labels", "paths"):  # tables do not report folders or files that are left out
            assert other == line
        assert dataset.class_names == expected.class_names
        assert list(dataset.splits) == list(expected.splits)
        for name, split in expected.splits.items():
            assert dataset.splits[name].labels.tolist() == split.labels.tolist()
            np.testing.assert_array_equal(dataset.splits[name].images, split.images)


@pytest.mark.slow
def test_read_layout_uses_or_reports_every_image():
    """In 3,000 random trees, each image is in a row or counted as left out, or the layout is an error."""
    generator = random.Random(0)
    words = ["train", "Test", "val", "valid", "cat", "dog", " cat", "images", "masks", "a", "seg_train", "2"]
    refused = []
    for _ in range(3000):
        vocabulary = generator.sample(words, generator.randint(1, 6))
        images = set()
        for _ in range(generator.randint(1, 12)):
            folders = generator.choices(vocabulary, k=generator.randint(0, 4))
            images.add((*folders, generator.choice(["1.png", "2.png", "1_mask.png"])))
        images = sorted(images)
        try:
            layout = read_layout(images, others=[("cat", "notes.txt")], folders=[("dog",)])
        except ValueError as error:
            refused.append(str(error))
            continue
        rows = [index for *_, index in layout.rows]
        left_out = sum(one.count for one in layout.left_out if one.reason not in (DEEPER, EMPTY))
        assert len(set(rows)) == len(rows), images
        assert len(rows) + left_out == len(images), images
        assert len({bool(split) for split, *_ in layout.rows}) == 1, images
        assert all(label and label == label.strip() for _, label, _ in layout.rows), images
    assert 500 < len(refused) < 2500
    assert all("Found:\n" in message for message in refused)


def print_table():
    """Print each layout and its data set."""
    print("| layout | data set |\n|---|---|")
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as directory:
            folder = pathlib.Path(directory) / "data"
            write_tree(folder, layout)
            print(f"| `{layout}` | {summarize(folder)[1].splitlines()[0]} |")


if __name__ == "__main__":
    print_table()
