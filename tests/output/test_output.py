"""Output directories: files of others are never lost, and OUT is always the old or the new directory."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading
import time

from focalnets import FocalNetBackbone, FocalNetImageClassifier, open_dataset  # isort: skip - first, so that it chooses the backend
import keras
import numpy as np
import pytest

from focalnets.cli import main
from focalnets.data.cache import square
from focalnets.data.cache import write_cache as write_image_cache
from focalnets.data.inputs import data_paths
from focalnets.output import directories, files, locks, rename, replace
from focalnets.output.locks import only_writer
from focalnets.output.manifest import MANIFEST, Manifest
from focalnets.output.paths import file_suffix
from focalnets.output.replace import new_directory
from focalnets.presets.labels import read_labels
from focalnets.training.recipe import load_recipe


def write(directory, **files):
    """Make a directory with files. "__" in a name is a slash."""
    for name, text in files.items():
        path = pathlib.Path(directory, name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return pathlib.Path(directory)


def names(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith(".focalnets"))


@pytest.mark.parametrize("exchanges", [True, False])
def test_new_directory_keeps_old_and_new_files_after_failed_rename(tmp_path, monkeypatch, exchanges):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    if not exchanges:
        monkeypatch.setattr(rename, "_renameat2", lambda *_: False)
    with new_directory(link, "preset", force=True) as partial:
        (partial / "old.json").write_text("")
    with new_directory(link, "preset", force=True) as partial:
        (partial / "new.json").write_text("")
    assert link.is_symlink()
    assert names(link) == ["new.json"]
    assert names(real.parent) == ["real"]
    original = os.rename
    for refused in (1, 2):  # the new directory cannot be renamed, and then neither the old one
        calls = []

        def fails(source, target, calls=calls, refused=refused):
            calls.append(target)
            if str(target).endswith("/real") and len(calls) <= 1 + refused:
                raise PermissionError(13, "in use")
            return original(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(rename, "_renameat2", lambda *_: False)
            patch.setattr(os, "rename", fails)
            with (
                pytest.raises(OSError, match="The complete output is at: ") as caught,
                new_directory(link, "preset", force=True) as partial,
            ):
                (partial / "newer.json").write_text("")
        complete = pathlib.Path(str(caught.value).split(": ")[-1])
        assert names(complete) == ["newer.json"]
        assert names(real) == ["new.json"]


# === Arrangements: what is in or around OUT when --force is given ===

EVALUATION = {
    **{"data": "digits", "split": "test", "images": 1, "top1": 1.0, "top5": 1.0, "loss": 0.0},
    **{"ece": 0.0, "per_class": {}, "reliability": []},
}
# A minimal config.json of a preset.
PRESET = {"format": "focalnets preset", "format_version": 1, "backbone": {}, "files": ["model.weights.h5"]}


def _array(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def write_run(out, force=False, inputs=()):
    with directories.new_output_directory(out, "run", force, inputs) as directory:
        files.write_json(directory / "recipe.json", dataclasses.asdict(load_recipe("digits")))
        files.shared_directory(directory / "panels", "run")
        with files.writing(directory / "panels" / "stage1_block1.png") as partial:
            partial.write_bytes(os.urandom(8))
        Manifest(directory).seal()


def resume(run):
    with directories.resumed_directory(run):
        pass


def write_preset(out, force=False, inputs=()):
    with new_directory(out, "preset", force, inputs) as partial:
        files.write_json(partial / "config.json", {**PRESET, "n": os.urandom(8).hex()})
        (partial / "model.weights.h5").write_bytes(os.urandom(8))


def write_checkpoint(out, force=False, inputs=()):
    with new_directory(out, "checkpoint", force, inputs) as partial:
        files.write_json(partial / "config.json", {"focalnets_version": os.urandom(8).hex()})
        (partial / "model.safetensors").write_bytes(os.urandom(8))


def write_cache(out, force=False, inputs=()):
    with new_directory(out, "cache", force, inputs) as partial:
        index = {"focalnets_cache": 1, "images": {"train": 1}, "class_names": [os.urandom(8).hex()]}
        files.write_json(partial / "cache.json", index)
        (partial / "train.images.npy").write_bytes(os.urandom(8))


def write_evaluation(out, force=False, inputs=()):
    with (
        directories.new_output_directory(out, "evaluation", force, inputs) as directory,
        files.filling(directory, "evaluation") as partial,
    ):
        files.write_json(partial / "evaluation.json", {**EVALUATION, "n": os.urandom(8).hex()})
        (partial / "confusion.png").write_bytes(os.urandom(8))


def write_explanation(out, force=False, inputs=()):
    names = ["cat.npz", "cat.stage1_block1.png"]
    gates = {"stage1_block1.gates": np.frombuffer(os.urandom(8), "uint8")}
    with directories.new_output_directory(out, "explanation", force, inputs, names) as directory:
        with files.writing(directory / "cat.npz") as partial:
            _array(partial, image=np.zeros(1), **gates)
        with files.writing(directory / "cat.stage1_block1.png") as partial:
            partial.write_bytes(os.urandom(8))
        Manifest(directory).seal()


WRITERS = {
    "train": write_run,
    "convert": write_preset,
    "convert --to transformers": write_checkpoint,
    "cache": write_cache,
    "evaluate": write_evaluation,
    "explain": write_explanation,
}
NO_MANIFEST = r"has no \.focalnets-files\.json"

# A file that each verb writes, and one that it may write and did not.
WRITTEN = dict(
    zip(
        WRITERS,
        ["recipe.json", "model.weights.h5", "config.json", "cache.json", "confusion.png", "cat.npz"],
        strict=True,
    )
)
UNWRITTEN = dict(
    zip(
        WRITERS,
        ["last.npz", "labels.json", "preprocessor_config.json", "val.labels.npy", "mistakes.png", None],
        strict=True,
    )
)


def notes(out, verb, patch):
    write(out, **{"thesis.txt": "mine", "data__old__a.txt": "mine"})
    return (), ["thesis.txt", "data/"]


def home_with_keys_and_repository(out, verb, patch):
    write(out, **{".ssh__id_ed25519": "key", ".git__HEAD": "ref", ".git__objects__ab__cd": "x", "a.doc": "x"})
    (out / ".ssh").chmod(0o700)
    return (), [".ssh/", ".git/", "a.doc"]


def note_in_a_folder_of_ours(out, verb, patch):
    write(out, panels__note="mine")
    return (), ["panels/note"] if verb == "train" else ["panels/"]


def nested_run(out, verb, patch):
    write_run(out / "second")
    return (), ["second/"]


def nested_cache(out, verb, patch):
    write_cache(out / "small")
    return (), ["small/"]


def links(out, verb, patch):
    elsewhere = write(out.parent / "elsewhere", **{"a.txt": "mine"})
    (out / "folder").symlink_to(elsewhere)
    (out / "file").symlink_to(elsewhere / "a.txt")
    (out / "dangling").symlink_to(out.parent / "nowhere")
    return (), ["folder", "file", "dangling"]


def strange_names(out, verb, patch):
    for name in (b"caf\xe9.txt", b"a\nb", b".hidden", b"-rf"):
        pathlib.Path(os.fsdecode(bytes(out) + b"/" + name)).write_text("mine")
    return (), [".hidden", "-rf"]


def pipe(out, verb, patch):
    os.mkfifo(out / "pipe")
    return (), ["pipe"]


def empty_folder(out, verb, patch):
    (out / "later").mkdir()
    return (), ["later/"]


def unreadable_file(out, verb, patch):
    write(out, secret="mine")
    (out / "secret").chmod(0)
    return (), ["secret"]


def link_in_the_place_of_out(out, verb, patch):
    real = out.with_name("disk")
    out.rename(real)
    out.symlink_to(real)
    write(out, **{"thesis.txt": "mine"})
    return (), ["thesis.txt"]


def output_without_manifest(out, verb, patch):
    (out / MANIFEST).unlink()
    write(out, **{"thesis.txt": "mine", "panels__note": "mine"})
    return (), "focalnets did not write them" if verb in (
        "explain",
        "evaluate",
    ) else NO_MANIFEST


def hostile_manifest(out, verb, patch):
    write(out.parent, **{"other.txt": "mine"})
    write(out, **{"thesis.txt": "mine"})
    record = json.loads((out / MANIFEST).read_text())
    kind = record["kind"]
    for name in ("../other.txt", str(out.parent / "other.txt"), "thesis.txt", ".", "a/../thesis.txt"):
        record["files"][name] = {"kind": kind, "size": None, "sha256": None}
    digest = hashlib.sha256(b"mine").hexdigest()  # of "mine": a file whose content is known
    for name in ("../other.txt", str(out.parent / "other.txt")):
        record["files"][f"{name}"] = {"kind": kind, "size": 4, "sha256": digest}
    (out / MANIFEST).write_text(json.dumps(record))
    return (), ["thesis.txt"]


def edited_file(out, verb, patch):
    with open(out / WRITTEN[verb], "ab") as file:
        file.write(b" and a note of mine")
    return (), f"changed since: {WRITTEN[verb]}"


def edited_file_of_equal_size(out, verb, patch):
    content = (out / WRITTEN[verb]).read_bytes()
    (out / WRITTEN[verb]).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return (), "changed since|no unchanged file of a"


def foreign_file_with_a_name_of_ours(out, verb, patch):
    name = UNWRITTEN[verb]
    if name is None:  # `explain` writes only listed names: the file is kept
        name = "other.npz"
        write(out, **{name: "mine"})
        return (), [name]
    write(out, **{name: "mine"})
    return (), f"did not write them, wrote them for another command, or they were changed since: {name}"


def our_file_replaced_by_a_link(out, verb, patch):
    target = write(out.parent, **{"target.bin": "mine"}) / "target.bin"
    (out / WRITTEN[verb]).unlink()
    (out / WRITTEN[verb]).symlink_to(target)
    return (), "no unchanged file of a|changed since"


def clone_of_a_model_repository(out, verb, patch):
    shutil.rmtree(out)
    write(out, **{"config.json": '{"model_type": "focalnet"}', "model.bin": "x", ".git__HEAD": "ref"})
    return (), ["model.bin", ".git/"] if verb in (
        "evaluate",
        "explain",
    ) else NO_MANIFEST


def data_inside_out(out, verb, patch):
    return [write(out / "data", cat__a="x")], "contains the input"


def out_inside_data(out, verb, patch):
    write(out.parent, cat__a="x")
    return [out.parent], "lies inside the input"


def out_is_the_data(out, verb, patch):
    write(out, cat__a="x")
    return [out], "is the input"


def data_reached_by_a_link(out, verb, patch):
    write(out / "photos", cat__a="x")
    (out.parent / "photos").symlink_to(out / "photos")
    return [out.parent / "photos"], "contains the input"


def class_of_the_data_linked_into_out(out, verb, patch):
    write(out / "cats", a="x")
    data = write(out.parent / "data", dog__a="x")
    (data / "cat").symlink_to(out / "cats")
    return data_paths(str(data)), "contains the input"


def table_whose_images_lie_in_out(out, verb, patch):
    write(out, images__a="x")
    table = out.parent / "table.csv"
    table.write_text(f"path,label\n{out.name}/images/a,cat\n")
    return data_paths(str(table)), "contains the input"


def archive_inside_out(out, verb, patch):
    return [write(out, **{"data.zip": "x"}) / "data.zip"], "contains the input"


def preset_inside_out(out, verb, patch):
    write_preset(out / "start")
    return [out / "start"], "contains the input"


def out_inside_a_preset(out, verb, patch):
    write(out.parent, **{"config.json": "x"})
    return [out.parent], "lies inside the input"


def recipe_inside_out(out, verb, patch):
    return [write(out, **{"mine.py": "RECIPE = 1"}) / "mine.py"], "contains the input"


def current_directory_is_out(out, verb, patch):
    write(out, **{"thesis.txt": "mine"})
    patch.chdir(out)
    return (), "contains your current directory"


def current_directory_inside_out(out, verb, patch):
    patch.chdir(write(out / "a" / "b", **{"thesis.txt": "mine"}))
    return (), "contains your current directory"


def home_directory_is_out(out, verb, patch):
    write(out, **{".ssh__id": "key"})
    patch.setenv("HOME", str(out))
    return (), "contains your home directory"


def home_directory_inside_out(out, verb, patch):
    patch.setenv("HOME", str(write(out / "me", **{".ssh__id": "key"})))
    return (), "contains your home directory"


ARRANGEMENTS = [
    notes,
    home_with_keys_and_repository,
    note_in_a_folder_of_ours,
    nested_run,
    nested_cache,
    links,
    strange_names,
    pipe,
    empty_folder,
    unreadable_file,
    link_in_the_place_of_out,
    output_without_manifest,
    hostile_manifest,
    edited_file,
    edited_file_of_equal_size,
    foreign_file_with_a_name_of_ours,
    our_file_replaced_by_a_link,
    clone_of_a_model_repository,
    data_inside_out,
    out_inside_data,
    out_is_the_data,
    data_reached_by_a_link,
    class_of_the_data_linked_into_out,
    table_whose_images_lie_in_out,
    archive_inside_out,
    preset_inside_out,
    out_inside_a_preset,
    recipe_inside_out,
    current_directory_is_out,
    current_directory_inside_out,
    home_directory_is_out,
    home_directory_inside_out,
]


def everything(folder):
    """Path -> content of everything below a folder: files, links, and empty folders."""
    found = {}
    for parent, folders, names_ in os.walk(os.fsencode(folder)):
        for name in [*names_, *folders]:
            path = os.path.join(parent, name)
            state = os.lstat(path)
            if stat.S_ISLNK(state.st_mode):
                found[path] = os.readlink(path)
            elif stat.S_ISREG(state.st_mode):
                found[path] = (pathlib.Path(os.fsdecode(path)).read_bytes(), state.st_mode)
            elif not stat.S_ISDIR(state.st_mode) or not os.listdir(path):
                found[path] = stat.S_IFMT(state.st_mode)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("arrange", ARRANGEMENTS, ids=lambda arrange: arrange.__name__)
@pytest.mark.parametrize("verb", WRITERS)
def test_force_keeps_files_of_others(verb, arrange, tmp_path, monkeypatch, caplog):
    out = tmp_path / "work" / "out"
    WRITERS[verb](out)
    ours = everything(out)
    inputs, expected = arrange(out, verb, monkeypatch)
    before = everything(tmp_path)
    real = bytes(out.resolve())
    foreign = {
        path: what
        for path, what in before.items()
        if ours.get(path.replace(real, bytes(out))) != what
        and os.path.basename(path) != os.fsencode(MANIFEST)
    }
    assert foreign or inputs
    if isinstance(expected, str):
        with pytest.raises((ValueError, FileExistsError), match=expected) as caught:
            WRITERS[verb](out, force=True, inputs=inputs)
        assert "\n" not in str(caught.value)
        assert everything(tmp_path) == before, "a refusal changes nothing"
        return
    WRITERS[verb](out, force=True, inputs=inputs)
    after = everything(tmp_path)
    assert {path: after.get(path) for path in foreign} == foreign
    assert not [path for path in after if b".focalnets-work" in path]
    for name in expected:
        assert name in caplog.text
    written = everything(out.resolve())[os.path.join(real, os.fsencode(WRITTEN[verb]))]
    assert verb == "train" or written not in before.values(), "the new output is written"


@pytest.mark.parametrize("verb", ["train", "convert", "cache"])
def test_force_keeps_file_that_a_manifest_lists_without_size(verb, tmp_path):
    """The first write must not record the content of such a file, which the second would then replace."""
    out = tmp_path / "out"
    WRITERS[verb](out)
    hostile_manifest(out, verb, None)
    for _ in range(3):
        WRITERS[verb](out, force=True)
        assert (out / "thesis.txt").read_text() == "mine"


# === Interruptions ===

# Runs `write` in a forked child that is killed at its n-th change of the file system, for n = 1, 2, ... until
# a child finishes. After each kill, OUT must be old or new, and the next write must clean up.
_KILLS = """
import os, pathlib, shutil, signal, sys
sys.argv[0] = "focalnets"  # needs no Keras
from focalnets.output import rename
from focalnets.output.replace import new_directory

