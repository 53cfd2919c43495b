"""The output folder: nothing of the user's is lost, and only what fits is used again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from splatkit_ns.errors import SplatkitError
from splatkit_ns.poses.pictures import Picture
from splatkit_ns.poses.workspace import _locked, fingerprint_of, opened

PICTURES = [Picture("a/1.jpg", "a/1 .jpg", 10, 20, "Camera", (47.0, 8.0)), Picture("2.jpg", "2.jpg", 10, 20)]


def fill(output: Path, source: Path, fingerprint: str = "f", complete: bool = True) -> None:
    """As a run leaves it."""
    with opened(output, source, fingerprint, overwrite=False) as workspace:
        with workspace.new_images() as folder:
            for picture in PICTURES:
                (folder / picture.name).parent.mkdir(exist_ok=True)
                (folder / picture.name).write_text(picture.source)
        workspace.set_pictures(PICTURES)
        workspace.database.write_text("features")
        (workspace.models / "0").mkdir(parents=True)
    if complete:
        (output / "transforms.json").write_text("{}")


def test_an_unfinished_run_is_found_again(tmp_path: Path) -> None:
    fill(tmp_path / "out", tmp_path / "in", complete=False)
    with opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False) as workspace:
        assert workspace.pictures == PICTURES
        assert workspace.images == tmp_path / "out/images"
        assert workspace.database.exists()
        assert workspace.models.exists()
        (workspace.images / "2.jpg").unlink()
        assert workspace.pictures is None, "a picture is missing"


def test_other_pictures_need_overwrite_and_then_nothing_old_is_used(tmp_path: Path) -> None:
    output = tmp_path / "out"
    fill(output, tmp_path / "in", complete=False)
    (output / "images/mine.txt").write_text("of the user")
    with (
        pytest.raises(SplatkitError, match="unfinished run on other pictures"),
        opened(output, tmp_path / "in", "g", overwrite=False),
    ):
        pass
    with opened(output, tmp_path / "in", "g", overwrite=True) as workspace:
        assert workspace.pictures is None
        assert not workspace.database.exists()
        assert not workspace.models.exists()
        assert [path.name for path in (output / "images").iterdir()] == ["mine.txt"]
        with workspace.new_images() as folder:
            (folder / "new.jpg").write_text("new")
        assert workspace.images == output / "pictures", "images is the user's"


def test_a_finished_run_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", tmp_path / "in")
    with (
        pytest.raises(SplatkitError, match="holds poses already"),
        opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False),
    ):
        pass
    with opened(tmp_path / "out", tmp_path / "in", "f", overwrite=True) as workspace:
        assert workspace.pictures == PICTURES
        assert workspace.database.exists(), "features and matches are used again"
        assert not workspace.models.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_with_files_of_others_are_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    with (
        pytest.raises(SplatkitError, match=r"is not empty \(it holds thesis.tex\)"),
        opened(tmp_path / "out", tmp_path / "in", "f", overwrite=overwrite),
    ):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_the_photographs_may_be_in_the_output_folder(tmp_path: Path) -> None:
    source = tmp_path / "out/raw/photos"
    source.mkdir(parents=True)
    with opened(tmp_path / "out", source, "f", overwrite=False) as workspace:
        assert workspace.output.is_dir()
    with (
        pytest.raises(SplatkitError, match="is the folder of the photographs"),
        opened(source, source, "f", overwrite=False),
    ):
        pass


def test_files_and_damaged_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SplatkitError, match="is a file; name a folder"),
        opened(tmp_path / "file", tmp_path / "in", "f", overwrite=False),
    ):
        pass
    fill(tmp_path / "out", tmp_path / "in", complete=False)
    (tmp_path / "out/poses_work/state.json").write_text("{")
    with (
        pytest.raises(SplatkitError, match=r"state\.json cannot be read"),
        opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False),
    ):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False),
        pytest.raises(SplatkitError, match="Another splatkit poses is working"),
        opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False),
    ):
        pass
    with opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False):
        pass


def test_what_another_process_has_finished_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It worked there between the first look at the folder and the lock."""
    output, name = tmp_path / "out", "splatkit_ns.poses.workspace._locked"

    def late(work: Path) -> AbstractContextManager[None]:
        monkeypatch.setattr(name, _locked)
        fill(output, tmp_path / "in")
        return _locked(work)

    monkeypatch.setattr(name, late)
    with (
        pytest.raises(SplatkitError, match="holds poses already"),
        opened(output, tmp_path / "in", "f", overwrite=False),
    ):
        pass
    assert (output / "transforms.json").is_file()
    assert (output / "images/2.jpg").is_file()


def test_settings_of_a_stage(tmp_path: Path) -> None:
    with opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False) as workspace:
        assert not workspace.keep_if("features", ("perspective", 1600))
        assert workspace.keep_if("features", ("perspective", 1600))
        assert not workspace.keep_if("features", ("fisheye", 1600))
        workspace.save()
    with opened(tmp_path / "out", tmp_path / "in", "f", overwrite=False) as workspace:
        assert workspace.keep_if("features", ("fisheye", 1600))


def test_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("1")
    first = fingerprint_of([tmp_path / "a.jpg"], 200)
    assert fingerprint_of([tmp_path / "a.jpg"], 200) == first
    assert fingerprint_of([tmp_path / "a.jpg"], 100) != first
    (tmp_path / "a.jpg").write_text("12")
    assert fingerprint_of([tmp_path / "a.jpg"], 200) != first
