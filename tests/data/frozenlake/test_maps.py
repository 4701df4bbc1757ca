"""Published maps: which cells they mean, and what is said of those that mean none."""

import pytest

from latentum_jax.data.frozenlake.maps import load_maps, read_map

TITLED = """\
| | Col 1 | Col 2 | Col 3 |
| Row 1 | * | _ | _ |
| Row 2 | _ | # | @ |
| Row 3 | _ | _ | _ |
"""
BARE = "|*|_|_|\n|_|#|@|\n|_|_|_|"


@pytest.mark.parametrize(
    "text",
    [
        TITLED,
        BARE,
        "| 1 | 2 | 3 |\n|---|---|---|\n| * | _ | _ |\n| _ | # | @ |\n| _ | _ | _ |\n\n",
        "| | 1 | 2 | 3 |\n|:-|-|-|-|\n|a|*|_|_|\n|b|_|#|@|\n|c|_|_|_|",
        "GFF\nFHS\nFFF\n",
        "| G | F | F |\n| F | H | S |\n| F | F | F |",
    ],
)
def test_one_maze_in_every_form(text):
    """Titles would be taken for cells, or a form not be known (the maze written out by hand)."""
    assert read_map(text).grid == ("GFF", "FHS", "FFF")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there are no rows of cells"),
        ("This is a 3x3 map.", "there are no rows of cells"),
        ("|@|_|x|\n|_|_|_|\n|_|_|*|", "a cell is one of .*, got 'x'"),
        ("|@|_|_|\n|_|_|\n|_|_|*|", r"square, got 3 rows of widths \[3, 2, 3\]"),
        ("|@|_|_|\n|_|_|_|\n|_|_|_|", "exactly one goal G, got 0"),
        ("|@|#|_|\n|#|_|_|\n|_|_|*|", "cannot be reached"),
    ],
)
def test_what_is_no_map(text, reason):
    """A map with a hole in its table would be another maze."""
    with pytest.raises(ValueError, match=reason):
        read_map(text)


def test_a_published_folder(tmp_path):
    """Order would be that of names, 10 before 2; or one bad file end the whole benchmark."""
    files = {
        "level3/table/10.txt": BARE,
        "level3/table/2.txt": "|@|_|_|\n|_|_|_|\n|_|_|*|",
        "level3/pure_text/2.txt": "This is a 3x3 map.",
        "level4/table/0.txt": BARE,
        "level8_text/0.txt": "\n".join(["SFFFFFFG"] + ["FFFFFFFF"] * 7),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    mazes, unreadable = load_maps(tmp_path)
    assert [(maze.level, maze.grid[0]) for maze in mazes] == [
        (3, "SFF"),
        (3, "GFF"),
        (8, "SFFFFFFG"),
    ]
    assert list(unreadable) == ["level4/table/0.txt"]
    assert "level 4 is 4x4, got 3x3" in unreadable["level4/table/0.txt"]
    with pytest.raises(ValueError, match="level4 has no map that can be read; table/0.txt: .*4x4"):
        load_maps(tmp_path / "level4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are no text files in it"):
        load_maps(tmp_path / "empty")
