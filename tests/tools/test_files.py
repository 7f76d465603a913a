import gzip
import os
import tracemalloc

import pytest
import yaml

from length_gen.tools.files import gzip_lines, opened, read_bytes, read_json, read_yaml


def test_regular_files_alone_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", "/dev/tty"):
        with pytest.raises((ValueError, OSError), match=r"no regular file|No such"):
            read_bytes(path, 100)
    with pytest.raises(OSError, match="Is a directory"):
        read_bytes(tmp_path, 100)
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_bytes(tmp_path / "file", 100) == b"x" * 100
    with opened(tmp_path / "file", 100) as file:
        assert file.read(1) == b"x"


def test_no_more_is_read_than_may_be(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**40)
    for path, words in ((tmp_path / "file", "1,099,511,627,776 bytes, and at most 1,000"),
                        ("/proc/self/maps", "more than the 1,000 bytes")):  # whose size is 0
        with pytest.raises(ValueError, match=words):
            read_bytes(path, 1000)


def test_no_more_is_unpacked_than_may_be(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(b"ab\n" * 5))
    assert list(gzip_lines(path, 1000, 15, 3)) == ["ab\n"] * 5
    for sizes in ((10, 15, 3), (1000, 14, 3), (1000, 15, 2)):
        with pytest.raises(ValueError, match="bytes"):
            list(gzip_lines(path, *sizes))
    for content in (bytes(2**24), (b"a" * 4095 + b"\n") * 2**12):
        path.write_bytes(gzip.compress(content) * 20)
        tracemalloc.start()
        with pytest.raises(ValueError, match="unpacks to more than the 4,194,304 bytes, or the 65,536 in a line"):
            for _ in gzip_lines(path, 2**20, 2**22, 2**16):
                pass
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def test_no_yaml_stands_for_more_than_it_may(tmp_path):
    path = tmp_path / "file.yaml"
    lines = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12))
    for text, words in ((lines, "more than 100,000 values"), ("a: &a [1, *a]", "stands in itself"),
                        ("[" * 5000, "nested too deeply"), ("a: 'b", "found unexpected end"), ("\xff", "decode")):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=words):
            read_yaml(path)
    text = "a: &a {b: [1, 2.5, null]}\nc: *a\nd: {<<: *a, e: no}\n"
    path.write_text(text)
    assert read_yaml(path) == yaml.safe_load(text) == {
        "a": {"b": [1, 2.5, None]}, "c": {"b": [1, 2.5, None]}, "d": {"b": [1, 2.5, None], "e": False}}
    path.write_text("")
    assert read_yaml(path) is None


@pytest.mark.parametrize("text", ["[" * 10**5, "{", "1" * 5000, "\xff", ""])
def test_json_that_is_none_is_a_value_error(text, tmp_path):
    (tmp_path / "file.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError):
        read_json(tmp_path / "file.json")
