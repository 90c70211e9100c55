import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmem.data.encoding import Coder
from fedmem.errors import DataError


@pytest.mark.parametrize("text", ["</s>", "a <s> b", "</s></s>"])
def test_text_never_becomes_a_special_token(coder, tokenizer, text):
    ids = coder.encode(text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text
    assert coder.special_text(text) in {"<s>", "</s>"}


@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from([" B", "</s>", "a <s>"]))))
def test_many_texts_at_once_have_the_ids_of_each_alone(coder, texts):
    assert coder.encode_all(texts) == [coder.encode(text) for text in texts]


def test_many_texts_are_encoded_whole_whatever_the_tokenizer_did_before(coder, tokenizer):
    before = coder.fingerprint
    tokenizer(["a longer text", "b"], truncation=True, max_length=2)
    assert coder.encode_all(["a longer text", "</s>"]) == [
        coder.encode("a longer text"),
        coder.encode("</s>"),
    ]
    tokenizer(["a longer text", "b"], truncation=True, max_length=2)
    assert coder.fingerprint == before


def test_another_tokenizer_has_another_fingerprint(coder, tokenizer):
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer.__class__.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_tokens(["fever"])
    assert Coder(PreTrainedTokenizerFast(tokenizer_object=backend)).fingerprint != coder.fingerprint


class Slow:
    is_fast = False


def test_a_tokenizer_without_offsets_is_refused():
    with pytest.raises(DataError, match=r"a fast one is needed"):
        Coder(Slow())
