"""Texts, where they come from, and the windows cut from them."""

from types import SimpleNamespace

import datasets
import pytest
import torch

from rcpu import RcpuError, Text, Windows, calibration_windows, evaluation_windows, from_upload, load_text
from rcpu.text.windows import encode


def numbers(tokens: str, verbose: bool = False):
    """A tokenizer for texts of numbers: each is its own token."""
    return SimpleNamespace(input_ids=[int(word) for word in tokens.split()])


def counting(tokens: int) -> Text:
    """A text whose tokens are 0, 1, 2, …, so that a token tells its place."""
    text = " ".join(map(str, range(tokens)))
    return Text("counting", text, text, disjoint=False)


def test_embedded_parts_share_no_paragraph():
    text = load_text("embedded")
    calibration, evaluation = (
        [p.strip() for p in part.split("\n\n") if p.strip()] for part in (text.calibration, text.evaluation)
    )
    assert text.disjoint
    assert not set(calibration) & set(evaluation)
    assert len(set(calibration)) == len(calibration)
    assert len(text.calibration) > 200_000
    assert 0.1 < len(text.evaluation) / len(text.calibration) < 0.25
    assert load_text("embedded") == text


def test_a_text_is_told_by_its_content_and_windows_by_their_tokens():
    text = Text("a", "one two", "three", disjoint=True)
    assert len(text.digest) == 16
    assert Text("another name", "one two", "three", disjoint=True).digest == text.digest
    others = [
        Text("a", "one", " twothree", True),
        Text("a", "one two", "thre", True),
        Text("a", "three", "one two", True),
    ]
    assert len({text.digest, *(other.digest for other in others)}) == 4

    drawn = calibration_windows(counting(200), numbers, samples=4, window=8, held_out=2)
    same = calibration_windows(counting(200), numbers, samples=4, window=8, held_out=2)
    moved = calibration_windows(counting(200), numbers, samples=4, window=8, held_out=2, seed=1)
    fewer = Windows(drawn.calibration[:3], torch.cat([drawn.calibration[3:], drawn.held_out]), drawn.text)
    assert drawn.digest == same.digest
    assert len({drawn.digest, moved.digest, fewer.digest}) == 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("samples", "held_out", "window"), [(8, 4, 16), (1, 9, 5), (30, 1, 2), (5, 0, 7)])
def test_calibration_windows(samples, held_out, window, seed):
    tokens = (samples + held_out) * window + 13
    options = {"samples": samples, "held_out": held_out, "window": window, "seed": seed}
    found = calibration_windows(counting(tokens), numbers, **options)
    assert found.calibration.shape == (samples, window)
    assert found.held_out.shape == (held_out, window)
    assert found.calibration.dtype == found.held_out.dtype == torch.int64
    assert found.text == "counting"
    for part in (found.calibration, found.held_out):
        assert (part.diff(dim=1) == 1).all()  # an uncut stretch of the text
        assert ((part >= 0) & (part < tokens)).all()
    if held_out:
        assert found.calibration.max() < found.held_out.min()


def test_windows_depend_on_the_seed_alone():
    def draw(seed: int):
        found = calibration_windows(counting(500), numbers, samples=8, window=16, held_out=4, seed=seed)
        return torch.cat([found.calibration, found.held_out])

    state = torch.get_rng_state()
    first = draw(3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(1)
    assert draw(3).equal(first)
    assert not draw(4).equal(first)


def test_windows_reach_both_ends_of_the_text():
    found = calibration_windows(counting(812), numbers, samples=400, window=2, held_out=0)
    assert found.calibration.min() < 30
    assert found.calibration.max() > 780


def test_just_enough_text_is_enough():
    whole = calibration_windows(counting(16), numbers, samples=1, window=16, held_out=0)
    assert whole.calibration.tolist() == [list(range(16))]
    found = calibration_windows(counting(96), numbers, samples=4, window=16, held_out=2)
    assert found.calibration.max() < 64 <= found.held_out.min()
    with pytest.raises(
        RcpuError,
        match=r"counting has 95 tokens for calibration, but 4 windows and 2 held-out ones of 16 tokens need 96; "
        r"lower the samples to 3, or give a longer text",
    ):
        calibration_windows(counting(95), numbers, samples=4, window=16, held_out=2)
    with pytest.raises(RcpuError, match="take a shorter window, or give a longer text"):
        calibration_windows(counting(40), numbers, samples=4, window=16, held_out=2)


@pytest.mark.parametrize(("max_windows", "count"), [(None, 6), (3, 3), (100, 6)])
def test_evaluation_windows_are_the_text_in_order(max_windows, count):
    found = evaluation_windows(counting(100), numbers, window=16, max_windows=max_windows)
    assert found.tolist() == torch.arange(16 * count).view(count, 16).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 101}, "counting has 100 tokens for evaluation, a window needs 101"),
        ({"window": 1}, "a window needs at least 2 tokens, one to read and one to predict; got 1"),
        ({"window": 10, "max_windows": 0}, "need at least one window, got max_windows = 0"),
    ],
)
def test_bad_evaluation_windows_are_refused(options, message):
    with pytest.raises(RcpuError, match=message):
        evaluation_windows(counting(100), numbers, **options)


def test_encoding_keeps_every_byte(tokenizer):
    text = "ASCII, naïve, 雪, \t\n and 🙂"
    assert len(encode(text, tokenizer)) == len(text.encode())
    assert tokenizer.decode(encode(text, tokenizer)) == text


