"""The pages of the zoo's methods, and the filters of its list."""

import re

import pytest

from mpisign import plugins
from mpisign.algorithms import listing, pages, zoo
from mpisign.algorithms.registry import entries
from mpisign.algorithms.signs import Sign
from mpisign.algorithms.zoo.known import MEDIAN, ONE_NODE
from tests.running import ROOT, mpisign

assert zoo

PAGES = ROOT / "mpisign/algorithms/methods"


def listed(*options):
    """The names that `mpisign algorithms` prints with these options."""
    ended = mpisign("algorithms", *options)
    assert ended.code == 0, ended.err
    return re.findall(r"^([a-z0-9-]+)  ", ended.out, re.MULTILINE)


def test_pages_are_what_the_command_writes(tmp_path):
    ended = mpisign("algorithms", "--pages", tmp_path / "methods", cwd=ROOT)
    assert ended.code == 0, ended.err
    written, kept = ({p.name: p.read_text() for p in folder.glob("*.md")} for folder in (tmp_path / "methods", PAGES))
    # links lead from where a page lies
    plain = [{k: re.sub(r"\(\S*/jobs/", "(jobs/", text) for k, text in texts.items()} for texts in (written, kept)]
    assert plain[0] == plain[1], f"mpisign algorithms --pages {PAGES.relative_to(ROOT)} writes them anew"
    assert sorted(kept) == sorted(f"{e.name}.md" for e in entries())


def test_links_of_pages_lead_somewhere():
    for path in PAGES.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
            assert (path.parent / link).is_file(), f"{path.name}: {link}"


def test_jobs_of_an_algorithm_are_found_in_sweeps_too(tmp_path):
    (tmp_path / "plain.toml").write_text('[algorithm]\nname = "lion"\n')
    (tmp_path / "sweep.toml").write_text('[sweep]\n"algorithm.name" = ["sgd", "adam"]\n')
    (tmp_path / "points.toml").write_text('[algorithm]\nname = "sgd"\n[[sweep.points]]\n"algorithm.name" = "ef21"\n')
    found = pages.jobs_by_algorithm(tmp_path)
    names = {name: sorted(path.stem for path in paths) for name, paths in found.items()}
    assert names == {"lion": ["plain"], "sgd": ["points", "sweep"], "adam": ["sweep"], "ef21": ["points"]}


def test_a_page_says_what_is_reconstructed():
    by_name = {entry.name: entry for entry in entries()}
    assert pages.how_sure(by_name["ssvr-mv"]) == "details of the rule are reconstructed, as told above"
    assert pages.how_sure(by_name["sgd"]).startswith("the rule is as its source states it")
    assert "departs from it as told above" in pages.how_sure(by_name["signsgd-free"])
    assert pages.how_sure(by_name["lion"]).endswith("; what is known was in part seen second-hand")


# by what docstrings say so, the least grave first
DOUBTS = {
    "departs": r"\bours\b|our own|departs|not built in|wire is not|while the code|where the papers?\b"
    r"|the paper (also|leaves|starts|takes|has two)|the paper's starts",
    "second-hand": r"secondary text|third[- ]party|second-hand|not known to us|was not found|said to be",
    "reconstructed": r"reconstructed|recalled|only the abstract",
}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_how_sure_a_rule_is_agrees_with_what_its_docstring_says(entry):
    said = [grade for grade, words in DOUBTS.items() if re.search(words, rule_of(entry), re.IGNORECASE)]
    grades = ["stated", *DOUBTS]
    assert entry.sure in grades, "how far the rule is its source's is to be declared"
    assert grades.index(entry.sure) >= max(map(grades.index, said), default=0), f"its docstring: {said}"
    if entry.sure in ("second-hand", "reconstructed"):  # a page says "as told above"
        assert entry.sure in said
    elif entry.sure == "departs":
        assert re.search(r"\bours?\b|paper|code|torch|dvr-sign", rule_of(entry)), "it does not tell from what"


def rule_of(entry):
    """The docstring as one line of text."""
    return " ".join(plugins.docstring(entry.make).split())


def test_what_is_known_of_medians_is_known_of_heterogeneous_data():
    of_medians = [e for e in entries() if MEDIAN in e.known or ONE_NODE in e.known]
    assert len(of_medians) > 20
    assert {e.name for e in of_medians if e.heterogeneous != "refuted"} == set()
    # the mean of plain signs goes to the median just as their majority does
    plain = [e for e in entries() if type(e.build().stages[-1].sign) is Sign]
    assert {e.name for e in plain if e.heterogeneous not in ("refuted", "proved")} == set()


def test_filters_take_what_they_say():
    for entry in entries():
        bits = listing.bits_per_step(entry.build())
        assert bits > 0
        assert listing.Filter(bits=bits)(entry)
        assert not listing.Filter(bits=min(bits, 99.0) * 0.99)(entry)
        assert listing.Filter(years=(entry.year, entry.year))(entry)
        assert not listing.Filter(years=(entry.year + 1, 9999))(entry)
        assert listing.Filter(offers=entry.build().needs)(entry)
        assert [k for k in listing.HETEROGENEOUS if listing.Filter(heterogeneous=k)(entry)] == [entry.heterogeneous]


def test_bits_are_all_that_a_rank_sends():
    bits = {entry.name: listing.bits_per_step(entry.build()) for entry in entries()}
    assert bits["signsgd-mv"] == 2 * 7 / 8  # a plane up, one down, less what a rank has itself
    assert bits["sgd"] == 64 * 7 / 8
    assert bits["ef21-muonusign"] == pytest.approx(33 * 7 / 8, rel=1e-4)  # signs and a scale up, floats down
    sparse = {entry.name: listing.formats(entry.build().stages[-1])[0].bits for entry in entries()}["topk"]
    assert bits["topk"] == pytest.approx(7 * sparse, rel=1e-3)  # to each of the others, as its verdict would be floats
    assert bits["powersgd"] == pytest.approx(64 * 7 / 8 * 2 * 2 / 1024)  # two factors of rank 2 each, no message
    assert bits["feedsign"] == 7 * 64 / 1024**2
    told = mpisign("algorithms", "--bits", 2).out
    assert "bits up 1, down 1, sent 1.75; " in told
    assert {float(sent) <= 2 for sent in re.findall(r"sent ([\d.e+-]+)", told)} == {True}


def test_filters_narrow_the_list_together():
    few = listed("--heterogeneous", "proved", "--bits", 2, "--since", 2024, "--offers", "two points")
    assert few == ["dvr-sign", "dvr-q"]
    assert "dvr-sign" not in listed("--offers", "none")
    assert {"feedsign", "compsgd-mv"} <= set(listed("--bits", 0.001))
    assert "fedlion" not in listed("--bits", 32)
    assert listed("--until", 1999) == ["rprop"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("lion", "--bits", 1), "--bits is about the whole zoo; leave out 'lion' or --bits"),
        (("--absent", "--since", 2020), "--since is about entries; leave out --absent or --since"),
        (("--bits", 0.001, "--until", 1999), "no entry passes all of these filters; leave one out, or widen it"),
        (("--offers", "magic"), "--offers magic: entries need none, or some of: "),
        (("--pages", "/dev/null/x"), "--pages /dev/null/x: Not a directory; give a folder that can be written"),
    ],
)
def test_what_fits_no_list_is_refused(options, message):
    refused = mpisign("algorithms", *options)
    assert refused.code == 2
    assert refused.err.startswith(f"mpisign: {message}")
