from mambalab.cli.verbs import OTHER_WORDS, VERBS
from mambalab.config.overrides import known
from mambalab.config.synonyms import _MEANT, _NAMES, meant

KNOWN = known("train")
KEYS = [*KNOWN.options, *KNOWN.groups]


def test_what_is_meant_exists_and_no_word_is_a_key_or_means_two_things():
    assert not [key for key in _NAMES if key not in KEYS]
    words = [word for text in _NAMES.values() for word in text.split()]
    assert len(words) == len(_MEANT)
    leaves = {key.rpartition(".")[2] for key in KEYS}
    assert not set(words) & (leaves | set(KEYS))


def test_a_verb_without_the_key_hears_nothing_of_it():
    assert meant("learning-rate", KEYS) == "optim.lr"
    assert meant("learning_rate", ["split"]) is None


def test_other_words_are_no_verbs_and_mean_some():
    assert not set(OTHER_WORDS) & set(VERBS)
    assert {words.split()[0] for words in OTHER_WORDS.values()} <= set(VERBS)
