"""Whatever lies in a folder of submissions: taken, or told in one clear line; never a crash."""

import io
import os
import random
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from grader import shelves
from grader.catalogue import find
from grader.cli import main
from grader.intake import Student, take_in_class
from grader.manifest import MANIFEST, exercise_version, sha256
from grader.starters import starter
from grader.state import State
from grader.submit import make_archive
from tests.grader.hostile import NO_FILES

EXERCISE = find("medium/ex02")
EXERCISES = [EXERCISE, find("medium/lab")]
HOME = "medium/ex02_rate_limit_per_session"
INSIDE = f"exercises/{HOME}/rate_limit.py"
SECOND_DOWNLOAD = f"exercises/{HOME}/rate_limit (1).py"
CODE = b"answer = 1\n"


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def only(folder: Path) -> Student:
    (student,) = take_in_class(folder, EXERCISES).students
    return student


def taken(student: Student) -> dict[str, dict[str, bytes]]:
    return {answer.exercise.short: answer.intake.files for answer in student.answers}


# --- what is taken


@pytest.mark.parametrize(
    "path",
    [
        INSIDE,
        f"{HOME}/rate_limit.py",
        f"course-main/{INSIDE}",
        f"./{INSIDE}",
        "exercises/medium/ex02/rate_limit.py",
        "Exercises/Medium/EX02_rate_limit/rate_limit.py",
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tgz", "zip in folder"])
def test_found_wherever_it_lies(tmp_path: Path, kind: str, path: str) -> None:
    """A folder or an archive, with `exercises` or without, in a folder of its own or not."""
    files = {path: CODE, "README.md": b"mine"}
    if kind == "folder":
        tree(tmp_path / "alice", files)
    elif kind == "zip":
        zipped(tmp_path / "alice.zip", files)
    elif kind == "zip in folder":
        (tmp_path / "alice").mkdir()
        zipped(tmp_path / "alice/upload.zip", files)
    else:
        tarred(tmp_path / f"alice.{kind}", files)
    student = only(tmp_path)
    assert student.name == "alice"
    assert taken(student) == {"medium/ex02": {"rate_limit.py": CODE}}


def test_written_on_windows(tmp_path: Path) -> None:
    """Some tools put their own separators into a zip."""
    zipped(tmp_path / "alice.zip", {"x": b""})
    with zipfile.ZipFile(tmp_path / "alice.zip", "w") as archive:
        entry = zipfile.ZipInfo(INSIDE)
        entry.filename = INSIDE.replace("/", "\\")
        archive.writestr(entry, CODE)
    assert taken(only(tmp_path)) == {"medium/ex02": {"rate_limit.py": CODE}}


def test_the_whole_course_may_come(tmp_path: Path) -> None:
    """Of a whole tree the exercises count, and not what lies deeper and is called like them."""
    other = {f"{top}/{HOME}/rate_limit.py": b"other" for top in ("solutions", "tests/exercises")}
    tree(tmp_path / "alice", {INSIDE: CODE, **other, "exercises/.venv/x.py": b""})
    assert taken(only(tmp_path)) == {"medium/ex02": {"rate_limit.py": CODE}}
    assert lines(only(tmp_path)) == []


def test_one_tree_is_one_student(tmp_path: Path) -> None:
    """A folder that is itself somebody's tree is not a folder of students."""
    tree(tmp_path / "alice", {INSIDE: CODE})
    assert only(tmp_path / "alice").name == "alice"


# --- what is told


def lines(student: Student) -> list[str]:
    of_answers = [
        line
        for answer in student.answers
        for line in (answer.problem, *answer.notes, *answer.flags, *answer.intake.tampered)
    ]
    return [line for line in (student.problem, *student.notes, *of_answers) if line]


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "holds no file"),
        ({"notes.txt": b"hello"}, "holds none of the exercises' folders"),
        ({"rate_limit (1).py": CODE}, "has rate_limit (1).py where it belongs to no exercise"),
        ({"rate_limit.py": CODE}, "belongs to no exercise"),
        ({INSIDE + ".txt": CODE}, "rate_limit.py.txt was ignored, and rate_limit.py is missing"),
        ({SECOND_DOWNLOAD: CODE}, "rate_limit (1).py was ignored, and rate_limit.py is missing"),
        ({INSIDE.upper().replace("EXERCISES", "exercises"): CODE}, "RATE_LIMIT.PY was ignored"),
        ({INSIDE: b""}, "rate_limit.py is empty"),
        ({INSIDE: "é".encode("latin-1")}, "is not UTF-8, from byte 0 on"),
        ({INSIDE: "x".encode("utf-16")}, "is UTF-16"),
        ({INSIDE: b"x" * 300_000}, "is larger than 256 KiB"),
        ({INSIDE: CODE, f"exercises/{HOME}/mine.py": b""}, "mine.py may not be added, so it was"),
        (
            {INSIDE: CODE, f"exercises/{HOME}/a.py": b"", f"exercises/{HOME}/b.py": b""},
            "a.py, b.py may not be added, so they were",
        ),
        ({INSIDE: CODE, f"exercises/{HOME}/app.py": b""}, "app.py differs from the course's"),
        ({INSIDE: CODE, "exercises/medium/ex02/rate_limit.py": b""}, "which differ; keep one"),
        ({INSIDE: CODE, "exercises/medium/ex02/rate_limit.py": CODE}, "hold the same"),
        ({INSIDE: CODE, f"{HOME}/rate_limit.py": b""}, "which differ; keep one"),
        ({INSIDE: CODE, f"{HOME}/rate_limit.py": CODE}, "hold the same"),
        ({INSIDE: CODE, f"old/{INSIDE}": b""}, "holds another answer, which was left out"),
        ({INSIDE: CODE, MANIFEST: b"[" * 100_000}, "is not what make submit writes"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_what_is_odd_has_its_line(
    tmp_path: Path, kind: str, files: dict[str, bytes], line: str
) -> None:
    """Empty, renamed, misplaced, added, changed, oddly encoded, too large, twice."""
    (tmp_path / "alice").mkdir()
    path = tmp_path / "alice"
    if kind == "folder":
        tree(path, files)
    else:
        path.rmdir()
        (zipped if kind == "zip" else tarred)(tmp_path / f"alice.{kind}", files)
    told = lines(only(tmp_path))
    assert [each for each in told if line in each], told


def test_twice_and_one_is_broken(tmp_path: Path) -> None:
    """It is told which: the other may be what is meant, and a person has to look."""
    tree(tmp_path / "alice", {INSIDE: CODE})
    (tmp_path / "alice.zip").write_bytes(b"")
    alice = only(tmp_path)
    assert alice.without_answers == "not_graded"
    assert alice.problem.startswith("handed in alice and alice.zip, of which alice.zip is empty")


def test_twice_and_both_lost(tmp_path: Path) -> None:
    """Two that hold the same are one, and what is wrong with it is still told."""
    tree(tmp_path / "alice", {"rate_limit.py": CODE})
    zipped(tmp_path / "alice.zip", {"rate_limit.py": CODE})
    assert "belongs to no exercise" in only(tmp_path).problem


def test_a_misnamed_file_is_told_once(tmp_path: Path) -> None:
    """What was ignored is not also told as something that was added."""
    tree(tmp_path / "alice", {SECOND_DOWNLOAD: CODE})
    assert len(lines(only(tmp_path))) == 1


def test_what_no_answer_means(tmp_path: Path) -> None:
    """Nothing came, nobody could read it, or a person has to look: three things."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    tree(tmp_path / "lost", {"rate_limit.py": CODE})
    zipped(tmp_path / "twice.zip", {INSIDE: CODE})
    tree(tmp_path / "twice", {INSIDE: b"other"})
    students = take_in_class(tmp_path, EXERCISES).students
    assert {student.name: student.without_answers for student in students} == {
        "broken": "unreadable",
        "empty": "not_handed_in",
        "lost": "not_graded",
        "twice": "not_graded",
    }


@contextmanager
def as_somebody() -> Iterator[None]:
    """Root may read everything."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


@pytest.mark.parametrize(
    ("locked", "state", "line"),
    [
        ("alice.zip", "unreadable", "cannot be read as an archive (Permission denied)"),
        ("alice", "unreadable", "cannot be read (Permission denied)"),
        ("alice/exercises", "unreadable", "cannot be read (exercises: Permission denied)"),
        (f"alice/{INSIDE}", "", "rate_limit.py cannot be read (Permission denied)"),
    ],
)
def test_what_may_not_be_opened(locked: str, state: str, line: str) -> None:
    """Nobody's fault but the folder's: never 0 points, and no path of this machine in the line."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        if locked.endswith(".zip"):
            zipped(root / locked, {INSIDE: CODE})
        else:
            tree(root / "alice", {INSIDE: CODE})
        (root / locked).chmod(0)
        with as_somebody():
            (student,) = take_in_class(root, EXERCISES).students
        (root / locked).chmod(0o700)
    if state:
        assert (student.without_answers, student.problem) == (state, line)
    else:
        assert student.answers[0].problem == line


def test_a_file_is_no_exercise(tmp_path: Path) -> None:
    """A report of an earlier run that is called as an exercise, say."""
    tree(tmp_path / "alice", {f"records/{HOME}.json": b"{}"})
    assert only(tmp_path).without_answers == "not_graded"


def test_twice_under_one_name(tmp_path: Path) -> None:
    """The same twice is the same; two different ones are for a person to choose from."""
    tree(tmp_path / "alice", {INSIDE: CODE})
    zipped(tmp_path / "alice.zip", {INSIDE: CODE})
    assert taken(only(tmp_path)) == {"medium/ex02": {"rate_limit.py": CODE}}
    assert "hold the same" in lines(only(tmp_path))[0]
    zipped(tmp_path / "alice.zip", {INSIDE: b"other"})
    assert only(tmp_path).problem == "handed in alice and alice.zip, which differ; keep one of them"


def test_names_that_differ_in_case(tmp_path: Path) -> None:
    """They may be one student who handed in twice: that is told, and both are graded."""
    tree(tmp_path, {f"alice/{INSIDE}": CODE, f"Alice/{INSIDE}": b"other", f"bob/{INSIDE}": CODE})
    found = take_in_class(tmp_path, EXERCISES)
    assert len(found.students) == 3
    assert found.left_alone == ["Alice and alice differ in case alone, and count as 2 students"]


def test_archives_in_archives(tmp_path: Path) -> None:
    """One in a folder is opened; of two, or in another, it is told which there are, and why not."""
    zipped(tmp_path / "inner.zip", {INSIDE: CODE})
    inner = (tmp_path / "inner.zip").read_bytes()
    tree(tmp_path / "class/alice", {"a.zip": inner, "b.zip": inner})
    zipped(tmp_path / "class/bob.zip", {"c.zip": inner})
    alice, bob = take_in_class(tmp_path / "class", EXERCISES).students
    assert "holds a.zip, b.zip and no exercise's folder; one alone" in alice.problem
    assert "holds c.zip and no exercise's folder; archives in archives" in bob.problem


def test_an_archive_of_nothing(tmp_path: Path) -> None:
    """It can be read: there is nothing in it, as in an empty folder."""
    zipped(tmp_path / "alice.zip", {})
    alice = only(tmp_path)
    assert (alice.problem, alice.without_answers) == ("holds no file", "not_handed_in")


def test_what_is_nobodys(tmp_path: Path) -> None:
    """Other files and links are left alone, and named."""
    tree(tmp_path, {"notes.txt": b"", "alice/x": b"", ".DS_Store": b"", "handed_in.csv": b""})
    tree(tmp_path, {"reports/index.html": b"", ".git/x": b"", ".carol/x": b""})
    (tmp_path / "bob").symlink_to(tmp_path / "alice")
    found = take_in_class(tmp_path, EXERCISES, tmp_path / "reports")
    assert [student.name for student in found.students] == ["alice"]
    assert sorted(found.left_alone) == [
        ".carol begins with a dot, so it was not looked at",
        "bob is a link, and links are not followed",
        "notes.txt is neither a folder nor an archive",
    ]


@pytest.mark.parametrize("kind", NO_FILES)
def test_no_files_in_folders(tmp_path: Path, kind: str) -> None:
    """Links, pipes and devices in a student's folder are tampering, and nothing waits for them."""
    path = tree(tmp_path / "alice", {f"exercises/{HOME}/x": b""}) / INSIDE
    NO_FILES[kind](path)
    (answer,) = only(tmp_path).answers
    assert answer.intake.files == {}
    assert len(answer.intake.tampered + answer.intake.missing) == 1


def test_a_link_to_somebody_else(tmp_path: Path) -> None:
    """A folder that leads to another student's is not followed."""
    tree(tmp_path / "bob", {INSIDE: CODE})
    (tmp_path / "alice/exercises/medium").mkdir(parents=True)
    (tmp_path / f"alice/exercises/{HOME}").symlink_to(tmp_path / f"bob/exercises/{HOME}")
    alice = take_in_class(tmp_path, EXERCISES).students[0]
    assert lines(alice)[-1] == "rate_limit.py is not an ordinary file"
    assert alice.answers[0].intake.files == {}


# --- archives that want harm


def with_link(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(INSIDE)
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(member)


def zip_with_link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(INSIDE)
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/shadow")


def twice_the_same_name(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(INSIDE, CODE)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(INSIDE, b"other")


def encrypted(path: Path) -> None:
    zipped(path, {INSIDE: CODE})
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1
    path.write_bytes(data)


def bomb(path: Path) -> None:
    zipped(path, {INSIDE: CODE, "zeros": bytes(50_000_000)})


def tar_bomb(path: Path) -> None:
    tarred(path, {INSIDE: CODE, "zeros": bytes(50_000_000)})


def many_files(path: Path) -> None:
    zipped(path, {f"f{number}": b"" for number in range(shelves.MAX_ENTRIES + 1)})


def says_less_than_it_holds(path: Path) -> None:
    zipped(path, {INSIDE: bytes(1_000_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))


def packed_with_lzma(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(INSIDE, CODE)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(shelves.MAX_ARCHIVE + 1)


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        ("a.tar.gz", with_link, "is not an ordinary file"),
        ("a.zip", zip_with_link, "is not an ordinary file"),
        ("a.zip", twice_the_same_name, "is in the archive 2 times"),
        ("a.zip", encrypted, "is encrypted"),
        ("a.zip", bomb, "times its size"),
        ("a.tgz", tar_bomb, "times its size"),
        ("a.zip", many_files, "holds more than"),
        ("a.zip", says_less_than_it_holds, "is damaged"),
        ("a.zip", packed_with_lzma, "packed in a way"),
        ("a.zip", huge, "is larger than 64 MiB"),
        ("a.zip", lambda path: path.write_bytes(b""), "is empty"),
        ("a.zip", lambda path: path.write_bytes(b"PK\x03\x04 no"), "cannot be read as an archive"),
        ("a.tar", lambda path: path.write_bytes(b"no" * 600), "cannot be read as an archive"),
        ("a.rar", lambda path: path.write_bytes(b"Rar!"), "none of the kinds that are taken"),
        ("a.zip", lambda path: zipped(path, {"../../etc/cron.d/x": b"x"}), "leads out of itself"),
        ("a.tgz", lambda path: tarred(path, {"/etc/cron.d/x": b"x"}), "leads out of itself"),
        ("a.zip", lambda path: zipped(path, {"..\\..\\x": b"x"}), "leads out of itself"),
        ("a.zip", os.mkfifo, "is neither a folder nor an archive"),
    ],
)
def test_hostile_archives(
    tmp_path: Path, name: str, make: Callable[[Path], object], line: str
) -> None:
    """Bombs, links, ways out, lies about sizes: refused in one line, and nothing is written."""
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    found = take_in_class(tmp_path, EXERCISES)
    told = [*found.left_alone, *(line for student in found.students for line in lines(student))]
    assert [each for each in told if line in each], told
    assert not any(answer.intake.files for student in found.students for answer in student.answers)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    """Whatever bytes are turned around, there is an answer or a line."""
    rng = random.Random(1)
    path = tmp_path / f"alice.{kind}"
    (zipped if kind == "zip" else tarred)(path, {INSIDE: CODE * 50, MANIFEST: b"{}"})
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(1, len(data))])])
        only(tmp_path)


