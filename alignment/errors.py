"""The errors a user can meet. Each message is one paragraph that ends with what to do."""

from difflib import get_close_matches


class ConcordError(Exception):
    """A mistake that the user can mend. The command line prints the message and exits with code 2."""


class InputError(ConcordError):
    """A file or an option holds something that cannot be used."""


class ConfigError(ConcordError):
    """A configuration holds an unknown key or a value out of range."""


class StoreError(ConcordError):
    """The workspace's store cannot do what was asked."""


class NotAllowedError(ConcordError):
    """The caller may not do this: a labeler is paused, say."""


class ModelError(ConcordError):
    """A model folder, adapter or tokenizer cannot be used."""


class TrainingError(ConcordError):
    """Training cannot start or cannot go on."""


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` for the closest of `known`; an empty string where none is close."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