def test_a_file_is_both_parts(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve")  # with a byte-order mark
    assert load_text(str(path)) == Text("prose.txt", "naïve", "naïve", disjoint=False)
    assert from_upload("prose.txt", path.read_bytes()) == load_text(str(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: 0 bytes and no text in it"),
        (b" \n\t\n", "is empty: 4 bytes and no text in it"),
        (b"caf\xe9 noir", "is not UTF-8 text: byte 3 of 9 is 0xe9; save it as UTF-8 first"),
        ("text".encode("utf-16"), "is not UTF-8 text: byte 0 of 10 is 0xff"),
    ],
)
def test_files_without_text_are_refused(tmp_path, data, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(RcpuError, match=f"bad.txt {message}"):
        load_text(str(path))
    with pytest.raises(RcpuError, match=f"upload {message}"):
        from_upload("upload", data)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rcpu.text.texts.MAX_BYTES", 2**20)
    path = tmp_path / "large.txt"
    path.write_bytes(b"x" * (3 * 2**20))
    with pytest.raises(RcpuError, match="has 3 MiB, more than the 1 MiB that are read"):
        load_text(str(path))
    with pytest.raises(RcpuError, match="/dev/zero has more than the 1 MiB that are read"):
        load_text("/dev/zero")


@pytest.mark.parametrize(
    "name", ["no such text", "missing.txt", "/missing/file", "./missing/file.txt", "~no-such-user/file", "long" * 99]
)
def test_unknown_names_say_what_there_is(name):
    with pytest.raises(RcpuError, match=r"no text .*: give 'embedded', a UTF-8 file, 'wikitext2' or a hub data set"):
        load_text(name)


def test_a_folder_is_not_a_text(tmp_path):
    with pytest.raises(RcpuError, match="is a folder, expected a text file"):
        load_text(str(tmp_path))


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing:plain"])
def test_a_hub_data_set_without_network(name):
    with pytest.raises(RcpuError, match=r"cannot get the data set 'nobody/nothing' from the hub \(HF_HUB_OFFLINE") as e:
        load_text(name)
    assert "\n" not in str(e.value)
    assert "give 'embedded' or a UTF-8 file" in str(e.value)


class Hub:
    """Data sets as the library gives them: a split by name, an error for one that there is not, rows of all it has."""

    def __init__(self, column: str = "text", splits=("train", "test"), rows=("first", "", None, "second")):
        self.asked, self.splits, self.rows = [], splits, {column: list(rows)}

    def load_dataset(self, path, configuration, *, split, streaming=False):
        self.asked.append((path, configuration, split))
        if split not in self.splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(self.splits)}.')
        found = datasets.Dataset.from_dict(self.rows)
        return found.to_iterable_dataset() if streaming else found


@pytest.fixture
def hub(monkeypatch):
    def put(**options) -> Hub:
        made = Hub(**options)
        monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
        return made

    return put


def test_hub_lines_are_joined_as_the_papers_do(hub):
    made = hub()
    expected = Text("wikitext2", "first  second", "first\n\n\n\nsecond", disjoint=True)
    assert load_text("wikitext2") == expected
    load_text("owner/name:small"), load_text("owner/name")
    wikitext = ("Salesforce/wikitext", "wikitext-2-raw-v1")
    assert made.asked == [
        (*asked, split)
        for asked in (wikitext, ("owner/name", "small"), ("owner/name", None))
        for split in ("train", "test")
    ]


@pytest.mark.parametrize(("splits", "other"), [(("train", "validation"), "validation"), (("train",), None)])
def test_a_data_set_needs_only_the_split_that_is_used(hub, tokenizer, splits, other):
    made = hub(splits=splits, rows=["some text"] * 9)
    assert load_text("allenai/c4:en", part="calibration").calibration.startswith("some text some text")
    assert made.asked == [("allenai/c4", "en", "train")]
    whole = load_text("allenai/c4:en")
    calibration_windows(whole, tokenizer, samples=2, window=4, held_out=1)
    if other:
        assert made.asked[-1] == ("allenai/c4", "en", other)
        assert load_text("allenai/c4:en", part="evaluation").calibration == ""
        assert evaluation_windows(whole, tokenizer, window=4).shape[1] == 4
    else:
        with pytest.raises(
            RcpuError, match="allenai/c4:en has no part for evaluation, as a data set without such a sp"
        ):
            evaluation_windows(whole, tokenizer, window=4)
        with pytest.raises(
            RcpuError, match="has no split with text to take for evaluation: looked for test, validation"
        ):
            load_text("allenai/c4:en", part="evaluation")


def test_no_more_of_a_large_data_set_is_asked_for_than_is_read(hub, monkeypatch):
    monkeypatch.setattr("rcpu.text.texts.unreachable", lambda: "")
    monkeypatch.setattr("rcpu.text.texts.STREAMED", 30)
    hub(rows=["ten letters"] * 9)
    assert load_text("owner/large", part="calibration").calibration == " ".join(["ten letters"] * 3)


def test_hub_data_sets_have_a_field_for_their_text(hub):
    hub(column="sentence")
    with pytest.raises(
        RcpuError,
        match=r"owner/name has the columns sentence, but no column 'text': .* --text-field or as in owner/name#sen",
    ):
        load_text("owner/name")
    assert load_text("owner/name#sentence") == load_text("owner/name", "sentence")
    assert load_text("owner/name#sentence").name == "owner/name#sentence"