def test_names_that_nobody_can_read(tmp_path: Path) -> None:
    """A name that is no UTF-8 is somebody's name all the same."""
    tree(tmp_path / os.fsdecode(b"caf\xe9\x1b[2J"), {INSIDE: CODE})
    assert taken(only(tmp_path)) == {"medium/ex02": {"rate_limit.py": CODE}}


# --- make submit


def test_submit_packs_what_may_change(tmp_path: Path) -> None:
    """The declared files, and a manifest with hashes, versions and hints; the same bytes twice."""
    (tmp_path / "root").mkdir()
    state = State(tmp_path / "root")
    state.update(EXERCISE.id, hints=2)
    make_archive(tmp_path / "alice.zip", EXERCISES, state)
    with zipfile.ZipFile(tmp_path / "alice.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            [
                MANIFEST,
                INSIDE,
                *(f"exercises/medium/lab/{file.path}" for file in EXERCISES[1].files),
            ]
        )
    first = (tmp_path / "alice.zip").read_bytes()
    make_archive(tmp_path / "alice.zip", EXERCISES, state)
    assert (tmp_path / "alice.zip").read_bytes() == first

    (tmp_path / "class").mkdir()
    (tmp_path / "alice.zip").rename(tmp_path / "class/alice.zip")
    student = only(tmp_path / "class")
    assert lines(student) == []
    assert student.manifest is not None
    packed = student.manifest.exercises[EXERCISE.id]
    assert (packed.hints, packed.version) == (2, exercise_version(EXERCISE))
    assert packed.files == {
        "rate_limit.py": sha256((EXERCISE.folder / "rate_limit.py").read_bytes())
    }