exchanges, foreign = {exchanges}, {foreign}
root = pathlib.Path({root!r})
out = root / "out"

def write(text):
    with new_directory(out, "preset", force=True) as partial:
        for name in ("config.json", "model.weights.h5"):
            (partial / name).write_text(text)

def state():
    return {{name: (out / name).read_text() for name in ("config.json", "model.weights.h5")}}

def changes_of_the_file_system(event):
    return event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "tempfile.mkdtemp")

real = rename._renameat2
if not exchanges:
    rename._renameat2 = lambda *_: False

count = 0
while True:
    count += 1
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    write("old")
    if foreign:
        (out / "notes").mkdir()
        (out / "notes" / "thesis.txt").write_text("mine")
        (out / "letter.txt").write_text("mine")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        seen = 0
        def kill_at(_):
            global seen
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(lambda event, _: kill_at(event) if changes_of_the_file_system(event) else None)
        if exchanges:
            def killed(*arguments):
                kill_at(arguments)
                done = real(*arguments)
                kill_at(arguments)
                return done
            rename._renameat2 = killed
        write("new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ended = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    assert ended or os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    there = out.exists()
    assert there or not exchanges, count
    if there:
        assert set(state().values()) in ({{"old"}}, {{"new"}}), (count, state())
    thesis = [path for path in root.rglob("thesis.txt")]
    letters = [path for path in root.rglob("letter.txt")]
    assert not foreign or (len(thesis), len(letters)) == (1, 1), (count, thesis, letters)
    try:  # the next write cleans up, even if it refuses to replace OUT
        with new_directory(out, "preset"):
            raise AssertionError("OUT was lost")
    except FileExistsError:
        pass
    assert set(state().values()) in ({{"old"}}, {{"new"}}), (count, state())
    assert [path.name for path in root.iterdir()] == ["out"], list(root.iterdir())
    if foreign:
        assert (out / "notes" / "thesis.txt").read_text() == (out / "letter.txt").read_text() == "mine"
    if ended:
        break
print(count)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("exchanges", [True, False])
def test_new_directory_is_old_or_new_after_kill_at_any_moment(exchanges, foreign, tmp_path):
    """OUT is never missing where the system exchanges directories. Elsewhere, the next write restores it."""
    if exchanges and not _exchanges(tmp_path):
        pytest.skip("this file system does not exchange directories")
    root = str(tmp_path / "root")
    program = _KILLS.format(exchanges=exchanges, foreign=foreign, root=root)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 15, "number of kills"


def _exchanges(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
    return rename._renameat2(folder / "a", folder / "b", 2)


def place_config(out, text, meanwhile, force=False):
    with new_directory(out, "preset", force) as partial:
        (partial / "config.json").write_text(text)
        meanwhile()


def rename_a_preset(out):
    """Write a preset without a lock, as a process on another machine does."""
    write_preset(out.with_name("other"))
    out.with_name("other").rename(out)


APPEAR = {
    "directory": lambda out: write(out, **{"thesis.txt": "mine"}),
    "empty directory": lambda out: out.mkdir(),
    "file": lambda out: out.write_text("mine"),
    "dangling link": lambda out: out.symlink_to("nowhere"),
    "output of another process": rename_a_preset,
}


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("appear", APPEAR)
def test_new_directory_does_not_replace_target_created_meanwhile(appear, exchanges, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(rename, "_renameat2", lambda *_: False)
    out = tmp_path / "out"
    before = {}

    def meanwhile():
        APPEAR[appear](out)
        before.update(everything(tmp_path))

    with pytest.raises(FileExistsError, match="The complete output is at: ") as caught:
        place_config(out, "new", meanwhile)
    found = everything(tmp_path)
    created = [path for path in before if (path + b"/").startswith(bytes(out) + b"/")]
    assert created
    assert {path: found[path] for path in created} == {path: before[path] for path in created}
    complete = pathlib.Path(str(caught.value).split(": ")[-1])
    assert (complete.name, (complete / "config.json").read_text()) == ("out-2", "new")
    assert names(tmp_path) == ["out", "out-2"]


def test_new_directory_with_force_keeps_files_created_meanwhile(tmp_path):
    out = tmp_path / "out"
    write_preset(out)
    place_config(out, "new", lambda: write(out, **{"thesis.txt": "mine"}), force=True)
    assert (out / "config.json").read_text() == "new"
    assert (out / "thesis.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match=r"labels\.json.*The complete output is at"):
        place_config(out, "newer", lambda: write(out, **{"labels.json": "mine"}), force=True)
    assert [(out / name).read_text() for name in ("config.json", "labels.json")] == ["new", "mine"]


@pytest.mark.parametrize("stuck", ["thesis.txt", "out"])
def test_new_directory_moves_files_of_others_back_after_failed_rename(stuck, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_preset(out)
    write(out, **{"a.txt": "mine", "notes__b.txt": "mine", "thesis.txt": "mine"})
    before = everything(out)
    rename_new, exchange = replace.rename_new, replace.exchange

    def fails(source, target, *more):
        if stuck in (source.name, target.name):
            raise PermissionError(13, "in use")
        return (exchange if more else rename_new)(source, target, *more)

    monkeypatch.setattr(replace, "rename_new", fails)
    monkeypatch.setattr(replace, "exchange", fails)
    with pytest.raises(OSError, match=r"in use.*The complete output is at"):
        place_config(out, "new", lambda: None, force=True)
    assert everything(out) == before
    assert sorted(os.listdir(tmp_path)) == ["out", "out-2"]
    assert names(tmp_path / "out-2") == ["config.json"]


def test_writing_does_not_replace_files_of_others_in_a_run(tmp_path):
    with directories.new_output_directory(tmp_path / "run", "run") as run:
        write(run, **{"curves.png": "mine"})
        with (
            pytest.raises(FileExistsError, match=r"curves\.png"),
            files.writing(run / "curves.png") as partial,
        ):
            partial.write_text("ours")
    assert (run / "curves.png").read_text() == "mine"


@pytest.mark.parametrize("name", ["curves.png", "panels/stage1_block1.png", "partial-last.npz"])
def test_writing_does_not_follow_links_in_a_run(name, tmp_path):
    with directories.new_output_directory(tmp_path / "run", "run") as run:
        pass
    victim = write(tmp_path / "elsewhere", **{"stage1_block1.png": "mine"}) / "stage1_block1.png"
    if "/" in name:
        (run / "panels").symlink_to(victim.parent)
    else:
        (run / name).symlink_to(victim)
    with pytest.raises(OSError, match="is a symbolic link"), files.writing(run / name) as partial:
        partial.write_text("ours")
    assert victim.read_text() == "mine"
    assert os.listdir(victim.parent) == ["stage1_block1.png"]


def test_resumed_directory_writes_missing_manifest(tmp_path):
    write_run(tmp_path / "run")
    before = Manifest(tmp_path / "run")
    (tmp_path / "run" / MANIFEST).unlink()  # as in a copy without hidden files
    write(tmp_path / "run", **{"thesis.txt": "mine"})
    resume(tmp_path / "run")
    assert set(Manifest(tmp_path / "run").files) == set(before.files)
    write_run(tmp_path / "run", force=True)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


RESEMBLING = {
    "recipe of others": {"recipe.json": {"architecture": "resnet50", "augmentation": {"flip": True}}},
    "run of others": {"run.json": {"fingerprint": "x", "backend": "torch"}},
    "evaluation of others": {"evaluation.json": {"top1": 0.5, "per_class": {}, "split": "test"}},
    "preset of others": {"config.json": {"format": "focalnets preset"}},
    "tuned weights": {"config.json": {"focalnets_version": "1.0", "model_type": "focalnet"}},
}


@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize("resembling", RESEMBLING)
def test_force_refuses_similar_directory_without_manifest(resembling, verb, tmp_path):
    out = write(
        tmp_path / "out", **{"last.npz": "mine", "confusion.png": "mine", "model.safetensors": "mine"}
    )
    write(out, **{name: json.dumps(value) for name, value in RESEMBLING[resembling].items()})
    before = everything(tmp_path)
    if verb != "explain":  # which writes other names
        with pytest.raises((ValueError, FileExistsError), match=f"{NO_MANIFEST}|focalnets did not write"):
            WRITERS[verb](out, force=True)
        assert everything(tmp_path) == before
    else:
        WRITERS[verb](out, force=True)
        assert before.items() <= everything(tmp_path).items()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o700, 0o750, 0o2770, 0o755])
@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("verb", ["convert", "convert --to transformers", "cache"])
def test_new_directory_keeps_mode_of_replaced_directory(verb, exchanges, mode, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(rename, "_renameat2", lambda *_: False)
    (tmp_path / "empty").mkdir()
    WRITERS[verb](tmp_path / "full")
    write(tmp_path / "full", **{"thesis.txt": "mine"})
    for out in (tmp_path / "empty", tmp_path / "full"):
        out.chmod(mode)
        group = out.stat().st_gid
        WRITERS[verb](out, force=True)
        assert (stat.S_IMODE(out.stat().st_mode), out.stat().st_gid) == (mode, group)
        assert (out / WRITTEN[verb]).stat().st_gid == group


def test_new_directory_keeps_mode_of_folder_with_files_of_others(tmp_path):
    write_run(tmp_path / "run")
    write(tmp_path / "run", panels__note="mine")
    (tmp_path / "run" / "panels").chmod(0o700)
    write_preset(tmp_path / "run", force=True)
    assert (tmp_path / "run" / "panels" / "note").read_text() == "mine"
    assert stat.S_IMODE((tmp_path / "run" / "panels").stat().st_mode) == 0o700


@pytest.mark.parametrize("folder", ["panels", "monitor", "tensorboard"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_run_refuses_links_and_files_in_place_of_its_folders(folder, kind, tmp_path):
    write_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "panels")
    place = tmp_path / "run" / folder
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path if kind == "link" else "nowhere")
    for check in (lambda run: directories.check_output_directory(run, "run", force=True), resume):
        with pytest.raises(OSError, match=rf"{folder} (is a symbolic link|exists and is a file)"):
            check(tmp_path / "run")


def test_force_refuses_file_edited_after_the_run(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "panels" / "stage1_block1.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"changed since: panels/stage1_block1\.png"):
        write_run(tmp_path / "run", force=True)
    (tmp_path / "run" / "panels" / "stage1_block1.png").rename(tmp_path / "mine.png")
    write_run(tmp_path / "run", force=True)
    assert (tmp_path / "mine.png").read_text() == "mine"


class KilledError(Exception):
    """Simulates SIGKILL."""


@pytest.mark.parametrize("moment", ["before the file gets its name", "after it"])
@pytest.mark.parametrize("times", [1, 2])
def test_force_refuses_file_edited_after_the_run_was_killed(times, moment, tmp_path, monkeypatch):
    run, original = tmp_path / "run", os.replace

    def killed(source, target):
        if moment == "after it" or pathlib.Path(target).name != "last.npz":
            original(source, target)
        if pathlib.Path(target).name == "last.npz":
            raise KilledError

    write_run(run)
    with directories.resumed_directory(run), files.writing(run / "last.npz") as partial:
        partial.write_text("first")
    for number in range(times):
        with directories.resumed_directory(run), monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KilledError), files.writing(run / "last.npz") as partial:
                partial.write_text(f"second {number}")
    content = (run / "last.npz").read_text()
    assert content == ("first" if moment != "after it" else f"second {number}")
    (run / "last.npz").write_text("mine")
    with pytest.raises(FileExistsError, match=r"changed since: last\.npz"):
        write_run(run, force=True)
    (run / "last.npz").write_text(content)
    write_run(run, force=True)
    assert not (run / "last.npz").exists(), "ours, complete or not"


def test_force_refuses_file_edited_after_the_explanation_was_killed(tmp_path):
    out = tmp_path / "out"
    with directories.new_output_directory(out, "explanation", names=["a.npz", "b.npz", "c.npz"]):
        for name in ("a.npz", "b.npz"):
            with files.writing(out / name) as partial:
                partial.write_text("ours")
            if name == "a.npz":
                Manifest(out).seal(finished=False)
                assert set(Manifest(out).files) == {"a.npz", "b.npz", "c.npz"}, "also files to come"
    write(out, **{"a.npz": "mine"})
    with pytest.raises(FileExistsError, match=r"changed since: a\.npz"):
        directories.check_output_directory(out, "explanation", force=True, names=["a.npz", "b.npz", "c.npz"])


# === Two processes ===


@pytest.mark.slow
@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize("in_place", [True, False])
def test_outputs_refuse_directory_written_by_another_process(in_place, verb, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0)
    out = tmp_path / "out"
    WRITERS[verb](out)
    before = everything(out)
    for directory in (out, tmp_path / "new"):
        if in_place:
            directory.mkdir(exist_ok=True)
        with only_writer(directory, in_place):
            for force in (False, True):
                with pytest.raises(FileExistsError, match=f"written by process {os.getpid()} on ") as caught:
                    WRITERS[verb](directory, force=force)
                assert str(caught.value).startswith(f"{directory} is being written")
                assert "--force" not in str(caught.value)
            if in_place:
                with pytest.raises(FileExistsError, match="is being written"):
                    resume(directory)
            for also_in_place in (False, True)[
                : 1 + directory.exists()
            ]:  # both have checked at the same time
                with (
                    pytest.raises(FileExistsError, match="is being written"),
                    only_writer(directory, also_in_place),
                ):
                    pass
    assert everything(out) == before
    WRITERS[verb](out, force=True)
    assert sorted(os.listdir(tmp_path)) == (["new", "out"] if in_place else ["out"])


def test_only_writer_waits_for_lock_being_released(tmp_path):
    """The holder removes the lock file. A lock on a removed file would exclude nobody."""
    (tmp_path / "run").mkdir()
    held, released = threading.Event(), threading.Event()

    def hold():
        with only_writer(tmp_path / "run", in_place=True):
            held.set()
            time.sleep(0.03)
        released.set()

    threading.Thread(target=hold).start()
    held.wait()
    with only_writer(tmp_path / "run", in_place=True):
        assert released.is_set() or released.wait(1)
        with pytest.raises(FileExistsError, match="is being written"):
            locks.refuse_in_use(tmp_path / "run")
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_only_writer_does_not_write_lock_file_through_links(link, tmp_path):
    victim = write(tmp_path, victim="mine") / "victim"
    (tmp_path / "run").mkdir()
    link(victim, tmp_path / "run" / ".focalnets-work-in-use")
    with (
        pytest.raises(OSError, match=r"cannot be written \("),
        only_writer(tmp_path / "run", in_place=True),
    ):
        pass
    assert victim.read_text() == "mine"


# Writes an output in another process until it is killed or reads a line.
_WRITER = """
import pathlib, sys
sys.argv[0] = "focalnets"  # needs no Keras
from focalnets.output import directories
from focalnets.output.replace import new_directory
out = pathlib.Path(sys.argv[1])
is_preset = sys.argv[2] == "preset"
with new_directory(out, "preset", True) if is_preset else directories.new_output_directory(out, "run", True):
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "preset"])
def test_only_writer_reports_process_and_frees_lock_when_it_is_killed(kind, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", _WRITER, str(out), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"writing\n"
        for write_again in (write_run, write_preset):
            with pytest.raises(FileExistsError, match=f"process {other.pid} on "):
                write_again(out, force=True)
        other.kill()
    write_preset(out, force=True)
    assert names(out) == ["config.json", "model.weights.h5"]
    assert os.listdir(tmp_path) == ["out"], "no lock file remains"
    assert not list(out.glob(".focalnets-work*"))


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0o002])
def test_outputs_have_permissions_of_umask(mask, tmp_path):
    previous = os.umask(mask)
    try:
        for verb, writer in WRITERS.items():
            writer(tmp_path / verb)
        with files.writing(tmp_path / "mine.pth", own=False) as partial:
            partial.write_text("weights")
    finally:
        os.umask(previous)
    for path in tmp_path.rglob("*"):
        mode = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == mode & ~mask, path


def test_write_cache_raises_on_full_disk_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    dataset = open_dataset("digits", channels=1, prepare=square(16), cache_images="stream")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="Cannot reserve 368,128 bytes for the images of train"):
            write_image_cache(dataset, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


# === Names ===


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a\0b", "contains a NUL byte"),
        ("x" * 300, "is too long"),
        ("y" * 4000 + "/z", "is too long"),
        ("{tmp}/file/x", "because .*/file is a file"),
        ("{tmp}/file/x/y", "because .*/file is a file"),
        ("{tmp}/circle", "cannot be a path: Too many|circle is a file|exists"),
        ("model.onnx", "name of a .onnx file"),
        ("results.json", "name of a .json file"),
        ("panel.PNG", "name of a .PNG file"),
    ],
)
@pytest.mark.parametrize("verb", WRITERS)
def test_outputs_refuse_names_that_cannot_be_directories(name, words, verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, file="mine")
    (tmp_path / "circle").symlink_to("circle")
    before = everything(tmp_path)
    with pytest.raises((ValueError, OSError), match=words) as caught:
        WRITERS[verb](name.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)
    assert "[Errno" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert everything(tmp_path) == before


def test_file_suffix_distinguishes_files_from_directories():
    for name in ("focalnet_v1.2", "run.2", "run.old", "2026.11.26", "a.b", ".hidden", "lr1e-3.v2", "first.a"):
        assert file_suffix(pathlib.Path(name)) == "", name
    for suffix in (
        *(".gguf", ".msgpack", ".joblib", ".torchscript", ".pbtxt", ".onnx", ".mlpackage", ".bin", ".PNG"),
        *(".md", ".py", ".mp4", ".docx", ".tgz", ".xz", ".tar.gz", ".pth.tar", ".weights.h5"),
    ):
        assert file_suffix(pathlib.Path(f"runs/focalnet_v1.2{suffix}")) == suffix


@pytest.mark.parametrize("verb", WRITERS)
def test_outputs_expand_home_directory(verb, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    WRITERS[verb]("~/results")
    assert (tmp_path / "home" / "results" / WRITTEN[verb]).is_file()
    assert os.listdir(tmp_path) == ["home"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.onnx", "focalnets export"),
        ("m.keras", ".save('m.keras')"),
        ("m.h5", "model.weights.h5"),
        ("m.weights.h5", "model.weights.h5"),
        ("m.tflite", "does not write .tflite files"),
        ("m.pt", "convert focalnet_micro_cifar10 m.pth --to official"),
        ("m.pth", "convert focalnet_micro_cifar10 m.pth --to official"),
        ("m.pth.tar", "convert focalnet_micro_cifar10 m.pth --to official"),
        ("m.safetensors", "convert focalnet_micro_cifar10 m.safetensors --to official"),
        ("m.gguf", "does not write .gguf files"),
        ("m.pth.tar", "is the name of a .pth.tar file"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--to", "transformers"), ("--half",), ("--force",)])
def test_convert_refuses_names_of_files_it_cannot_write(name, words, more, tmp_path, monkeypatch, capsys):
    if more == ("--to", "transformers") and name in ("m.pth", "m.safetensors"):
        return  # these are written
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "focalnet_micro_cifar10", name, *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="writes a .pth file")
def test_cli_expands_home_directory_and_obeys_umask(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(write(tmp_path / "here", none=""))
    previous = os.umask(0o077)
    try:
        assert main(["convert", "focalnet_micro_cifar10", "~/preset"]) == 0
        assert main(["convert", "~/preset", "~/again"]) == 0
        model = FocalNetImageClassifier(FocalNetBackbone(embed_dim=8, depths=(1, 1)), num_classes=2)
        model.save_to_preset("~/model")
        assert main(["convert", "~/model", "~/mine.pth", "--to", "official"]) == 0
        assert main(["recipes", "copy", "digits", "~/recipes/mine.py"]) == 0
        assert main(["cache", "digits", "--grayscale", "--image-size", "8", "--out=~/cache"]) == 0
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "mine.pth").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "again" / "model.weights.h5").stat().st_mode) == 0o600
    assert load_recipe("~/recipes/mine.py").name == "digits"
    assert open_dataset("~/cache", channels=1).class_names == tuple("0123456789")
    write(tmp_path, **{"labels.txt": "a\nb"})
    assert read_labels("~/labels.txt", 2) == ("a", "b")
    image = str(pathlib.Path(__file__).parents[2] / "docs" / "cifar10" / "cat.jpg")
    capsys.readouterr()
    for engine in ("keras", "auto"):
        assert main(["predict", "~/preset", image, "--engine", engine, "--top", "1"]) == 0
        assert "cat" in capsys.readouterr().out
    assert os.listdir(tmp_path / "here") == ["none"]