def test_submit_says_what_is_still_the_starter(tmp_path: Path) -> None:
    """Somebody's work is told with its hints, an untouched starter as what it is."""
    root = tmp_path / "course"
    shutil.copytree(EXERCISE.folder, root / EXERCISE.home)
    (root / EXERCISE.home / "rate_limit.py").write_bytes(starter(EXERCISE)["rate_limit.py"])
    state = State(tmp_path)
    state.update(EXERCISE.id, hints=2)
    mine = find("medium/ex02", root)
    [told] = make_archive(tmp_path / "alice.zip", [mine], state)
    assert told == "medium/ex02: rate_limit.py: still the starter, which earns nothing"
    (root / EXERCISE.home / "rate_limit.py").write_bytes(CODE)
    [told] = make_archive(tmp_path / "alice.zip", [mine], state)
    assert told == "medium/ex02: rate_limit.py; 2 hints taken"


def test_the_archives_name_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without NAME= it is submission.zip, and that is said; with NAME= it is that."""
    main(["submit", "medium/ex02", "--out", str(tmp_path)])
    assert "called submission, since nobody said NAME=" in capsys.readouterr().out
    main(["submit", "medium/ex02", "--out", str(tmp_path), "--name", "alice"])
    assert "NAME=" not in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"submission.zip", "alice.zip"}


def test_changed_after_it_was_packed(tmp_path: Path) -> None:
    """Files that are not those of the manifest, or of another version, are pointed out."""
    make_archive(tmp_path / "alice.zip", [EXERCISE], State(tmp_path))
    with zipfile.ZipFile(tmp_path / "alice.zip") as archive:
        manifest = archive.read(MANIFEST)
    version = exercise_version(EXERCISE).encode()
    tree(tmp_path / "bob", {INSIDE: CODE, MANIFEST: manifest.replace(version, b"0" * 64)})
    (tmp_path / "alice.zip").unlink()
    assert lines(only(tmp_path)) == [
        "was made with another version of the exercise",
        "rate_limit.py was changed after it was packed",
    ]
